"""Arbitrary `--run_name` and `--config`: nothing leaves `out_dir`, and what is refused is one line with exit code 2.

Hypothesis draws the same examples on every machine (derandomised), so there are no false alarms.
"""

from __future__ import annotations

import string
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from cases import byolsim
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from byolsim import load_runs
from byolsim.cli.options import fields_by_option
from byolsim.config.commands import ExportConfig, FigsConfig, LsConfig, RunOutput, SweepOutput
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.store.names import run_path

TINY = ["--d_latent", "1", "--d_obs", "1", "--latent_spectrum", "flat:1", "--epochs", "1", "--batch_size", "1"]
MODELS: dict[str, tuple[Any, ...]] = {
    "run": (RunConfig, RunOutput),
    "sweep": (SweepConfig, SweepOutput),
    "figs": (FigsConfig,),
    "ls": (LsConfig,),
    "export": (ExportConfig,),
}


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )


RESERVED = ["con", "NUL", "aux.parquet", "PRN.x", "com1", "Lpt9.txt", "COM¹", "CONIN$", "conout$.x"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def refused_in_one_line(out: str, err: str) -> bool:
    return out == "" and err.startswith("byolsim: ") and len(err.splitlines()) == 1 and len(err) < 2000


def tree(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


TEXTS = ["..", ".", "/", "\\", "\0", "\n", "\r", "\t", " ", "C:", "_", "-", "~", "x", "é", "\u202e", "\ud800", "a" * 90]
TEXTS += [".parquet", ".PARQUET", ".tmp", ".byolsim-", "_failed", "%2e%2e", "$HOME", "*", "?", "😀", "\u2028", "\x7f"]
parts = st.sampled_from([*TEXTS, *RESERVED])
names = st.text() | st.lists(parts, max_size=6).map("".join)


@drawn(400)
@given(names)
def test_a_run_name_is_a_file_of_the_folder_or_refused(name):
    """Every name either gives a visible `.parquet` file directly in the folder, on any system, or `UserError`."""
    try:
        path = run_path("runs", RunConfig(), name)
    except UserError:
        return
    assert path.parent == Path("runs") and (Path.cwd() / path).resolve().parent == (Path.cwd() / "runs").resolve()
    assert path.suffix == ".parquet" and path.name.isprintable() and path.name[0] not in "._- "
    assert not set('/\\:*?"<>|') & set(path.name)
    assert len(path.name.encode()) < 255
    stem = path.name.split(".")[0].strip().upper()
    assert stem not in {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    assert not (stem[:3] in ("COM", "LPT") and len(stem) == 4 and (stem[3].isdigit() or stem[3] in "¹²³"))


@drawn(60)
@given(names)
@example("a" * 200)
@example("../escaped")
@example("x.parquet.parquet")
def test_a_run_with_any_name_writes_one_readable_file_or_nothing(name):
    before = tree(Path().resolve().parent)
    code, out, err = byolsim("run", *TINY, "--force", f"--run_name={name}")
    new = tree(Path().resolve().parent) - before
    if code == 2:
        assert refused_in_one_line(out, err)
        assert new <= {Path("work/runs_parquet")}, "the folder itself may be there from an accepted name"
        return
    assert code == 0
    files = {path for path in new if path != Path("work/runs_parquet")}
    assert len(files) <= 1 and all(path.parent == Path("work/runs_parquet") for path in files)
    assert load_runs("runs_parquet", ["epoch"]).num_rows == 2


@pytest.mark.parametrize("name", [*RESERVED, "", ".parquet", "_x", "x ", "nul .txt", "com1.parquet"])
def test_names_that_some_system_would_hide_or_lose_are_refused(name):
    with pytest.raises(UserError, match="run_name"):
        run_path("runs", RunConfig(), name)


HUGE = "a whole number of 5000 hexadecimal digits"
"""Stands for one: Python cannot print it in decimals, and so neither can Hypothesis."""

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["auto", "linear", "mlp", "minibatch", "flat:1", "geometric:1:2", "", "1e-3", "x" * 5000])
    | st.sampled_from([0, 1, -1, 2**63, 10**400, HUGE, 0.0, 1e308, 5e-324])
    | st.dates()
    | st.datetimes()
    | st.times()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2)
)


def toml(value: Any) -> str:
    """A value as TOML text; None as a bare word, which TOML does not have."""
    if isinstance(value, bool):
        return str(value).lower()
    if value == HUGE:
        return "0x" + 5000 * "f"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08X}" if not c.isalnum() or not c.isascii() else c for c in value) + '"'
    if isinstance(value, int):
        return hex(value) if value >= 0 else str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def options(command: str) -> list[str]:
    return [name for name, _ in fields_by_option(*MODELS[command])]


def check(command: str, content: bytes, folder: Path) -> None:
    """The command on a configuration file: one line and exit code 2, or what it would do; nothing is written."""
    file = folder / "c.toml"
    file.write_bytes(content)
    dry = ["--dry_run"] if command in ("run", "sweep") else []
    before = tree(folder)
    code, out, err = byolsim(command, "--config", str(file), *dry)
    assert code in (0, 2), (code, err)
    if code == 2:
        assert refused_in_one_line(out, err), err
    else:
        assert command in ("run", "sweep")
        assert all(line.startswith("note: ") for line in err.splitlines()), err
    assert tree(folder) == before


@pytest.mark.parametrize("command", MODELS)
@drawn(60)
@given(st.data())
def test_any_values_of_real_options_in_a_config(command, data):
    """Each option with a value of any TOML type; there is no runs folder, so the readers always refuse."""
    fields = dict(fields_by_option(*MODELS[command]))
    names = data.draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=4, unique=True))
    text = ""
    for name in names:
        value = fields[name].default
        usual = st.just(list(value) if isinstance(value, tuple) else value)
        text += f"{name} = {toml(data.draw(usual | values if value is not None else values))}\n"
    check(command, text.encode("utf-8", "surrogatepass"), Path.cwd())


@pytest.mark.parametrize("command", MODELS)
@drawn(40)
@given(st.data())
def test_any_bytes_as_a_config(command, data):
    letters = st.text(alphabet=string.printable + "é\u2028\0", max_size=60)
    lines = st.lists(st.sampled_from(options(command)) | letters | values.map(toml), max_size=6)
    joined = st.tuples(lines, st.sampled_from([" = ", "\n", "=", "[", '"""', "."])).map(
        lambda pair: pair[1].join(pair[0])
    )
    text = st.binary(max_size=80) | joined.map(lambda text: text.encode("utf-8", "surrogatepass"))
    check(command, data.draw(text), Path.cwd())


@drawn(60)
@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["tau", "<", "=", "1e-2", "and", "auto", "status", "("])).map("".join)
)
def test_any_where_is_refused_in_one_line(text):
    """There is no runs folder: what can be parsed is refused later, in one line too."""
    for command in ("ls", "export"):
        code, out, err = byolsim(command, f"--where={text}")
        assert code == 2 and refused_in_one_line(out, err), err
