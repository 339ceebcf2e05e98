"""`--where` on metrics: a run is selected by what its last row says."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cases import byolsim, made_up

from byolsim.analysis.select import select_grids
from byolsim.config.commands import FigsConfig
from byolsim.config.run import RunConfig
from byolsim.record import RunRecord
from byolsim.store import listing
from byolsim.store.failures import save_failure
from byolsim.store.files import save
from byolsim.store.names import run_path

FOLDER = Path("runs_parquet")


def store(loss: list[float], **fields) -> RunConfig:
    """A made-up run whose population loss is `loss`, one value a logged row."""
    record = made_up(rows=len(loss), **fields)
    columns = {**record.columns, "loss_pop": np.array(loss)}
    record = RunRecord(
        record.config, record.epochs, columns, record.status, record.diverged_epoch, record.clips, record.wall_s
    )
    save(record, run_path(FOLDER, record.config))
    return record.config


@pytest.fixture(autouse=True)
def _five_runs(tmp_path, monkeypatch):
    """Losses that end at 0.25, 0.5 and null, one of a run that diverged at 9.0, and a run that failed."""
    monkeypatch.chdir(tmp_path)
    store([9.0, 9.0, 0.25], seed=1)
    store([0.1, 0.1, 0.5], seed=2)
    store([0.1, 0.1, np.nan], seed=3)
    store([0.1, 9.0], seed=4, diverged=15)
    save_failure(FOLDER, RunConfig(seed=5), "killed")


SELECTED = {
    "loss_pop<0.5": "1",
    "loss_pop<=0.5": "12",
    "loss-pop>1e0": "4",
    "loss_pop==0.5": "2",
    "loss_pop==null": "35",
    "loss_pop!=null": "124",
    "loss_pop!=0.5": "1345",
    "loss_pop<100 and seed>=2": "24",
    "loss_pop==null and status==completed": "3",
    "loss_pop<100 and gap>=0 and status!=diverged": "12",
    "erank_pred==null": "5",
}


@pytest.mark.parametrize("text", SELECTED)
def test_ls_and_export_select_by_the_last_row(text):
    code, out, err = byolsim(f"ls --format json --where {shlex.quote(text)}")
    assert code == 0, err
    assert sorted(str(run["seed"]) for run in json.loads(out)) == list(SELECTED[text])
    with_rows = set(SELECTED[text]) - {"5"}
    code, out, err = byolsim(f"export --force --where {shlex.quote(text)}")
    if with_rows:
        assert code == 0, err
        assert {str(seed) for seed in pq.read_table("runs.parquet")["seed"].to_pylist()} == with_rows
    else:
        assert code == 2
        assert "selects none of the 4 runs" in err


def test_figs_select_by_the_last_row():
    """The runs that are left are a sweep of their own: the titles count their seeds."""
    code, _, err = byolsim("figs --epoch 20 --where 'loss_pop<=0.5'")
    assert code == 0, err
    (grid,) = select_grids(FigsConfig(epoch=20, where="loss_pop<=0.5"), ["W_Fro_raw"]).grids
    assert grid.seeds == (1, 2)
    assert grid.setting.where == "loss_pop<=0.5"


def test_what_was_compared_is_shown():
    header, *lines, _ = byolsim("ls --where loss_pop!=0.5")[1].splitlines()
    at = header.split().index("loss_pop")
    assert [line.split()[at] for line in lines] == ["-", "0.25", "-", "9"]
    rows = list(csv.DictReader(io.StringIO(byolsim("ls --format csv --where 'loss_pop<100'")[1])))
    assert [float(row["loss_pop"]) for row in rows] == [0.25, 0.5, 9.0]
    assert "loss_pop" not in byolsim("ls")[1]


def test_rows_are_read_only_where_a_metric_is_named(monkeypatch):
    monkeypatch.setattr(listing, "each_table", lambda path, columns: pytest.fail("rows were read"))
    assert byolsim("ls --where 'seed<3'")[0] == 0
