"""Spectra in files: lists where a run logs them, null elsewhere, and what every reader makes of both."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from cases import byolsim, made_up, small

from byolsim import load_runs
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model import rows
from byolsim.model.modes import SPECTRA, spectrum_sizes
from byolsim.model.rows import ROW_BYTES, group_limit, row_bytes
from byolsim.simulate import simulate_runs
from byolsim.store.columns import encode, schema
from byolsim.store.files import is_complete, read_columns, read_info, save
from byolsim.store.names import run_path
from byolsim.sweeps.compute import checked
from byolsim.sweeps.outcome import Failure

YOUNG = ("P_asymmetry", "commutator", "gain_err", "span_err", "tau_t")
"""Columns that files of an earlier version lack."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_spectra(**fields):
    """A made-up run with lists; one row of one has no number, another no value at one place."""
    record = made_up(**fields)
    rng, count = np.random.default_rng(record.config.seed), len(record.epochs)
    spectra = {name: rng.normal(size=(count, size)) for name, size in spectrum_sizes(record.config).items()}
    spectra["mode_gain"][0] = np.nan
    spectra["mode_gain"][1, 0] = np.nan
    return replace(record, spectra=spectra)


def stored(record, folder="runs"):
    return save(record, run_path(Path(folder), record.config))


def mixed(folder="runs"):
    """Three runs without lists, in the order of names before and after three with them, of two shapes."""
    for k, seed in ((2, 1), (3, 2), (2, 4)):
        stored(with_spectra(seed=seed, d_latent=k, latent_spectrum="flat:1"), folder)
    for seed, log in ((3, True), (5, False), (6, False)):
        stored(made_up(seed=seed, d_latent=2, latent_spectrum="flat:1", log_spectra=log), folder)
    return Path(folder)


def matrix(column):
    """Lists as a matrix, NaN where there is no number."""
    lists = [values if values is not None else [] for values in column.to_pylist()]
    width = max(map(len, lists))
    return np.array([[np.nan if v is None else v for v in row] + [np.nan] * (width - len(row)) for row in lists])


# --- one file ---


def test_a_file_gives_back_the_lists():
    record = with_spectra(seed=3)
    info, table = read_columns(stored(record), schema(True).names)
    assert info.has_spectra and info.config == record.config
    assert table.schema == schema(True)
    for name, values in record.spectra.items():
        np.testing.assert_array_equal(matrix(table[name]), values, err_msg=name)
    assert table["mode_gain"].null_count == 1, "a row without a value is null, not a list of nulls"
    assert table["mode_gain"][1].as_py()[0] is None
    assert not {"log_spectra"} & {*table.schema.names, *info.details["config"]}


def test_a_file_without_them_has_no_such_column():
    record = made_up(seed=3, log_spectra=False)
    path = stored(record)
    assert not set(SPECTRA) & set(pq.read_schema(path).names)
    info, table = read_columns(path, ["epoch", *SPECTRA])
    assert not info.has_spectra
    assert table.num_rows == 3 and all(table[name].null_count == 3 for name in SPECTRA)


def test_they_are_no_part_of_the_identity():
    """A file without them is the complete file of the run that would log them, and a file with them of the other."""
    with_them, without = RunConfig(), RunConfig(log_spectra=False)
    assert with_them.run_id == without.run_id and with_them.hyperparameters == without.hyperparameters
    assert "log_spectra" not in with_them.hyperparameters and set(with_them.hyperparameters) < set(
        RunConfig.model_fields
    )
    assert not SweepConfig().log_spectra and not any(run.log_spectra for run in expand(SweepConfig()))
    record = with_spectra(seed=3)
    other = replace(record, config=made_up(seed=3, log_spectra=False).config, spectra={})
    assert stored(record) == run_path(Path("runs"), other.config)
    for path, config in ((stored(record), other.config), (stored(other), record.config)):
        assert is_complete(path, config)


