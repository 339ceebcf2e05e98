"""RunRecord <-> Parquet: one file a run, complete or not there at all (SPEC 7)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from byolsim.config import SCHEMA_VERSION, RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.layout import CHECKSUM_KEY, METADATA_KEY, encode, schema
from byolsim.record import RunRecord
from byolsim.seal import Seal, read_seal
from byolsim.temporary import temporary_path

SUFFIX = ".parquet"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a file does not fit: disk, quota, limit on the size of a file."""

_DAMAGE = (OSError, pa.ArrowException, ValueError, OverflowError)
"""What reading a damaged file can raise."""


@dataclass(frozen=True)
class RunInfo:
    """What a file says of its run besides the rows: the metadata of SPEC 7."""

    path: Path
    run_id: str
    config: RunConfig
    status: str
    diverged_epoch: int | None
    rows: int
    details: Mapping[str, Any]


def file_name(config: RunConfig) -> str:
    """Readable name that ends in the run's id."""

    def rate(value: float | None) -> str:
        return "auto" if value is None else f"{value:g}"

    kind = f"sweep_{config.lr_enc_mode}" if config.lr_enc_mode else "run"
    return (
        f"{kind}_seed{config.seed}_bs{config.batch_size}_tau{config.tau:g}_lrpred{rate(config.lr_pred)}"
        f"_lrenc{rate(config.lr_enc)}-{config.run_id}{SUFFIX}"
    )


def run_path(out_dir: str | Path, config: RunConfig, run_name: str | None = None) -> Path:
    """The file of a run in its folder.

    Raises
    ------
    UserError
        If `run_name` is not a plain file name: it must not leave the folder.
    """
    if run_name is None:
        return Path(out_dir) / file_name(config)
    if not _is_plain(run_name.removesuffix(SUFFIX)):
        raise UserError(
            f"run_name {run_name!r} is not allowed: must be a plain file name, with no folder, leading dot, dash or "
            "underscore, and none that Windows keeps for devices"
        )
    if len(run_name.encode()) > 200:
        raise UserError(f"run_name {run_name[:20]!r}... is not allowed: must be at most 200 bytes long")
    return Path(out_dir) / (run_name.removesuffix(SUFFIX) + SUFFIX)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a visible file on every system; `con.txt` is a device on Windows."""
    if not name or not name.isprintable() or name != name.strip() or name.startswith((".", "-", "_")):
        return False
    return not set('/\\:*?"<>|') & set(name) and name.split(".")[0].strip().upper() not in _DEVICES


_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
_DEVICES |= {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}


def save(record: RunRecord, path: Path) -> Path:
    """Write a record: to a temporary name in the same folder, flushed to disk, then renamed.

    Raises
    ------
    UserError
        If the folder cannot be written, `DiskFull` if the file does not fit; no partial file is left.
    """
    try:
        data = encode(record)
    except pa.ArrowException as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return write_whole(path, data)


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file that appears complete or not at all; `UserError` as `whole_file`."""
    with whole_file(path) as file:
        file.write(data)
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears complete or not at all: temporary name, flush to disk, rename; folders are made.

    Raises
    ------
    UserError
        If it cannot be written, `DiskFull` among them; no partial file is left.
    """
    temporary = temporary_path(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kind = DiskFull if error.errno in FULL else UserError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can; the file is whole and in its place in any case."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_info(path: Path, *, whole: bool = False) -> RunInfo:
    """Read what a file says of its run, without its rows; with `whole`, make sure that every byte is intact.

    Raises
    ------
    UserError
        If the file is truncated, foreign, damaged or of another schema version.
    """
    with _opened(path) as run:
        if whole:
            _check_rows(run)
        return run.info


def read_columns(path: Path, columns: Sequence[str]) -> tuple[RunInfo, pa.Table]:
    """A file's info and the named columns of its rows, checksums verified; `UserError` as `read_info`."""
    with _opened(path) as run:
        try:
            return run.info, run.file.read(columns=list(columns), use_threads=False)
        except _DAMAGE as error:
            raise UserError(f"{path}: damaged rows ({_first_line(error)})") from error


@dataclass(frozen=True)
class _Opened:
    """An open file of a run whose footer and metadata are intact."""

    info: RunInfo
    file: pq.ParquetFile
    source: pa.NativeFile
    seal: Seal | None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """Open a run's file, with page checksums verified on every read; `UserError` if it is none."""
    with contextlib.ExitStack() as stack:
        try:
            if not path.is_file():  # a pipe of that name would wait for its writer for ever
                raise UserError(f"{path}: not a complete Parquet file (not a file)")
            source = stack.enter_context(pa.OSFile(os.fsencode(path)))
            seal = read_seal(source.size(), source.read_at)
            file = stack.enter_context(pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False))
            form, rows = file.schema_arrow, file.metadata.num_rows
        except _DAMAGE as error:
            raise UserError(f"{path}: not a complete Parquet file ({_first_line(error)})") from error
        yield _Opened(_info(path, form, rows), file, source, seal)


def _check_rows(run: _Opened) -> None:
    """Read every byte of the rows; a file without a seal, written by another program, is decoded instead."""
    try:
        if run.seal is None:
            for group in range(run.file.num_row_groups):
                run.file.read_row_group(group, use_threads=False)
        elif not run.seal.holds(run.source.read_at):
            raise ValueError("checksum of the pages")
    except _DAMAGE as error:
        raise UserError(f"{run.info.path}: damaged rows ({_first_line(error)})") from error


def _info(path: Path, form: pa.Schema, rows: int) -> RunInfo:
    metadata = form.metadata or {}
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise UserError(f"{path}: not a byolsim file")
    if hashlib.sha256(text).hexdigest().encode() != metadata.get(CHECKSUM_KEY):
        raise UserError(f"{path}: damaged metadata (checksum)")
    try:
        details = json.loads(text)
        if details["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{path}: schema version {details['schema_version']}, not {SCHEMA_VERSION}")
        if form != schema():
            raise UserError(f"{path}: damaged or foreign columns")
        return RunInfo(
            path=path,
            run_id=details["run_id"],
            config=RunConfig(**details["config"]),
            status=details["status"],
            diverged_epoch=details["diverged_epoch"],
            rows=rows,
            details=details,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged metadata ({_first_line(error)})") from error


def is_complete(path: Path, config: RunConfig) -> bool:
    """Whether the complete file of this very configuration is there, every byte of it intact."""
    try:
        return exists(path) and read_info(path, whole=True).run_id == config.run_id
    except UserError:
        return False


def exists(path: Path) -> bool:
    """Whether there is such a file; `UserError` where the system cannot say (a name too long, a folder locked)."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
