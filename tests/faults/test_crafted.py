"""Files that somebody made up: metadata that do not fit together, pipes and devices, escapes for a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cases import byolsim, four_runs, made_up, store_made_up

from byolsim import load_runs
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.store.columns import schema
from byolsim.store.failures import FOLDER, failure_path, lasting_failures, save_failure
from byolsim.store.files import is_complete, read_columns, read_info
from byolsim.store.folder import read_folder

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes or links to make")
DEADLINE_S = 60


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs() -> Path:
    return four_runs(Path("runs_parquet"))


def rewrite(path: Path, change) -> None:
    """Write a file again with other metadata, of a good checksum: `change` gives the text, or changes the details."""
    table = pq.read_table(path)
    details = json.loads(table.schema.metadata[b"byolsim"])
    text = change(details)
    text = text if isinstance(text, str) else json.dumps(details)
    metadata = {b"byolsim": text, b"byolsim.sha256": hashlib.sha256(text.encode()).hexdigest()}
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)


CRAFTED = {
    "deep": lambda details: "[" * 100_000,
    "deep_inside": lambda details: json.dumps(details)[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "long": lambda details: json.dumps(details | {"x": "y" * 2**21}),
    "no_object": lambda details: "[1, 2]",
    "id_number": lambda details: details.update(run_id=12),
    "id_other": lambda details: details.update(run_id="0123456789ab"),
    "id_escape": lambda details: details.update(run_id="\x1b[31m"),
    "edited": lambda details: details["config"].update(tau=0.5),
    "no_config": lambda details: details.update(config=[]),
    "not_resolved": lambda details: details["config"].update(lr_pred=2.0, auto_alpha_c=0.4),
    "epoch_text": lambda details: details.update(status="diverged", diverged_epoch="\x1b[31m10"),
    "epoch_true": lambda details: details.update(status="diverged", diverged_epoch=True),
    "epoch_beyond": lambda details: details.update(status="diverged", diverged_epoch=21),
    "status_escape": lambda details: details.update(status="\x1b[31mcompleted"),
    "status_list": lambda details: details.update(status=["completed"]),
    "diverged_never": lambda details: details.update(status="diverged"),
    "completed_early": lambda details: details.update(diverged_epoch=15),
    "fewer_rows": lambda details: details.update(status="diverged", diverged_epoch=20),
    "numerics": lambda details: details.update(numerics_version="2"),
    "schema": lambda details: details.update(schema_version=[1]),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_metadata_are_one_line_for_every_reader(runs, name):
    path = store_made_up(runs, seed=9)
    config = made_up(seed=9).config
    rewrite(path, CRAFTED[name])
    for line in ("ls", "export --force"):
        code, out, err = byolsim(line)
        assert code == 0 and err.count("\n") == 2, err
        assert f"skipped {path}: damaged metadata (" in err and len(err) < 1000
        assert "\x1b" not in out + err
    folder = read_folder(runs, ["epoch", "loss_pop"])
    assert len(folder.runs) == 4 and len(folder.skipped) == 1
    assert not is_complete(path, config)


def test_a_file_whose_configuration_was_edited_is_not_taken_for_complete():
    """The id is that of the configuration, under the versions of the file."""
    path = store_made_up(Path("runs"), seed=9)
    rewrite(path, lambda details: details["config"].update(tau=0.5))
    assert not is_complete(path, made_up(seed=9).config)
    with pytest.raises(UserError, match="run_id is not that of the configuration"):
        read_info(path)


@pytest.mark.parametrize(("diverged", "rows"), [(None, 2), (None, 4), (15, 3), (15, 1), (1, 2)])
def test_rows_are_compared_with_the_epochs_before_they_are_read(diverged, rows, monkeypatch):
    """A run of 20 epochs logs rows at 0, 10 and 20, those before the epoch at which it diverged."""
    path = store_made_up(Path("runs"), diverged=diverged, rows=rows)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("rows were read"))
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *_, **__: pytest.fail("rows were read"))
    for whole in (False, True):
        with pytest.raises(UserError, match=rf"{rows} rows, not the"):
            read_info(path, whole=whole)
    with pytest.raises(UserError, match=rf"{rows} rows, not the"):
        read_columns(path, schema().names)


# --- records of failures ---


@needs_fifo
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_among_the_failures_is_not_waited_for(runs, kind):
    """In a process of its own, which the old reader would have kept for ever."""
    (runs / FOLDER).mkdir()
    path = failure_path(runs, RunConfig())
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (30, 30))\n"
        "from byolsim.store.failures import lasting_failures\nfrom byolsim.cli import main\n"
        "assert lasting_failures('runs_parquet') == {}\nmain(['ls'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert "not a record of a failed run (" in done.stderr and done.stdout.endswith("4 runs: 3 completed, 1 diverged\n")


def test_escapes_in_a_record_of_a_failure_do_not_reach_the_terminal(runs):
    config = made_up(seed=9).config
    save_failure(runs, config, "\x1b]0;mine\x07killed\r\n\x1b[2J by \u202enobody")
    code, out, err = byolsim("ls --where status==failed")
    assert code == 0 and "killed" in out and "by" in out
    (reason,) = lasting_failures(runs).values()
    for text in (out, err, reason):
        assert not set("\x1b\x07\r\u202e") & set(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: "{" * 100_000,
        lambda record: '{"a":' * 100_000,
        lambda record: json.dumps(record | {"reason": "y" * 2**21}),
        lambda record: json.dumps(record | {"run_id": "\x1b[31m"}),
        lambda record: json.dumps(record | {"run_id": 5}),
        lambda record: json.dumps(record | {"config": []}),
        lambda record: json.dumps([record]),
        lambda record: json.dumps(record | {"config": {"\x1b[31m": 1}}),
    ],
)
def test_a_crafted_record_of_a_failure_is_one_line(runs, change):
    save_failure(runs, RunConfig(), "killed")
    path = failure_path(runs, RunConfig())
    path.write_text(change(json.loads(path.read_text())))
    code, out, err = byolsim("ls")
    assert code == 0 and out.endswith("4 runs: 3 completed, 1 diverged\n")
    assert err.count("\n") == 2 and "not a record of a failed run (" in err and "\x1b" not in err and len(err) < 1000
    assert set(lasting_failures(runs)) <= {RunConfig().run_id, "5", "\x1b[31m"}


def test_load_runs_warns_of_a_crafted_file(runs):
    path = store_made_up(runs, seed=9)
    rewrite(path, CRAFTED["deep"])
    with pytest.warns(UserWarning, match="nested too deeply"):
        assert load_runs(runs).num_rows == 11