def test_a_file_that_is_older_than_all_of_this_is_complete():
    """Neither a new column nor a word of spectra: null, of the same run."""
    record = made_up(seed=3)
    path = stored(record)
    table = pq.read_table(path).drop_columns(list(YOUNG))
    details = json.loads(table.schema.metadata[b"byolsim"])
    del details["spectra"]
    text = json.dumps(details)
    metadata = {b"byolsim": text, b"byolsim.sha256": hashlib.sha256(text.encode()).hexdigest()}
    pq.write_table(table.replace_schema_metadata(metadata), path, write_page_checksum=True)
    assert is_complete(path, record.config) and not read_info(path).has_spectra
    _, old = read_columns(path, schema(True).names)
    assert all(old[name].null_count == 3 for name in (*YOUNG, *SPECTRA))
    np.testing.assert_array_equal(old["gap"].to_numpy(), record.columns["gap"])


def test_a_long_run_has_several_row_groups_of_lists(monkeypatch):
    record = with_spectra(seed=3, epochs=90, rows=10)
    whole = read_columns(stored(record), schema(True).names)[1]
    monkeypatch.setattr("byolsim.store.columns.NUMBERS_AT_ONCE", 250)  # 60 numbers a row
    path = stored(record, "parts")
    assert pq.ParquetFile(path).num_row_groups == 3
    assert read_columns(path, schema(True).names)[1].equals(whole)
    assert read_columns(path, ["BB_eig"])[1].equals(whole.select(["BB_eig"]))


@pytest.mark.parametrize("name", ["C_oo_eig", "gap"])
def test_damage_is_noticed_where_it_is_read(name):
    """One bit of a list column, or of a metric beside them: by readers of it, of all, and of nothing else."""
    path = stored(with_spectra(seed=3))
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = {chunk.path_in_schema.partition(".")[0]: chunk for chunk in map(group.column, range(group.num_columns))}
    data = bytearray(path.read_bytes())
    data[chunks[name].data_page_offset + chunks[name].total_compressed_size - 1] ^= 1
    path.write_bytes(bytes(data))
    for columns in ([name], ["epoch", name], schema(True).names):
        with pytest.raises(UserError, match="damaged rows"):
            read_columns(path, columns)
    with pytest.raises(UserError, match="damaged rows"):
        read_info(path, whole=True)
    other = {"C_oo_eig": "BB_eig", "gap": "loss"}[name]
    assert read_columns(path, ["epoch", other])[1].num_rows == 3


def test_one_list_over_another_is_noticed():
    """Good pages of equal length, of the other column."""
    path = stored(with_spectra(seed=3))
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = {chunk.path_in_schema.partition(".")[0]: chunk for chunk in map(group.column, range(group.num_columns))}
    there, here = chunks["P_eig_re"], chunks["P_eig_im"]
    assert there.total_compressed_size == here.total_compressed_size
    data = bytearray(path.read_bytes())
    for target, source in ((here, there),):
        start, end = source.data_page_offset, source.data_page_offset + source.total_compressed_size
        data[target.data_page_offset : target.data_page_offset + end - start] = data[start:end]
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged rows"):
        read_columns(path, ["P_eig_im"])
    assert read_columns(path, ["P_eig_re"])[1].num_rows == 3


def test_another_program_may_have_written_the_file_again():
    """Whatever it calls the numbers of a list; a column of another kind is none."""
    path = stored(with_spectra(seed=3))
    truth = read_columns(path, schema(True).names)[1]
    table = pq.read_table(path)
    place = table.schema.get_field_index("BB_eig")
    renamed = table.set_column(place, "BB_eig", table["BB_eig"].cast(pa.list_(pa.field("item", pa.float64()))))
    pq.write_table(renamed, path, use_compliant_nested_type=False)
    assert read_columns(path, schema(True).names)[1].equals(truth)
    pq.write_table(table.set_column(place, "BB_eig", table["gap"]), path)
    with pytest.raises(UserError, match=r"foreign columns \(BB_eig\)"):
        read_columns(path, ["epoch"])


