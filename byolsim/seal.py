"""The seal of a run's file: checksums of all its bytes, in the gap between Parquet's pages and its footer.

Parquet's own checksums cover each page, and nothing covers the footer, which says where the pages are, how many rows
they hold and what their least and largest value is: one flipped bit there can give wrong numbers in silence. Readers
of Parquet find everything by offsets, so what stands between the last page and the footer is seen by nobody else:

    pages | MARK | SHA-256 of the pages | SHA-256 of all that follows and of the former | footer, its length, PAR1
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

MARK = b"byolsim seal 1\r\n"
LENGTH = len(MARK) + 2 * 32
_TAIL = 8
"""Bytes of a Parquet file after the footer: its length, and the mark PAR1."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Seal:
    """What a file says of its pages: how many bytes they take, and their SHA-256."""

    pages: int
    digest: bytes

    def holds(self, read_at: Callable[[int, int], bytes]) -> bool:
        """Whether the pages are as they were written; `read_at(length, offset)` gives bytes of the file."""
        digest = hashlib.sha256()
        for start in range(0, self.pages, _CHUNK):
            digest.update(read_at(min(_CHUNK, self.pages - start), start))
        return digest.digest() == self.digest


def sealed(data: bytes) -> bytes:
    """A Parquet file's bytes with the seal put in."""
    end = _end_of_pages(len(data), data[-_TAIL:])
    pages = hashlib.sha256(data[:end]).digest()
    rest = hashlib.sha256(pages + data[end:]).digest()
    return b"".join((data[:end], MARK, pages, rest, data[end:]))


def read_seal(size: int, read_at: Callable[[int, int], bytes]) -> Seal | None:
    """The seal of a file of `size` bytes, None where there is none.

    Raises
    ------
    ValueError
        If the footer is not the one that was sealed.
    """
    if size < _TAIL:
        return None
    end = _end_of_pages(size, read_at(_TAIL, size - _TAIL)) - LENGTH
    if end < 0 or read_at(len(MARK), end) != MARK:
        return None
    text = read_at(size - end, end)
    pages, rest, footer = text[len(MARK) : LENGTH - 32], text[LENGTH - 32 : LENGTH], text[LENGTH:]
    if hashlib.sha256(pages + footer).digest() != rest:
        raise ValueError("checksum of the footer")
    return Seal(end, pages)


def _end_of_pages(size: int, tail: bytes) -> int:
    """Offset of the footer, from the file's last bytes; negative where they make no sense."""
    return size - _TAIL - int.from_bytes(tail[:4], "little")
