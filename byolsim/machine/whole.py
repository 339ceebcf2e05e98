"""Files that appear complete or not at all, and folders of which it is known beforehand that they take one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from byolsim.errors import DiskFull, UserError
from byolsim.machine.temporary import clear_leftovers, temporary_path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a file does not fit: disk, quota, limit on the size of a file."""


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


def check_writable(folder: str | Path, option: str = "out_dir") -> None:
    """Make a folder and prove that a file can be made in it, before hours are spent; `UserError` if not.

    What killed processes left in it in the middle of a write is removed on the way. `option` is what named the folder.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe(path)
        clear_leftovers(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {str(folder)!r} cannot be written: {why}") from error


def probe(folder: Path) -> None:
    """Make a file in a folder and remove it; `OSError` where the folder takes none."""
    file = temporary_path(folder)
    file.touch()
    file.unlink()
