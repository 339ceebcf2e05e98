"""Run files and their seals; bad files among good ones, for every reader of a folder."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as dataset
import pyarrow.parquet as pq
import pytest
from cases import byolsim, four_runs, made_up

from byolsim import load_runs
from byolsim.analysis.select import select_grids
from byolsim.config.commands import FigsConfig
from byolsim.errors import UserError
from byolsim.store.columns import encode, schema
from byolsim.store.files import is_complete, read_columns, read_info
from byolsim.store.folder import read_folder
from byolsim.store.seal import LENGTH, MARK, read_seal


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs() -> Path:
    return four_runs(Path("runs_parquet"))


# --- the seal ---


def footer_of(data: bytes) -> int:
    return len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]


def test_every_reader_of_parquet_reads_a_sealed_file(runs):
    """The seal stands in a gap: pyarrow's reader and its dataset see the same table, the metadata and the checksum."""
    (path, *_) = sorted(runs.iterdir())
    data = path.read_bytes()
    assert data[footer_of(data) - LENGTH :].startswith(MARK)
    plain = pq.read_table(path, page_checksum_verification=True)
    assert plain.schema.remove_metadata() == schema()
    assert plain.replace_schema_metadata(None).equals(
        read_columns(path, schema().names)[1].replace_schema_metadata(None)
    )
    metadata = pq.read_schema(path).metadata
    assert hashlib.sha256(metadata[b"byolsim"]).hexdigest().encode() == metadata[b"byolsim.sha256"]
    assert dataset.dataset(runs, format="parquet").to_table().num_rows == 11


def test_no_flipped_bit_of_the_footer_is_missed(tmp_path):
    """Parquet has no checksum there, and some flips gave other numbers in silence. Every 101st bit is tried."""
    good = encode(made_up())
    path = tmp_path / "x.parquet"
    start = footer_of(good) - LENGTH + len(MARK)
    for bit in range(8 * start, 8 * len(good), 101):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(bad))
        with pytest.raises(UserError):
            read_info(path, whole=True)


def test_whole_reads_every_byte_of_the_rows(tmp_path):
    good, path = encode(made_up()), tmp_path / "x.parquet"
    seal = read_seal(len(good), lambda length, at: good[at : at + length])
    for at in range(4, seal.pages, 101):
        bad = bytearray(good)
        bad[at] ^= 0x20
        path.write_bytes(bytes(bad))
        read_info(path)
        with pytest.raises(UserError, match="damaged rows"):
            read_info(path, whole=True)


def test_a_file_that_another_program_wrote_again_is_a_run_still(runs):
    """Without a seal its pages are decoded, and their checksums count."""
    (path, *_) = sorted(runs.iterdir())
    info, table = read_columns(path, schema().names)
    pq.write_table(pq.read_table(path), path, write_page_checksum=True)
    again, same = read_columns(path, schema().names)
    assert (again.run_id, again.details) == (info.run_id, info.details)
    assert same.replace_schema_metadata(None).equals(table.replace_schema_metadata(None))
    assert is_complete(path, info.config)
    bad = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(schema().names.index("gap"))
    bad[chunk.dictionary_page_offset + chunk.total_compressed_size - 1] ^= 0x10
    path.write_bytes(bytes(bad))
    assert not is_complete(path, info.config)


# --- bad files among good ones ---


