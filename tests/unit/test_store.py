"""Files: complete or not there, self-describing, and damage is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as dataset
import pyarrow.parquet as pq
import pytest
from cases import one_run, small

from byolsim import load_runs
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS
from byolsim.store.columns import schema
from byolsim.store.failures import failure_path, save_failure
from byolsim.store.files import is_complete, read_columns, save
from byolsim.store.folder import read_folder, value_at
from byolsim.store.names import file_name, run_path


@pytest.fixture
def record():
    return one_run(small(lr_pred=0.01))


@pytest.fixture
def path(record, tmp_path):
    return save(record, run_path(tmp_path, record.config))


def test_a_file_gives_back_the_run(record, path):
    info, table = read_columns(path, schema().names)
    assert info.config == record.config
    assert info.run_id == record.config.run_id
    assert (info.status, info.diverged_epoch, info.rows) == ("completed", None, len(record.epochs))
    assert info.details["clips"] == {"lr_pred_limit": 0, "lr_enc_limit": 0, "H_floor": 0}
    assert {"byolsim", "numpy", "numba", "python"} <= set(info.details["versions"])
    assert table.schema.remove_metadata() == schema()
    assert table["epoch"].to_pylist() == record.epochs.tolist()
    for name in METRICS:
        np.testing.assert_array_equal(table[name].to_numpy(), record.columns[name], err_msg=name)
    first = table.slice(0, 1).to_pylist()[0]
    assert {name: first[name] for name in record.config.hyperparameters} == record.config.hyperparameters
    assert first["ema_m"] == record.config.ema_m
    assert first["lr_enc"] is None  # the schedule sets it
    assert first["Hmax"] is None  # no step has been taken at epoch 0


def test_the_name_is_readable_and_ends_in_the_id(record, path):
    assert path.name == f"run_seed42_bs5_tau0.001_lrpred0.01_lrencauto-{record.config.run_id}.parquet"


def test_diverged_run_keeps_its_rows(tmp_path):
    record = one_run(small(lr_pred=30.0))
    path = save(record, run_path(tmp_path, record.config))
    info, table = read_columns(path, ["epoch", "status", "loss_pop"])
    assert info.status == "diverged"
    assert info.diverged_epoch == record.diverged_epoch
    assert 1 <= table.num_rows < 7
    assert max(table["epoch"].to_pylist()) < info.diverged_epoch
    assert set(table["status"].to_pylist()) == {"diverged"}
    assert np.isfinite(table["loss_pop"].to_numpy()).all()
    assert is_complete(path, record.config)


def last_data_byte(path, column):
    """Position of the last byte of a column's pages."""
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(schema().names.index(column))
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start + chunk.total_compressed_size - 1


def test_a_file_with_a_damaged_row_is_not_complete(record, path):
    good = bytearray(path.read_bytes())
    good[last_data_byte(path, "gap")] ^= 0x10
    path.write_bytes(bytes(good))
    assert not is_complete(path, record.config)


def test_completeness_is_of_this_configuration(record, path, tmp_path):
    assert is_complete(path, record.config)
    assert not is_complete(path, small(lr_pred=0.02))
    assert not is_complete(tmp_path / "none.parquet", record.config)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".", ".hidden", "-x", "a\nb", "a\0b", "C:x", "x" * 201, " x"]
)
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(UserError, match="run_name"):
        run_path("runs", RunConfig(), name)


def test_a_name_replaces_the_files_name_only():
    assert run_path("runs", RunConfig(), "demo") == Path("runs/demo.parquet")
    assert run_path("runs", RunConfig(), "demo.parquet") == Path("runs/demo.parquet")
    assert run_path("runs", RunConfig()) == Path("runs") / file_name(RunConfig())


