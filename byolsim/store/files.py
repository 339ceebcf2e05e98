"""RunRecord <-> Parquet: one file a run, complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from byolsim.config.run import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.machine.temporary import temporary_path
from byolsim.record import RunRecord
from byolsim.store.columns import encode as encode
from byolsim.store.columns import encoded
from byolsim.store.columns import schema as schema
from byolsim.store.details import Foreign, RunInfo
from byolsim.store.runfile import RunFile, opened

SUFFIX = ".parquet"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a file does not fit: disk, quota, limit on the size of a file."""


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
        parts = encoded(record)
    except pa.ArrowException as error:
        raise UserError(f"cannot write {path}: {error}") from error
    with whole_file(path) as file:
        file.writelines(parts)
    return path


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file that appears complete or not at all; `UserError` as `whole_file`."""
    with whole_file(path) as file:
        file.write(data)
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, and read again, that appears complete or not at all: temporary name, flush, rename.

    Its folders are made.

    Raises
    ------
    UserError
        If it cannot be written, `DiskFull` among them; no partial file is left.
    """
    temporary = temporary_path(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x+b") as file:
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
    """Read what a run's file says of its run, without its rows; with `whole`, make sure that every byte is intact.

    Raises
    ------
    UserError
        If the file is truncated or damaged; `Foreign` if it is intact but of another schema version, of many runs or
        of another program.
    """
    with opened(path) as run:
        _check_single(run)
        info = next(run.infos())
        if whole:
            run.check_all()
        return info


def read_columns(path: Path, columns: Sequence[str]) -> tuple[RunInfo, pa.Table]:
    """A run's info and the named columns of its rows, checksums verified; `UserError` as `read_info`."""
    with opened(path) as run:
        _check_single(run)
        return next(run.tables(columns))


def _check_single(run: RunFile) -> None:
    if not run.is_one_run:
        raise Foreign(f"{run.path}: holds many runs, written by export")


def each_info(path: Path) -> Iterator[tuple[RunInfo, None]]:
    """What a file says of each of its runs, every byte checked; `UserError` as `read_info`."""
    with opened(path) as runs:
        if runs.is_one_run:  # rows are compared with what the run logged before they are read
            info = next(runs.infos())
            runs.check_all()
            yield info, None
            return
        runs.check_all()
        for info in runs.infos():
            yield info, None


def each_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[RunInfo, pa.Table]]:
    """Each run of a file with the named columns of its rows, checksums verified; `UserError` as `read_info`."""
    with opened(path) as runs:
        yield from runs.tables(columns)


def is_complete(path: Path, config: RunConfig) -> bool:
    """Whether the complete file of this very configuration is there, every byte of it intact."""
    try:
        return exists(path) and read_info(path, whole=True).run_id == config.run_id
    except UserError:
        return False


def check_place(path: Path, config: RunConfig) -> None:
    """`UserError` where a file stands that is not to be replaced unasked: intact, and not this run's."""
    if not exists(path):
        return
    try:
        info = read_info(path, whole=True)
    except Foreign as error:
        raise UserError(f"{error}: it is not replaced; move it away, or --force") from None
    except UserError:  # damaged: nothing that could be lost
        return
    if info.run_id != config.run_id:
        raise UserError(f"{path} holds another run, {info.run_id}: it is not replaced; move it away, or --force")


def exists(path: Path) -> bool:
    """Whether there is such a file; `UserError` where the system cannot say (a name too long, a folder locked)."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return True