def spoil(folder: Path) -> dict[str, str]:
    """Every kind of bad file, and the reason that each reader must give."""
    good = encode(made_up(seed=99))
    footer, flip = footer_of(good), lambda at: good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]
    loss = pq.ParquetFile(pa.BufferReader(good)).metadata.row_group(0).column(schema().names.index("loss_pop"))
    content = {
        "truncated": (good[: len(good) // 2], "not a complete Parquet file"),
        "no_end": (good[:-1], "not a complete Parquet file"),
        "empty": (b"", "not a complete Parquet file"),
        "text": (b"not parquet at all", "not a complete Parquet file"),
        "zeros": (bytes(len(good)), "not a complete Parquet file"),
        "page": (flip(loss.data_page_offset + loss.total_compressed_size - 3), "damaged rows"),
        "footer": (flip(footer + 10), "checksum of the footer"),
        "name": (flip(good.index(b"run_id", footer)), "checksum of the footer"),
        "metadata": (flip(good.index(b'"numerics_version"')), "checksum of the footer"),
        "length": (flip(len(good) - 7), "not a complete Parquet file"),
    }
    for name, (data, _) in content.items():
        (folder / f"{name}.parquet").write_bytes(data)
    pq.write_table(pa.table({"x": [1.0], "epoch": [0]}), folder / "foreign.parquet")
    (folder / "folder.parquet").mkdir()
    (folder / "dangling.parquet").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.parquet")
    os.mkfifo(folder / "ignored.txt")
    reasons = {name: reason for name, (_, reason) in content.items()}
    return reasons | {
        "foreign": "not a byolsim file",
        "folder": "not a file",
        "dangling": "not a file",
        "pipe": "not a file",
    }


def all_named(lines: list[str], reasons: dict[str, str]) -> bool:
    """Each bad file in one line, with its reason, and nothing else."""
    found = {name: [line for line in lines if f"/{name}.parquet: " in line] for name in reasons}
    return len(lines) == len(reasons) and all(
        len(found[name]) == 1 and reason in found[name][0] for name, reason in reasons.items()
    )


needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes or links to make")


@needs_fifo
def test_every_reader_names_bad_files_and_uses_the_rest(runs):
    reasons = spoil(runs)
    folder = read_folder(runs, ["epoch", "loss_pop"])
    assert len(folder.runs) == 4 and all_named(folder.skipped, reasons)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_runs(runs).num_rows == 11
    assert all_named([str(warning.message).removeprefix("skipped ") for warning in caught], reasons)

    (runs / "_failed").mkdir()
    (runs / "_failed" / "0.failed.json").write_text("{")
    for line, last in {
        "ls": "4 runs: 3 completed, 1 diverged",
        "export --to all.parquet": "wrote all.parquet (11 rows of 4 runs)",
        "figs --metric loss_pop --epoch 20": "figs/slices_loss_vs_alpha_bs64_epoch20.png",
    }.items():
        code, out, err = byolsim(line)
        *lines, count = err.splitlines()
        if line == "ls":
            assert "0.failed.json: not a record of a failed run" in lines.pop(0)
        assert code == 0 and out.splitlines()[-1].endswith(last)
        assert count == f"{len(reasons) + (line == 'ls')} files skipped"
        assert all_named([one.removeprefix("skipped ") for one in lines], reasons)
    assert pq.read_table("all.parquet").num_rows == 11


@needs_fifo
def test_a_folder_of_bad_files_only_is_one_line():
    Path("bad").mkdir()
    spoil(Path("bad"))
    for line in ("ls --runs_dir bad", "export --runs_dir bad", "figs --runs_dir bad"):
        code, out, err = byolsim(line)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "holds no run" in err and "(14 files could not be read" in err
    assert sorted(path.name for path in Path().iterdir()) == ["bad"], "nothing is written"


def test_a_file_that_may_not_be_read_is_named(runs, monkeypatch):
    """The superuser may read everything, so the system's answer is put in its place."""
    (locked, *_) = sorted(runs.iterdir())

    def opened(path: bytes, source: Any = pa.OSFile) -> Any:
        if Path(os.fsdecode(path)) == locked:
            raise PermissionError(13, "Permission denied")
        return source(path)

    monkeypatch.setattr(pa, "OSFile", opened)
    code, out, err = byolsim("ls")
    assert code == 0 and out.splitlines()[-1].startswith("3 runs")
    assert f"skipped {locked}: not a complete Parquet file ([Errno 13] Permission denied)" in err


def test_a_damaged_first_copy_does_not_hide_the_second(runs):
    (path, *_) = sorted(runs.iterdir())
    (runs / "z.parquet").write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    folder = read_folder(runs, ["epoch"])
    assert len(folder.runs) == 4 and len(folder.skipped) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_file_names_that_no_terminal_can_show(runs):
    """Not text, and of two lines: read as any file, and shown with escapes."""
    for seed, name in ((7, b"\xff\xfe.parquet"), (8, b"two\nlines.parquet")):
        (runs / os.fsdecode(name)).write_bytes(encode(made_up(seed=seed)))
    (runs / os.fsdecode(b"bad\n\xff.parquet")).write_bytes(b"")
    code, out, err = byolsim("ls --where seed>=7")
    assert code == 0 and out.splitlines()[-1] == "2 of 6 runs: 2 completed"
    assert "\\udcff\\udcfe.parquet" in out and "two\\nlines.parquet" in out
    assert err.count("\n") == 2 and "bad\\n\\udcff.parquet" in err
    assert byolsim("export --where seed>=7")[1] == "wrote runs.parquet (6 rows of 2 runs)\n"


# --- many files ---


def test_figs_read_no_more_than_they_draw(runs, monkeypatch):
    """Of each file the columns that are asked for, and of the rest nothing: not the whole folder, not twice."""
    asked: list[list[str]] = []
    read = pq.ParquetFile.read

    def counted(self: Any, columns: list[str] | None = None, **options: Any) -> pa.Table:
        asked.append(list(columns or []))
        return read(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", counted)
    select_grids(FigsConfig(runs_dir=str(runs), epoch=20), ["loss_pop"])
    assert asked == 4 * [["epoch", "loss_pop", "Hmax_exact"]]