# --- records ---


def test_a_run_logs_them_unless_it_is_told_not_to():
    (record,) = simulate_runs([small(backend="numpy", epochs=14)])
    (without,) = simulate_runs([small(backend="numpy", epochs=14, log_spectra=False)])
    assert without.spectra == {}
    assert {name: values.shape for name, values in record.spectra.items()} == dict.fromkeys(SPECTRA, (3, 3))
    for name, values in without.columns.items():
        np.testing.assert_array_equal(record.columns[name], values, err_msg=name)
    np.testing.assert_allclose(record.spectra["C_oo_eig"][:, 0], record.columns["Hmax_exact"], rtol=1e-15)
    assert (record.columns["tau_t"] == record.config.tau).all()


def test_a_run_that_diverges_has_lists_of_the_rows_before():
    (record,) = simulate_runs([small(backend="numpy", lr_pred=50.0, log_every=1)])
    assert record.status == "diverged" and 0 < len(record.epochs) < 41
    assert {len(values) for values in record.spectra.values()} == {len(record.epochs)}


def test_a_record_is_the_table_of_its_file():
    record = with_spectra(seed=3)
    for one, columns in ((record, schema(True)), (replace(record, spectra={}), schema())):
        table = one.to_arrow()
        assert table.schema == columns
        assert table.equals(read_columns(stored(one), columns.names)[1])


def test_a_record_as_a_data_frame():
    pytest.importorskip("pandas")
    record = with_spectra(seed=3)
    frame = record.to_pandas()
    np.testing.assert_array_equal(frame["gap"], record.columns["gap"])
    np.testing.assert_array_equal(np.stack(frame["BB_eig"]), record.spectra["BB_eig"])
    assert frame["mode_gain"][0] is None and np.isnan(frame["mode_gain"][1][0])


def test_what_comes_back_without_its_lists_has_failed():
    record = with_spectra(seed=3)
    assert checked([record.config], [record]) == [record]
    short = record.spectra | {"BB_eig": record.spectra["BB_eig"][:-1]}
    for spectra in ({}, short, {"BB_eig": record.spectra["BB_eig"]}):
        (failure,) = checked([record.config], [replace(record, spectra=spectra)])
        assert isinstance(failure, Failure)


def test_memory_counts_them(monkeypatch):
    """Ten dimensions and ten modes: 60 numbers a row."""
    config, without = RunConfig(epochs=10**6, log_every=1), RunConfig(epochs=10**6, log_every=1, log_spectra=False)
    assert (row_bytes(config) - ROW_BYTES, row_bytes(without)) == (8 * 60, ROW_BYTES)
    assert group_limit(without) > group_limit(RunConfig(epochs=10**5, log_every=1)) or group_limit(config) == 1
    monkeypatch.setattr(rows, "available_memory", lambda: 2**30)
    rows.check_rows([without])
    with pytest.raises(UserError, match="or leave out log_spectra"):
        rows.check_rows([config])


# --- commands ---


def test_the_option_and_its_negative():
    words = "run --backend numpy --epochs 3 --d_latent 2 --d_obs 4 --latent_spectrum flat:1"
    assert byolsim(f"{words} --no_log_spectra")[0] == 0
    (path,) = Path("runs_parquet").iterdir()
    assert not read_info(path).has_spectra
    code, out, err = byolsim(words)
    assert code == 0 and "is there already" in out
    assert err == f"note: {path} was stored without spectra: --force computes it again, with them\n"
    assert byolsim(f"{words} --no-log-spectra")[2] == ""
    assert byolsim(f"{words} --log_spectra --force")[0] == 0
    assert read_info(path).has_spectra and byolsim(words)[2] == ""
    Path("x.toml").write_text("log_spectra = false\n", encoding="utf-8")
    assert byolsim(f"{words} --config x.toml --force")[0] == 0
    assert not read_info(path).has_spectra


