"""The seal: whatever a reader reads of a file is what was written, few columns or all."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cases import byolsim, four_runs, made_up, store_made_up

from byolsim import load_runs
from byolsim.errors import UserError
from byolsim.store.columns import encode, schema
from byolsim.store.files import each_table, is_complete, read_columns, read_info
from byolsim.store.seal import MARK, OLD_MARK


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chunk(path: Path, column: str) -> slice:
    """The bytes of a column."""
    found = pq.ParquetFile(path).metadata.row_group(0).column(pq.read_schema(path).names.index(column))
    start = found.dictionary_page_offset if found.has_dictionary_page else found.data_page_offset
    return slice(start, start + found.total_compressed_size)


def copy_column(path: Path, source: str, target: str) -> None:
    """The bytes of one column over those of another: good pages, of the other column."""
    data = bytearray(path.read_bytes())
    there, here = chunk(path, source), chunk(path, target)
    assert there.stop - there.start == here.stop - here.start, "of equal length, or nothing is tried"
    data[here] = data[there]
    path.write_bytes(bytes(data))


OLD = Path(__file__).parents[1] / "data" / "numerics_2" / "moments.parquet"


@pytest.mark.parametrize("old", [False, True])
def test_a_column_copied_over_another_is_noticed_by_every_reader(old):
    """Also in a file of an earlier version, which has no digests of its columns."""
    runs = four_runs(Path("runs_parquet"))
    path = store_made_up(runs, seed=9)
    if old:
        path.write_bytes(OLD.read_bytes())
        assert OLD_MARK in path.read_bytes()
    copy_column(path, "W_Fro_raw", "W_Fro_aligned")
    for names in (schema().names, ["epoch", "W_Fro_aligned"]):
        with pytest.raises(UserError, match="damaged rows"):
            read_columns(path, names)
    for line in ("ls", "export", "figs --metric W_Fro_aligned --epoch 20"):
        code, _, err = byolsim(line)
        assert code == 0 and err.splitlines()[-1] == "1 file skipped"
        assert f"skipped {path}: damaged rows" in err
    with pytest.warns(UserWarning, match="damaged rows"):
        assert load_runs(runs).num_rows == 11


def test_a_reader_of_few_columns_checks_those_alone():
    """What it does not read does not keep it from the rest."""
    path = store_made_up(Path("runs"), seed=9)
    _, truth = read_columns(path, ["epoch", "gap"])
    copy_column(path, "W_Fro_raw", "W_Fro_aligned")
    assert read_columns(path, ["epoch", "gap"])[1].equals(truth)


def test_no_burst_is_missed(tmp_path):
    """Eight bytes anywhere, in a file of which all is read and in one of which two columns are.

    A burst that hits the mark of the seal makes a file without one, as another program writes it: its rows are right.
    """
    good, path = encode(made_up(seed=9)), tmp_path / "x.parquet"
    path.write_bytes(good)
    names = ["epoch", "gap"]
    truth = [read_columns(path, columns)[1] for columns in (schema().names, names)]
    draw = random.Random(1)
    for _ in range(300):
        bad = bytearray(good)
        at = draw.randrange(len(good) - 8)
        bad[at : at + 8] = draw.randbytes(8)
        path.write_bytes(bytes(bad))
        in_mark = good.index(MARK) - 8 < at < good.index(MARK) + len(MARK)
        if in_mark:
            assert read_columns(path, schema().names)[1].equals(truth[0])
            continue
        with pytest.raises(UserError):
            read_columns(path, schema().names)
        with pytest.raises(UserError):
            read_info(path, whole=True)
        try:
            assert read_columns(path, names)[1].equals(truth[1])
        except UserError:
            continue


def test_a_long_run_has_several_row_groups(monkeypatch, tmp_path):
    """And a seal over all of them, for few columns and for all."""
    whole = store_made_up(tmp_path / "whole", epochs=90, rows=10)
    _, truth = read_columns(whole, schema().names)
    monkeypatch.setattr("byolsim.store.columns.ROWS_AT_ONCE", 4)
    path = store_made_up(tmp_path / "parts", epochs=90, rows=10)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert read_columns(path, schema().names)[1].equals(truth)
    assert read_columns(path, ["gap"])[1].equals(truth.select(["gap"]))
    assert is_complete(path, made_up(epochs=90).config)
    last = pq.ParquetFile(path).metadata.row_group(2).column(schema().names.index("gap"))
    data = bytearray(path.read_bytes())
    data[last.data_page_offset + last.total_compressed_size - 1] ^= 1
    path.write_bytes(bytes(data))
    for names in (["gap"], schema().names):
        with pytest.raises(UserError, match="damaged rows"):
            read_columns(path, names)


def test_a_damaged_export_is_named():
    runs = four_runs(Path("runs_parquet"))
    assert byolsim("export --to all.parquet")[0] == 0
    path = Path("all.parquet")
    assert len(list(each_table(path, ["epoch", "W_Fro_raw"]))) == len(list(runs.iterdir()))
    copy_column(path, "W_Fro_raw", "W_Fro_aligned")
    for names in (["W_Fro_aligned"], schema().names):
        with pytest.raises(UserError, match="damaged rows"):
            list(each_table(path, names))
    assert "damaged rows" in byolsim("ls --runs_dir all.parquet")[2]