def test_full_disk_leaves_nothing(record, tmp_path, monkeypatch):
    """The flush fails as on a full disk: one clear error, no file, no temporary file."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(record, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_failure(record, tmp_path, monkeypatch):
    """Some network file systems refuse it: the file is whole and in its place."""
    fsync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    assert is_complete(save(record, tmp_path / "x.parquet"), record.config)


def test_an_interrupted_replacement_leaves_the_old_file(record, path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(record, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def damaged(path, tmp_path):
    """Files that are no runs, by the reason that the loader must give."""
    good = path.read_bytes()
    (tmp_path / "truncated.parquet").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "text.parquet").write_text("not parquet at all")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "foreign.parquet")
    flipped = bytearray(good)
    flipped[last_data_byte(path, "loss")] ^= 0x10
    (tmp_path / "flipped.parquet").write_bytes(bytes(flipped))
    old = pq.read_table(path)
    details = json.loads(old.schema.metadata[b"byolsim"]) | {"schema_version": 0}
    pq.write_table(signed(old, json.dumps(details)), tmp_path / "old.parquet")
    pq.write_table(signed(old, "{"), tmp_path / "garbled.parquet")
    pq.write_table(signed(old.drop(["epoch"]), old.schema.metadata[b"byolsim"].decode()), tmp_path / "fewer.parquet")
    text = old.set_column(old.schema.names.index("loss"), "loss", old["loss"].cast(pa.string()))
    pq.write_table(signed(text, old.schema.metadata[b"byolsim"].decode()), tmp_path / "retyped.parquet")
    unsigned = old.replace_schema_metadata({b"byolsim": json.dumps(details)})
    pq.write_table(unsigned, tmp_path / "unsigned.parquet")
    (tmp_path / "copy.parquet").write_bytes(good)
    (tmp_path / "unfinished.tmp").write_bytes(good)
    return {
        "truncated": "not a complete Parquet file",
        "empty": "not a complete Parquet file",
        "text": "not a complete Parquet file",
        "foreign": "not a byolsim file",
        "flipped": "damaged rows",
        "old": "schema version 0",
        "garbled": "damaged metadata (Expecting",
        "fewer": "damaged or foreign columns (epoch)",
        "retyped": "damaged or foreign columns (loss)",
        "unsigned": "damaged metadata (checksum)",
    }


def signed(table, text):
    """A table with the given metadata and its checksum."""
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return table.replace_schema_metadata({b"byolsim": text, b"byolsim.sha256": checksum})


def test_damaged_and_foreign_files_are_named_and_skipped(path, tmp_path):
    reasons = damaged(path, tmp_path)
    folder = read_folder(tmp_path, schema().names)
    assert len(folder.runs) == 1, "the good run once, its copy dropped"
    assert len(folder.skipped) == len(reasons)
    for name, reason in reasons.items():
        (line,) = [line for line in folder.skipped if f"{name}.parquet" in line]
        assert reason in line


def test_every_flipped_bit_in_the_rows_is_noticed(path, tmp_path):
    """A file is either refused or gives the true values, whichever byte is damaged (every 97th is tried)."""
    good, (_, truth) = path.read_bytes(), read_columns(path, schema().names)
    other = tmp_path / "other.parquet"
    refused = 0
    for position in range(0, len(good), 97):
        bad = bytearray(good)
        bad[position] ^= 0x04
        other.write_bytes(bytes(bad))
        try:
            _, table = read_columns(other, schema().names)
            assert table.equals(truth)
        except UserError:
            refused += 1
    assert refused > 50


def test_load_runs_is_one_tidy_table(path, tmp_path):
    save(one_run(small(seed=1)), tmp_path / "second.parquet")
    table = load_runs(tmp_path)
    assert table.schema.names == schema(True).names
    assert len(set(table["run_id"].to_pylist())) == 2
    assert load_runs(tmp_path, ["epoch", "tau"]).schema.names == ["epoch", "tau"]
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.warns(UserWarning, match="empty.parquet"):
        assert load_runs(tmp_path).num_rows == table.num_rows


def test_a_record_of_a_failure_does_not_disturb_readers_of_the_folder(record, path, tmp_path):
    save_failure(tmp_path, small(seed=5), "reason")
    assert failure_path(tmp_path, small(seed=5)).exists()
    assert dataset.dataset(tmp_path, format="parquet").to_table().num_rows == len(record.epochs)
    assert load_runs(tmp_path).num_rows == len(record.epochs)


def test_load_runs_refuses_with_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        load_runs(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        load_runs(tmp_path / "none")
    with pytest.raises(UserError, match="unknown column 'los'"):
        load_runs(tmp_path, ["los"])


@pytest.mark.parametrize(("last", "expected"), [(False, [0.0, np.nan, np.nan, np.nan]), (True, [0.0, 1.0, 1.0, 1.0])])
def test_value_at_an_epoch(last, expected):
    epochs, values = np.array([0, 10, 20, 30]), np.array([0.0, 1.0, np.nan, np.inf])
    found = [value_at(epochs, values, epoch, last) for epoch in (0, 15, 20, 30)]
    np.testing.assert_array_equal(found, expected)