def test_lists_cannot_be_compared_or_drawn():
    mixed()
    for line in ("ls --runs_dir runs --where", "export --runs_dir runs --where", "figs --runs_dir runs --where"):
        code, _, err = byolsim(*line.split(), "P_eig_re>0")
        assert (code, err.count("\n")) == (2, 1) and "P_eig_re is a list of numbers, which cannot be compared" in err
    code, _, err = byolsim("figs --runs_dir runs --metric C_oo_eig")
    assert (code, err.count("\n")) == (2, 1) and "--metric C_oo_eig is a list of numbers" in err
    code, _, err = byolsim("ls --runs_dir runs --where log_spectra==true")
    assert code == 2 and "unknown name 'log_spectra'" in err


def test_runs_with_and_without_them_are_of_one_sweep():
    """`ls` has no column of it, and figures do not refuse them as a mixture."""
    for seed in (1, 2):
        stored(with_spectra(seed=seed) if seed == 1 else made_up(seed=seed, log_spectra=False))
    code, out, err = byolsim("ls --runs_dir runs")
    assert (code, err) == (0, "") and "spectra" not in out
    code, _, err = byolsim("figs --runs_dir runs --epoch 20 --metric loss_pop")
    assert (code, err) == (0, "")


def test_export_as_csv_numbers_the_lists():
    """As many columns as the largest run has numbers, null where a run has fewer or none."""
    folder = mixed()
    assert byolsim("export --runs_dir runs --to all.csv")[:2] == (0, "wrote all.csv (18 rows of 6 runs)\n")
    lists = [f"{name}_{number}" for name in SPECTRA for number in (1, 2, 3)]
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(lists, pa.float64()), strings_can_be_null=True)
    sheet = pa.csv.read_csv("all.csv", convert_options=options)
    assert sheet.column_names == [*schema().names, *lists]
    truth = load_runs(folder)
    for name in SPECTRA:
        numbers = np.column_stack([sheet[f"{name}_{number}"].to_numpy() for number in (1, 2, 3)])
        np.testing.assert_array_equal(numbers, matrix(truth[name]), err_msg=name)
    assert byolsim("export --runs_dir runs --to two.csv --where d_latent=2")[0] == 0
    assert "BB_eig_2" in Path("two.csv").read_text("utf-8") and "BB_eig_3" not in Path("two.csv").read_text("utf-8")
    assert byolsim("export --runs_dir runs --to none.csv --where 'seed>4'")[0] == 0
    assert "BB_eig" not in Path("none.csv").read_text("utf-8")


def test_export_as_parquet_keeps_the_lists():
    folder = mixed()
    assert byolsim("export --runs_dir runs --to all.parquet")[0] == 0
    assert pq.read_schema("all.parquet").remove_metadata() == schema(True)
    assert load_runs("all.parquet").equals(load_runs(folder))
    assert byolsim("ls --runs_dir all.parquet")[1].endswith("6 runs: 6 completed\n")
    assert byolsim("export --runs_dir all.parquet --to again.csv")[0] == 0
    assert byolsim("export --runs_dir runs --to direct.csv")[0] == 0
    assert Path("again.csv").read_bytes() == Path("direct.csv").read_bytes()
    assert byolsim("export --runs_dir runs --to none.parquet --where 'seed>4 and gap>0'")[0] == 0
    assert pq.read_schema("none.parquet").remove_metadata() == schema()


