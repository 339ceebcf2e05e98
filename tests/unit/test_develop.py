"""The pages on extending the program show diffs that apply to this tree, and whose tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEVELOP = ROOT / "docs" / "develop"
PARTS = ("byolsim", "tests", "docs", "scripts", "pyproject.toml")
LONG = {"rule"}
"""Diffs that change a kernel: it is compiled anew, which takes more than 20 seconds."""

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git")
DIFFS = [
    pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else [], id=path.stem)
    for path in sorted(DEVELOP.glob("*.diff"))
]


def test_every_page_shows_its_diff():
    pages = {page.stem for page in DEVELOP.glob("*.md")}
    assert pages == {"rule", "sampler", "metric", "figure", "executor"}
    for page in pages:
        assert f'"{page}.diff"' in (DEVELOP / f"{page}.md").read_text(encoding="utf-8")
        assert (DEVELOP / f"{page}.diff").is_file()


def applied(diff: Path, folder: Path) -> Path:
    """A copy of the tree with the diff in it: away from any repository, where git would look for the index."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(["git", "apply", str(diff)], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@needs_git
@pytest.mark.parametrize("diff", sorted(DEVELOP.glob("*.diff")), ids=lambda diff: diff.stem)
def test_a_diff_applies(diff, tmp_path):
    applied(diff, tmp_path)


@needs_git
@pytest.mark.parametrize("diff", DIFFS)
def test_the_tests_in_a_diff_pass(diff, tmp_path):
    """Those that it adds, by the names of its new functions, on the tree that it makes."""
    text = diff.read_text(encoding="utf-8")
    files = re.findall(r"^\+\+\+ b/(tests/\S+/test_\w+\.py)$", text, re.MULTILINE)
    names = re.findall(r"^\+def (test_\w+)", text, re.MULTILINE)
    assert files and names
    tree = applied(diff, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " or ".join(names), *files],
        cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"(\d+) passed", done.stdout)
