"""The documentation says what the program does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]


def test_options_page_is_current():
    page = runpy.run_path(str(ROOT / "scripts" / "write_options.py"))["text"]()
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    words = (ROOT / page).read_text(encoding="utf-8").split()
    assert not [word for word in words if re.fullmatch(r"[A-Z]*TABLE|TODO|TBD", word.strip("*_.,:"))]


@pytest.mark.parametrize("page", PAGES)
def test_named_functions_exist(page):
    """`module.function` of the package, wherever a page names one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for module, name in re.findall(r"`(\w+)\.(\w+)`", text):
        for room in ("model", "draws"):
            path = ROOT / "byolsim" / room / f"{module}.py"
            if path.is_file():
                source = path.read_text(encoding="utf-8")
                assert re.search(rf"^(def|class) {name}\b|^{name} =", source, re.MULTILINE), f"{module}.{name}"