def test_a_damaged_file_does_not_name_columns_of_an_export():
    folder = mixed()
    path = stored(with_spectra(seed=9, d_latent=5, latent_spectrum="flat:1"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the rows: its footer is sound
    path.write_bytes(bytes(data))
    code, out, err = byolsim(f"export --runs_dir {folder} --to all.parquet")
    assert (code, out) == (0, "wrote all.parquet (18 rows of 6 runs)\n") and err.endswith("1 file skipped\n")


# --- readers of a folder ---


def test_load_runs_has_the_lists_where_a_run_has_them():
    folder = mixed()
    table = load_runs(folder)
    assert table.schema == schema(True) and table["BB_eig"].null_count == 9
    one = table.filter(pa.compute.field("seed") == 2)
    np.testing.assert_array_equal(
        matrix(one["BB_eig"]), with_spectra(seed=2, d_latent=3, latent_spectrum="flat:1").spectra["BB_eig"]
    )
    for path in folder.iterdir():
        if read_info(path).has_spectra:
            path.unlink()
    assert load_runs(folder).schema == schema()
    assert load_runs(folder, ["epoch", "BB_eig"])["BB_eig"].null_count == 9


def in_both_orders():
    """Folders whose first file has lists, and has none: readers of Parquet may take the first for all."""
    mixed("first with")
    shutil.copytree("first with", "first without")
    path = next(path for path in Path("first without").iterdir() if not read_info(path).has_spectra)
    path.rename(path.with_name("0.parquet"))
    return ["first with", "first without"]


def check(lists, seeds, epochs):
    """Of seed 2, at its second and third epoch, the numbers of one list."""
    truth = with_spectra(seed=2, d_latent=3, latent_spectrum="flat:1").spectra["BB_eig"]
    found = {(s, e): v for v, s, e in zip(lists, seeds, epochs, strict=True)}
    np.testing.assert_array_equal(found[2, 20], truth[2])
    assert found[5, 20] is None and len(found) == 18


def test_pyarrow_reads_the_folder():
    for folder in in_both_orders():
        whole = pa.unify_schemas([pq.read_schema(path) for path in sorted(Path(folder).iterdir())])
        table = pa.dataset.dataset(folder, schema=whole).to_table()
        check(*(table[name].to_pylist() for name in ("BB_eig", "seed", "epoch")))


def test_pandas_reads_the_folder():
    """`load_runs` in either order; its own reader takes the columns of the first file."""
    pd = pytest.importorskip("pandas")
    for folder in in_both_orders():
        frame = load_runs(folder).to_pandas()
        check(frame.BB_eig, frame.seed, frame.epoch)
        assert np.stack(frame[frame.seed == 2].BB_eig).shape == (3, 3)
        own = pd.read_parquet(folder)
        assert len(own) == 18 and ("BB_eig" in own) == (folder == "first with")


def test_polars_reads_the_folder():
    pl = pytest.importorskip("polars")
    for folder in in_both_orders():
        lazy = pl.scan_parquet(f"{folder}/*.parquet", missing_columns="insert", extra_columns="ignore")
        assert lazy.select("seed", "epoch", "gap").collect().height == 18
    frame = pl.scan_parquet("first with/*.parquet", missing_columns="insert", extra_columns="ignore").collect()
    check(*(frame[name].to_list() for name in ("BB_eig", "seed", "epoch")))
    parts = [pl.scan_parquet(path) for path in sorted(Path("first without").iterdir())]
    frame = pl.concat(parts, how="diagonal").collect()
    check(*(frame[name].to_list() for name in ("BB_eig", "seed", "epoch")))


def test_duckdb_reads_the_folder():
    duckdb = pytest.importorskip("duckdb")
    for folder in in_both_orders():
        query = f"SELECT BB_eig, seed, epoch FROM read_parquet('{folder}/*.parquet', union_by_name = true)"
        check(*zip(*duckdb.sql(query).fetchall(), strict=True))


def test_no_burst_is_missed():
    """Eight bytes anywhere in the rows or the footer of a file with lists: never other numbers in silence."""
    good, path = encode(with_spectra(seed=9)), Path("x.parquet")
    path.write_bytes(good)
    names = ["epoch", "BB_eig"]
    truth, draw = read_columns(path, names)[1], np.random.default_rng(1)
    for _ in range(150):
        bad = bytearray(good)
        at = int(draw.integers(len(good) - 8))
        bad[at : at + 8] = draw.bytes(8)
        path.write_bytes(bytes(bad))
        try:
            assert read_columns(path, names)[1].equals(truth)
        except UserError:
            continue
