"""`byolsim ls` and `export`, and what `--where` understands."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from cases import byolsim, four_runs, made_up, store_made_up

from byolsim import load_runs
from byolsim.config.fields import hyperparameters
from byolsim.config.run import RunConfig
from byolsim.machine.temporary import temporary_path
from byolsim.store import export
from byolsim.store.columns import encode, schema
from byolsim.store.failures import clear_failure, save_failure
from byolsim.store.folder import each_run
from byolsim.store.names import run_path
from byolsim.store.where import NAMES, facts, parse_where


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs() -> Path:
    return four_runs(Path("runs_parquet"))


# --- where ---

KNOWN = facts(
    "0123456789ab",
    RunConfig(seed=3, tau=1e-3, lr_enc=0.5, batch_size=32, latent_spectrum="2,1", d_latent=2, sampler="population"),
    "diverged",
    7,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tau<1e-2", True),
        ("tau<1e-3", False),
        ("tau <= 0.001", True),
        ("tau=1e-3", True),
        ("tau==0.001 and seed!=4", True),
        ("tau==0.001 and seed!=3", False),
        ("ema_m == 0.999", True),
        ("ema-m>0.999", False),
        ("batch_size>=32 and batch-size<33", True),
        ("seed>2.5", True),
        ("lr_pred==auto", True),
        ("lr_pred==null", True),
        ("lr_pred<1 ", False),
        ("lr_pred>=0", False),
        ("lr_pred!=0.5", True),
        ("lr_enc==auto", False),
        ("lr_enc!=AUTO", True),
        ("lr_enc_mode==null", True),
        ("lr_enc_mode!=auto", True),
        ("hidden==null", True),
        ("stop_grad==true", True),
        ("stop_grad=False", False),
        ("sampler==population", True),
        ("sampler!='population'", False),
        ("status==diverged and reached<10", True),
        ("run_id==0123456789ab", True),
        ("latent_spectrum==1.0,2", True),
        ("latent_spectrum==flat:1", False),
    ],
)
def test_comparisons(text, expected):
    assert parse_where(text)(KNOWN) is expected


def test_every_name_can_be_compared_with_its_own_value():
    """What a table shows of a run finds it again, whatever the type."""
    for name in NAMES:
        word = "null" if KNOWN[name] is None else str(KNOWN[name])
        assert parse_where(f"{name}=={word}")(KNOWN), name
        assert not parse_where(f"{name}!={word}")(KNOWN), name
    assert parse_where(None)(KNOWN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be comparisons like tau<1e-2"),
        ("tau", "must be comparisons like tau<1e-2"),
        ("1e-2>tau", "unknown name '1e_2'"),
        ("1e-4<tau<1e-2", "with the name first"),
        ("tau<1e-2 or tau>1", "joined by 'and', with the name first"),
        ("tau<1e-2 and", "must be comparisons like tau<1e-2"),
        ("tau<<1", "must be comparisons like tau<1e-2"),
        ("__import__('os')==1", "must be comparisons like tau<1e-2"),
        ("taus<1", "unknown name 'taus': did you mean 'tau'"),
        ("lrpred<1", "did you mean 'lr_pred'"),
        ("zzz<1", "unknown name 'zzz': must be one of run_id, status, reached, d_latent"),
        ("loss_pops<1", "unknown name 'loss_pops': did you mean 'loss_pop'"),
        ("loss_pop<auto", "loss_pop must be compared with a number or null, not 'auto'"),
        ("loss_pop<null", "loss_pop null has no order: must be compared by == or !="),
        ("tau<small", "tau must be compared with a number, not 'small'"),
        ("tau==auto", "tau must be compared with a number, not 'auto'"),
        ("tau<nan", "tau must be compared with a number, not 'nan'"),
        ("lr_pred<x", "lr_pred must be compared with a number, auto or null, not 'x'"),
        ("lr_pred<auto", "lr_pred auto has no order: must be compared by == or !="),
        ("sampler<population", "sampler population has no order"),
        ("sampler==populatoin", "sampler must be one of minibatch, moments, population, not 'populatoin'"),
        ("status==done", "status must be one of completed, diverged, failed, not 'done'"),
        ("stop_grad==1.5", "stop_grad must be true or false, not '1.5'"),
        ("latent_spectrum==cubic:1", "latent_spectrum must be geometric:LO:HI"),
    ],
)
def test_what_cannot_be_compared_is_one_line(text, message):
    for command in ("ls", "export", "figs"):
        code, out, err = byolsim(f"{command} --where {shlex.quote(text)}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"byolsim: --where {text!r}") and message in err


# --- ls ---


def rows_of(out: str) -> list[dict[str, str]]:
    header, *lines, _ = out.splitlines()
    return [dict(zip(header.split(), line.split(), strict=False)) for line in lines]


def test_ls_lists_runs_and_failures_in_order(runs):
    failed = RunConfig(seed=5, epochs=20)
    save_failure(runs, failed, "killed by\nsignal 9")
    code, out, err = byolsim("ls")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "5 runs: 3 completed, 1 diverged, 1 failed"
    rows = rows_of(out)
    assert [row["lr_enc_mode"] for row in rows] == ["-", "-", "same", "same", "same"]
    assert [row["tau"] for row in rows] == ["0.001", "0.01", "0.001", "0.01", "0.1"]
    assert [row["status"] for row in rows] == ["failed", "completed", "completed", "completed", "diverged"]
    assert [row["reached"] for row in rows] == ["-", "20", "20", "20", "15"]
    assert [row["lr_pred"] for row in rows] == ["auto", "auto", "0.001", "0.001", "0.001"]
    assert f"_failed/{failed.run_id}.failed.json: killed by signal 9" in out.splitlines()[1]
    assert all((runs / row["file"]).exists() for row in rows[1:])
    assert "mom_pred" not in out, "what is the same in all runs is left out"
    store_made_up(runs, mom_pred=0.5)
    assert {row["mom_pred"] for row in rows_of(byolsim("ls")[1])} == {"0.95", "0.5"}


def test_ls_is_not_cut_where_it_is_piped(runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    name = "long" * 40 + ".parquet"
    (runs / name).write_bytes(encode(made_up(seed=9)))
    assert any(line.endswith(name) for line in byolsim("ls")[1].splitlines())


@pytest.mark.parametrize(
    "options",
    ["--where 'tau<1e-1 and lr_enc_mode==same'", "--where 'tau<1e-1' --where lr_enc_mode==same", "--config c.toml"],
)
def test_ls_filters(runs, options):
    Path("c.toml").write_text('where = "tau<1e-1 and lr_enc_mode==same"\n')
    code, out, _ = byolsim(f"ls {options}")
    assert code == 0 and out.splitlines()[-1] == "2 of 4 runs: 2 completed"
    assert [row["tau"] for row in rows_of(out)] == ["0.001", "0.01"]


def test_ls_where_nothing_fits(runs):
    code, out, err = byolsim("ls --where 'tau>0.5'")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "0 of 4 runs"


def test_a_failure_is_history_once_the_run_is_there(runs):
    config = made_up(tau=1e-2, seed=2).config
    save_failure(runs, config, "killed")
    assert byolsim("ls")[1].splitlines()[-1] == "4 runs: 3 completed, 1 diverged"
    run_path(runs, config).unlink()
    assert byolsim("ls --where status==failed")[1].splitlines()[-1] == "1 of 4 runs: 1 failed"
    clear_failure(runs, config)
    for path in runs.iterdir():
        path.unlink()
    save_failure(runs, config, "killed")
    assert byolsim("ls")[1].splitlines()[-1] == "1 run: 1 failed"


def test_ls_as_csv_and_json_has_every_hyperparameter(runs):
    save_failure(runs, RunConfig(seed=5), 'no "memory", left')
    code, text, err = byolsim("ls --format json")
    assert (code, err) == (0, "5 runs: 3 completed, 1 diverged, 1 failed\n")
    runs_json = json.loads(text)
    assert text.count("\n") == 5, "one line a run"
    for run in runs_json:
        config = RunConfig(**{name: run[name] for name in hyperparameters(RunConfig)})
        assert config.run_id == run["run_id"] and config.ema_m == run["ema_m"]
    rows = list(csv.DictReader(io.StringIO(byolsim("ls --format csv")[1])))
    assert [row["run_id"] for row in rows] == [run["run_id"] for run in runs_json]
    assert set(rows[0]) == set(runs_json[0]) == {*NAMES, "file", "reason"}
    assert rows[0]["reason"] == runs_json[0]["reason"] == 'no "memory", left'
    assert rows[0]["lr_pred"] == "" and runs_json[0]["lr_pred"] is None


# --- export ---


def exported(path: str) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True)


def test_export_is_load_runs_in_one_file(runs, monkeypatch):
    """Also where the rows come in several batches."""
    (path, *_) = sorted(runs.iterdir())
    (runs / "zz_copy.parquet").write_bytes(path.read_bytes())
    code, out, err = byolsim("export")
    assert (code, out, err) == (0, "wrote runs.parquet (11 rows of 4 runs)\n", "")
    assert exported("runs.parquet").schema == schema()
    assert exported("runs.parquet").equals(load_runs(runs))
    monkeypatch.setattr(export, "ROWS_AT_ONCE", 4)
    assert byolsim("export --to many/few.parquet")[0] == 0
    assert pq.ParquetFile("many/few.parquet").num_row_groups == 2
    assert exported("many/few.parquet").equals(load_runs(runs))


def test_export_as_csv(runs):
    assert byolsim("export --to runs.csv")[1] == "wrote runs.csv (11 rows of 4 runs)\n"
    strings = {field.name: field.type for field in schema()}
    table = pa.csv.read_csv(
        "runs.csv", convert_options=pa.csv.ConvertOptions(column_types=strings, strings_can_be_null=True)
    )
    assert table.equals(load_runs(runs).cast(table.schema))


def test_export_of_some(runs):
    assert byolsim("export --where status==diverged")[1] == "wrote runs.parquet (2 rows of 1 run)\n"
    assert set(exported("runs.parquet")["tau"].to_pylist()) == {0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to runs_parquet/all.parquet", "is in the runs folder 'runs_parquet'"),
        ("--to runs_parquet/deep/all.parquet", "is in the runs folder 'runs_parquet'"),
        ("--to x/../runs_parquet/all.csv", "is in the runs folder 'runs_parquet'"),
        ("--to link/all.parquet", "is in the runs folder 'runs_parquet'"),
        ("--to there.parquet", "is there already: choose another name, or --force to replace it"),
        ("--to folder.parquet", "is a folder: must be a file"),
        ("--to folder.parquet --force", "is a folder: must be a file"),
        ("--to runs.xlsx", "must be a name that ends in .parquet or .csv"),
        ("--to runs", "must be a name that ends in .parquet or .csv"),
        ("--to ''", "--to = '' is not allowed"),
        ("--to there.parquet/x.parquet", "cannot write there.parquet/x.parquet"),
        (f"--to {300 * 'a'}.parquet", "File name too long"),
        ("--config nul.toml", "--to 'a\\x00.parquet' cannot be written"),
        ("--where seed==77", "--where 'seed==77' selects none of the 4 runs in 'runs_parquet'"),
        ("--runs_dir nowhere --to new/x.parquet", "runs folder 'nowhere' is not there"),
    ],
)
def test_what_export_refuses(runs, options, message):
    Path("there.parquet").write_text("mine")
    Path("folder.parquet").mkdir()
    Path("link").symlink_to("runs_parquet")
    Path("nul.toml").write_text('to = "a\\u0000.parquet"')
    before = sorted(Path().rglob("*"))
    code, out, err = byolsim(f"export {options}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert sorted(Path().rglob("*")) == before and Path("there.parquet").read_text() == "mine"


def test_export_replaces_by_force_and_whole(runs, monkeypatch):
    Path("runs.parquet").write_text("mine")
    mode = stat.S_IMODE(Path("runs.parquet").stat().st_mode)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        code, out, err = byolsim("export --force")
    assert (code, out, err) == (2, "", "byolsim: cannot write runs.parquet: No space left on device\n")
    assert Path("runs.parquet").read_text() == "mine"
    assert byolsim("export --force")[0] == 0
    assert exported("runs.parquet").num_rows == 11
    assert stat.S_IMODE(Path("runs.parquet").stat().st_mode) == mode
    assert sorted(path.name for path in Path().iterdir()) == ["runs.parquet", "runs_parquet"]


def test_a_reader_that_stops_early_is_no_error(runs):
    """`byolsim ls | head`: nothing to say, nobody to say it to."""
    child = subprocess.Popen([sys.executable, "-m", "byolsim", "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == (b"", 1)
    child.stderr.close()


def test_what_export_writes_is_read_by_every_reader(runs):
    """As a file in place of a folder, and in a folder beside runs, each run once; the same pictures and list."""
    listed, table = byolsim("ls --format json")[1], load_runs(runs)
    line = "figs --metric loss_pop --epoch 20"
    assert byolsim(f"{line} --out a")[0] == 0
    assert byolsim("export --to box/all.parquet")[0] == 0
    assert load_runs("box").equals(table) and load_runs("box/all.parquet", ["tau"]).equals(table.select(["tau"]))
    for place in ("box", "box/all.parquet"):
        again = [without_file(run) for run in json.loads(byolsim(f"ls --format json --runs_dir {place}")[1])]
        assert again == [without_file(run) for run in json.loads(listed)]
        assert byolsim(f"{line} --out b --runs_dir {place}")[::2] == (0, "")
        assert sorted(p.name for p in Path("a").iterdir()) == sorted(p.name for p in Path("b").iterdir())
        assert all(p.read_bytes() == (Path("b") / p.name).read_bytes() for p in Path("a").glob("*heatmap*.png"))
    store_made_up(Path("box"), seed=3)
    (one, *_) = runs.iterdir()
    shutil.copy(one, "box")
    assert byolsim("ls --runs_dir box")[1].splitlines()[-1] == "5 runs: 4 completed, 1 diverged"
    assert byolsim("export --runs_dir box --to again.parquet --where status==diverged")[0] == 0
    assert byolsim("ls --runs_dir again.parquet")[1].splitlines()[-1] == "1 run: 1 diverged"


def without_file(run: dict) -> dict:
    return {name: value for name, value in run.items() if name != "file"}


def test_an_export_of_several_row_groups_gives_each_run_its_rows(runs, monkeypatch):
    """Runs that begin in one row group and end in the next."""
    truth = {info.run_id: table for info, table in each_run(runs, schema().names, [])}
    monkeypatch.setattr(export, "ROWS_AT_ONCE", 4)
    assert byolsim("export")[0] == 0
    found = {info.run_id: (info, table) for info, table in each_run("runs.parquet", schema().names, [])}
    assert found.keys() == truth.keys()
    for run_id, (info, table) in found.items():
        assert table.equals(truth[run_id]) and set(table["run_id"].to_pylist()) == {run_id}
        assert info.rows == table.num_rows and info.details["wall_s"] == 0.5


@pytest.mark.parametrize("text", [b"", b"!", base64.b64encode(b"x"), base64.b64encode(zlib.compress(b"{}\n{}"))])
def test_a_crafted_export_is_one_line(runs, text):
    Path("box").mkdir()
    assert byolsim("export --to box/all.parquet")[0] == 0
    table = pq.read_table("box/all.parquet")
    metadata = {b"byolsim.runs": text, b"byolsim.sha256": hashlib.sha256(text).hexdigest()}
    pq.write_table(table.replace_schema_metadata(metadata), "box/all.parquet")
    code, _, err = byolsim("ls --runs_dir box")
    assert code == 2 and "damaged metadata" in err and err.count("\n") == 1


def test_a_bomb_in_an_export_is_not_unpacked(runs):
    """One line of a gigabyte, packed in a megabyte."""
    Path("box").mkdir()
    assert byolsim("export --to box/all.parquet")[0] == 0
    packer = zlib.compressobj()
    packed = b"".join([*(packer.compress(bytes(2**20)) for _ in range(1024)), packer.flush()])
    text = base64.b64encode(packed)
    metadata = {b"byolsim.runs": text, b"byolsim.sha256": hashlib.sha256(text).hexdigest()}
    pq.write_table(pq.read_table("box/all.parquet").replace_schema_metadata(metadata), "box/all.parquet")
    tracemalloc.start()
    code, _, err = byolsim("ls --runs_dir box")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code == 2 and "a line too long" in err
    assert peak < 2**25


def test_many_short_runs_are_held_as_one_table(monkeypatch):
    """A table takes far more than its few rows: no more than some are held, whatever the folder."""
    held: list[int] = []
    table = pa.table({"x": [1]})

    def tables():
        for _ in range(1000):
            yield table.slice(0)

    original = pa.concat_tables
    monkeypatch.setattr(pa, "concat_tables", lambda parts: (held.append(len(parts)), original(parts))[1])
    assert sum(batch.num_rows for batch in export._batches(tables())) == 1000
    assert max(held) <= export.TABLES_AT_ONCE


def test_what_a_killed_export_left_is_cleared(runs):
    """In the folder of the file, by the next export; the files of live writers stay."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    Path("box").mkdir()
    mine = temporary_path(Path("box"))
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{int(ended.stdout)}-"))
    for path in (mine, left):
        path.write_bytes(b"x")
    assert byolsim("export --to box/all.parquet")[0] == 0
    assert sorted(path.name for path in Path("box").iterdir()) == sorted([mine.name, "all.parquet"])
