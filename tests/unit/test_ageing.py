"""Files of other versions: what an earlier one wrote is read for ever, what a later one wrote as far as it can be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import byolsim as command
from cases import four_runs, made_up, store_made_up

import byolsim.store.columns
import byolsim.store.details
import byolsim.store.runfile
from byolsim import load_runs
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS
from byolsim.store.columns import schema
from byolsim.store.files import is_complete, read_columns, read_info, save
from byolsim.store.names import run_path

STORED = Path(__file__).parents[1] / "data" / "numerics_2"
"""One run of each sampler, and one of an MLP that diverged, as numerics version 2 wrote them."""

LAST_LOSS = {
    "minibatch": 0.29032907096223454,
    "moments": 0.3754105424924218,
    "population": 0.30451030355164443,
    "diverged_mlp": 66247456.096260324,
}
"""`loss_pop` in the last row of each."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", LAST_LOSS)
def test_the_values_of_a_stored_file(name):
    """Exactly: they are read, not computed."""
    info, table = read_columns(STORED / f"{name}.parquet", schema().names)
    assert table["loss_pop"][-1].as_py() == LAST_LOSS[name]
    assert info.details["numerics_version"] == 2
    assert (info.status, info.diverged_epoch) == (("diverged", 2) if "diverged" in name else ("completed", None))
    assert table.schema == schema() and table["tau"][0].as_py() == info.config.tau


def test_every_reader_takes_stored_files():
    assert len(set(load_runs(STORED)["run_id"].to_pylist())) == 4
    code, out, err = command(f"ls --runs_dir {STORED}")
    assert (code, err) == (0, "") and out.splitlines()[-1] == "4 runs: 3 completed, 1 diverged"
    assert command(f"export --runs_dir {STORED}")[:2] == (0, "wrote runs.parquet (14 rows of 4 runs)\n")
    Path("sweep").mkdir()
    shutil.copy(STORED / "minibatch.parquet", "sweep")
    code, _, err = command("figs --runs_dir sweep --epoch 50 --metric loss_pop")
    assert (code, err) == (0, "")


# --- one more hyperparameter, one more metric ---


class Later(RunConfig):
    """A configuration with one more hyperparameter, which is null unless it is used."""

    lookahead: float | None = None


@contextlib.contextmanager
def later():
    """A version with one more null hyperparameter and one more metric."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "entropy", "a metric of a later version")
        for module in (byolsim.store.details, byolsim.store.columns):
            patch.setattr(module, "RunConfig", Later)
        forget()
        yield
    forget()


def forget():
    schema.cache_clear()
    byolsim.store.runfile._usual_text.cache_clear()


def test_a_hyperparameter_and_a_metric_more_orphan_no_file():
    """They are null in the files that lack them, and the runs are complete."""
    runs = four_runs(Path("runs_parquet"))
    before = load_runs(runs)
    config, path = made_up(tau=1e-2, seed=2).config, next(runs.glob("*seed2*"))
    with later():
        table = load_runs(runs)
        assert table.schema.names == schema().names and {"entropy", "lookahead"} <= set(table.schema.names)
        assert table["entropy"].null_count == table["lookahead"].null_count == table.num_rows
        assert table.select(before.schema.names).equals(before)
        assert is_complete(path, Later(**config.model_dump()))
        assert not is_complete(path, Later(**config.model_dump() | {"lookahead": 1.0}))
        assert command("ls")[1].splitlines()[-1] == "4 runs: 3 completed, 1 diverged"
        assert command("export")[1] == "wrote runs.parquet (11 rows of 4 runs)\n"
        assert load_runs("runs.parquet").equals(table)


def test_a_file_of_a_later_version_is_read_without_what_is_not_known():
    record = made_up(seed=3)
    with later():
        columns = record.columns | {"entropy": record.columns["gap"]}
        again = replace(record, config=Later(**record.config.model_dump()), columns=columns)
        path = save(again, run_path("runs", record.config))
    assert {"entropy", "lookahead"} < set(pq.read_schema(path).names)
    info, table = read_columns(path, schema().names)
    assert table.schema == schema() and info.config == record.config
    assert is_complete(path, record.config)
    assert load_runs("runs").num_rows == 3


def test_a_hyperparameter_that_is_not_known_but_used_is_named():
    """No configuration of this version is that run's: it is not taken for one, and not replaced."""
    path = store_made_up(Path("runs"), seed=3)
    rewrite(path, lambda details: details["config"].update(lookahead=0.5))
    with pytest.raises(UserError, match="hyperparameter 'lookahead' is not known to this version"):
        read_info(path)


def rewrite(path: Path, change) -> None:
    """Write a file again as another program would, with other metadata and their checksum."""
    table = pq.read_table(path)
    details = json.loads(table.schema.metadata[b"byolsim"])
    change(details)
    text = json.dumps(details)
    metadata = {b"byolsim": text, b"byolsim.sha256": hashlib.sha256(text.encode()).hexdigest()}
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)


def test_columns_in_another_order_are_the_same_run():
    path = store_made_up(Path("runs"), seed=3)
    _, table = read_columns(path, schema().names)
    whole = pq.read_table(path)
    pq.write_table(whole.select(whole.schema.names[::-1]), path, write_page_checksum=True)
    assert read_columns(path, schema().names)[1].equals(table)
    assert np.array_equal(read_columns(path, ["gap", "epoch"])[1]["gap"], table["gap"])
    assert isinstance(table, pa.Table)
