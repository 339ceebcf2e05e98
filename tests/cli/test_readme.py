"""What README tells a reader to type works as it says."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from cases import byolsim, problem

from byolsim.model.metrics import order_metrics
from byolsim.model.order import OrderParameters, inside_outside

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def _script():
    spec = spec_from_file_location("check_readme", ROOT / "scripts" / "check_readme.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _script()


@pytest.fixture(autouse=True)
def _our_own_package(monkeypatch):
    """The commands run in a folder of their own: they must find the package of this checkout all the same."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))


def test_every_command_and_block_works_and_the_readers_agree(tmp_path):
    results = script.check(TEXT, tmp_path)
    assert not [f"{result.what}: {result.problem}" for result in results if result.problem]
    assert sum(not result.left_out for result in results) > 25
    assert {result.left_out for result in results} <= {
        "",
        "needs torch",
        "needs pandas",
        "needs polars",
        "needs duckdb",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.py", "figs", "runs.parquet", "runs_parquet"]


def test_the_tutorial_works_and_prints_what_it_shows(tmp_path):
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    if find_spec("pandas") is None:  # that block alone is left out, and with it what it prints
        page = re.sub(r"```python\nimport pandas.*?```\n```text.*?```\n", "", page, flags=re.DOTALL)
    results = script.check(page, tmp_path)
    assert not [f"{result.what}: {result.problem}" for result in results if result.problem]
    assert len(script.shown(page)) >= 4


def test_every_method_runs_as_its_page_says(tmp_path):
    """Fifty steps of the plain backend, each in one process with the others: whether the command is one."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    commands = [command for block in script.blocks(page, "sh") for command in script.commands(f"```sh\n{block}```\n")]
    assert len(commands) == len({command.text for command in commands}) == 15
    short = f"--backend numpy --epochs 50 --log_every 50 --warmup 20 --out_dir {tmp_path}"
    for command in commands:
        words = shlex.split(command.text)[1:]  # not the script's: BBT is no placeholder
        more = short if "--warmup" in words else short.replace("--warmup 20 ", "")
        code, out, err = byolsim(*words, *shlex.split(more))
        assert code == 0 and "completed: 50 epochs" in out, f"{command.text}: {err}"
    assert len(list(tmp_path.glob("*.parquet"))) == len(commands), "each is a run of its own"
    assert script.unknown_options(page) == []


def test_what_is_typed_is_what_is_written():
    texts = [command.text for command in script.commands(TEXT)]
    for line in ("byolsim all", "byolsim run", "byolsim ls", "byolsim sweep", "byolsim COMMAND --help"):
        assert line in texts
    assert len(texts) == len(set(texts)) > 20
    assert len(script.blocks(TEXT, "python")) == 5
    assert (
        sum("--dry_run" in command.words and "--dry_run" not in command.text for command in script.commands(TEXT)) <= 3
    )


def test_a_false_page_is_noticed(tmp_path):
    """The checker can fail: on an option, a value, a block, and on tables that differ."""
    page = "`byolsim run --sed 3`, `--wherever`\n```sh\nbyolsim ls && byolsim run --init zeros --dry_run\n```\n"
    page += "```python\n1 / 0\n```\n```python\nprint(0.5, 'words')\n```\n```text\n0.53 words\n```\n"
    for value in (1.0, 1.0 + 1e-9):
        page += f'```python\nimport pyarrow as pa\npa.table({{"a": [1, 2], "x": [0.5, {value!r}]}})\n```\n'
    problems = {result.what: result.problem for result in script.check(page, tmp_path)}
    assert {what for what, problem in problems.items() if problem} == {
        "--sed", "--wherever", "byolsim run --sed 3", "byolsim ls", "byolsim run --init zeros --dry_run", "1 / 0",
        "tables", "print(0.5, 'words')",
    }  # fmt: skip
    assert "must be one of zero_pred" in problems["byolsim run --init zeros --dry_run"]


def test_averages_are_taken_over_one_sweep():
    """Every reader of the folder chooses a mode before it averages: folders hold several, and single runs."""
    blocks = [code for code in script.blocks(TEXT, "python") if "loss_pop" in code]
    assert len(blocks) == 4
    for code in blocks:
        assert re.search(r"lr_enc_mode\W+(==|=)\W+auto", code), code


def test_the_windows_script_is_said_to_install_only_where_it_is_told_to():
    (paragraph,) = [part for part in TEXT.split("\n\n") if "run_conda_windows.bat" in part]
    assert "`set INSTALL_REQS=1`" in paragraph


def test_the_aligned_error_cannot_see_a_rotation():
    """As README and the pages say: P = -P* is perfect by `W_Fro_aligned` and not by `W_Fro_raw`."""
    state = problem(r=4, d=9)
    world = state.world
    Sigma_s = world.A @ np.diag(world.lam) @ world.A.T
    C_oo = state.B_o @ (Sigma_s + world.sigma**2 * np.eye(9)) @ state.B_o.T
    P_star = state.B_t @ Sigma_s @ state.B_o.T @ np.linalg.inv(C_oo)
    (b_o, L_o), (b_t, L_t) = (inside_outside(B, world.Q) for B in (state.B_o, state.B_t))
    matrices = [M[None, None] for M in (-P_star, b_o, L_o, b_t, L_t)]
    columns = order_metrics(OrderParameters(*matrices, np.ones((1, 1))), world)
    assert columns["W_Fro_aligned"] < -14
    assert columns["W_Fro_raw"] == pytest.approx(np.log10(2 * np.linalg.norm(P_star)), abs=1e-9)
    for page in ("README.md", "docs/options.md", "docs/conventions.md"):
        assert re.search(
            r"`W_Fro_aligned`.*cannot\s+see\s+a\s+rotation|It cannot see a\s+rotation", (ROOT / page).read_text()
        )
    assert "W_Fro_raw" in TEXT[: TEXT.index("## The model")], "the picture shows the honest error"


@pytest.mark.parametrize("page", ["README.md", "docs/derivation.md"])
def test_the_balance_law_is_not_claimed_for_noisy_steps(page):
    """Sampling noise erodes the balance, so what follows from it is said of the flow."""
    text = (ROOT / page).read_text(encoding="utf-8")
    sentences = re.split(r"(?<=[.:])\s", text)
    for sentence in sentences:
        if "set by the start" in sentence:
            assert "in the" in sentence and "flow" in sentence and "noise" in sentence
    if page == "README.md":
        (claim,) = [sentence for sentence in sentences if "full rank" in sentence and "zero_pred" in sentence]
        claim += sentences[sentences.index(claim) + 1]
        assert "in the gradient flow only" in claim


def test_programs_that_are_named_exist():
    for program in re.findall(r"`python ((?:benchmarks|scripts)/\S+?\.py)", TEXT):
        if program != "scripts/run_sweep.py":  # of the older scripts
            assert (ROOT / program).is_file(), program
