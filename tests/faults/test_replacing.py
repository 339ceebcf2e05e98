"""An intact file of another run is never replaced without `--force`, whatever its name says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import byolsim, one_run, small
from sweeps import grid

from byolsim.config.grid import expand
from byolsim.config.run import RunConfig
from byolsim.store.files import is_complete, save
from byolsim.store.names import run_path
from byolsim.sweeps.launch import run, sweep
from byolsim.sweeps.writer import Writer

TINY = {"d_latent": 1, "d_obs": 2, "latent_spectrum": "flat:1", "epochs": 2, "batch_size": 1}
LINE = " ".join(f"--{name} {value}" for name, value in TINY.items())
TARGET = run_path("runs_parquet", RunConfig(**TINY))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def occupy(kind: str) -> bytes:
    """Something intact under the automatic name of the run; its bytes."""
    other, _ = run(RunConfig(**TINY, seed=7), "runs_parquet")
    if kind == "renamed":
        other.rename(TARGET)
    elif kind == "export":
        assert byolsim("export")[0] == 0
        shutil.move("runs.parquet", TARGET)
    else:
        pq.write_table(pa.table({"x": [1.0]}), TARGET)
    return TARGET.read_bytes()


@pytest.mark.parametrize("kind", ["renamed", "export", "foreign"])
def test_run_does_not_replace_what_is_intact_and_not_its_own(kind):
    before = occupy(kind)
    for dry in ("", " --dry_run"):
        code, out, err = byolsim(f"run {LINE}{dry}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(TARGET) in err and "it is not replaced; move it away, or --force" in err
        assert TARGET.read_bytes() == before
    assert byolsim(f"run {LINE} --force")[0] == 0
    assert is_complete(TARGET, RunConfig(**TINY))


def test_run_replaces_a_damaged_file_of_its_name():
    before = occupy("renamed")
    TARGET.write_bytes(before[:-1])
    assert byolsim(f"run {LINE}")[0] == 0
    assert is_complete(TARGET, RunConfig(**TINY))


def test_in_a_sweep_that_run_fails_and_the_others_go_on():
    """Without its being computed, and not for good: it is computed once the file is moved away."""
    config = grid(epochs=4, log_every=2)
    first, *others = expand(config)
    path = save(one_run(small()), run_path("runs", first))
    before = path.read_bytes()
    result = sweep(config, "runs", workers=1)
    failed = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    assert [outcome.run_id for outcome in failed] == [first.run_id]
    assert f"holds another run, {small().run_id}" in failed[0].reason
    assert failed[0].transient and not failed[0].unwritable
    assert path.read_bytes() == before
    assert all(is_complete(run_path("runs", other), other) for other in others)
    path.rename("elsewhere.parquet")
    assert sweep(config, "runs", workers=1).count("failed") == 0
    assert is_complete(path, first)


def test_a_file_that_took_the_place_meanwhile_is_kept():
    """Between the look and the write: the result is lost rather than the file."""
    record = one_run(small())
    writer = Writer(Path("runs"))
    path = save(one_run(small(seed=5)), writer.path(record.config))
    before = path.read_bytes()
    (outcome,) = writer.store([record])
    assert (outcome.status, outcome.transient) == ("failed", True) and path.read_bytes() == before
    (outcome,) = Writer(Path("runs"), force=True).store([record])
    assert outcome.status == "completed" and is_complete(path, record.config)
