"""Read the second moments of a pair of views from a file that anyone may have made.

Only what `numpy.savez` writes of real numbers is read: stored or deflated members, each a header of version 1 or 2 and
the bytes that it speaks of. Directory, headers, shapes and sizes are checked before any array is; nothing is unpickled.
"""

from __future__ import annotations

import ast
import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from byolsim.config.second_moments import MAX_BYTES, NAMES, SecondMoments, check_shapes, checked_moments

MAX_DIRECTORY = 2**17
"""Bytes of the list of members, which is read before anything is known of them: six arrays take some hundreds."""

MAX_HEADER = 4096
"""Bytes of an array's header; one with a shape of two numbers takes 128."""

NOT_WHOLE = "not a whole .npz file"


def read_moments(path: str | os.PathLike[str]) -> SecondMoments:
    """The second moments in a file of `World.save`, or of `numpy.savez` with the same names.

    Raises
    ------
    ValueError
        One line, if the file cannot be read, is none, or holds other things than the moments of a pair of views.
    """
    try:
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("a folder" if stat.S_ISDIR(facts.st_mode) else "not a file")
        if facts.st_size > MAX_BYTES + MAX_DIRECTORY:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        return _read(str(Path(path).resolve()), facts.st_ino, facts.st_mtime_ns, facts.st_size)
    except OSError as error:
        raise ValueError(error.strerror or NOT_WHOLE) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(NOT_WHOLE) from error


@lru_cache(maxsize=8)
def _read(path: str, inode: int, mtime_ns: int, size: int) -> SecondMoments:
    """Once for each state of a file: a grid has thousands of configurations."""
    with _Source(path) as source, zipfile.ZipFile(source) as archive:
        source.largest = MAX_BYTES
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name not in NAMES:
                raise ValueError(f"{name[:60]!r} is no array of a world: must be one of {', '.join(NAMES)}")
            if name in members:
                raise ValueError(f"{name} is there twice")
            members[name] = info
        headers = {name: _header(name, archive, info) for name, info in members.items()}
        check_shapes({name: header.shape for name, header in headers.items()})
        arrays = {name: _array(name, archive, info, headers[name]) for name, info in members.items()}
    return checked_moments(arrays)


class _Source(io.FileIO):
    """A file of which no more than `largest` bytes are read at a time: a directory of a million members is not."""

    largest = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, as `io.FileIO`; `BadZipFile` for too much."""
        asked = self.largest + 1 if size is None or size < 0 else size
        data = super().read(asked) if asked <= self.largest + 1 else None
        if data is None or len(data) > self.largest:
            raise zipfile.BadZipFile("too much at once")
        return data


class _Header(NamedTuple):
    """What an array says of itself, and where its numbers begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    start: int


def _header(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    """The header of an array, which is believed if the member is as long as it says."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError
    with archive.open(info) as member:
        magic = member.read(8)
        if magic not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
            raise ValueError(f"{name} is no array of numbers")
        length = member.read(2 if magic[6] == 1 else 4)
        size = int.from_bytes(length, "little")
        if size > MAX_HEADER:
            raise ValueError(f"{name} has a header of {size} bytes: must be at most {MAX_HEADER}")
        text, start = member.read(size), 8 + len(length) + size
    shape, dtype, fortran = _parsed(name, text)
    if start + math.prod(shape) * dtype.itemsize != info.file_size:
        raise ValueError(f"{name} is not as long as its header says")
    return _Header(shape, dtype, fortran, start)


def _parsed(name: str, text: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    """Shape, dtype and order of a header; `numpy.lib.format` takes more, and warns, for the sake of old files."""
    try:
        said = ast.literal_eval(text.decode("latin1").strip())
        shape, kind, fortran = said["shape"], said["descr"], said["fortran_order"]
    except (SyntaxError, ValueError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError(f"{name} has a header that is none") from None
    if not isinstance(kind, str) or re.fullmatch(r"[<>=|]?[fiu](1|2|4|8|12|16)", kind) is None:
        shown = "objects" if kind == "|O" else repr(kind)[:60]
        raise ValueError(f"{name} holds {shown}, not real numbers")
    if not isinstance(shape, tuple) or not all(type(v) is int and 0 <= v <= MAX_BYTES for v in shape):
        raise ValueError(f"{name} has a header that is none")
    try:
        return shape, np.dtype(kind), fortran is True
    except TypeError:
        raise ValueError(f"{name} holds {kind!r}, which this machine has not") from None


def _array(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: _Header) -> NDArray[np.generic]:
    with archive.open(info) as member:
        data = member.read(info.file_size)
        member.read(1)  # the end: the check sum
    if len(data) != info.file_size:
        raise EOFError(name)
    flat = np.frombuffer(data, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
