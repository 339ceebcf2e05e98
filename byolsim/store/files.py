"""RunRecord <-> Parquet: one file a run, complete or not there at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.whole import whole_file
from byolsim.record import RunRecord
from byolsim.store.columns import encoded
from byolsim.store.details import Foreign, RunInfo
from byolsim.store.runfile import RunFile, opened


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
