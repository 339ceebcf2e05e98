"""The seal of a file: checksums of all its bytes, in the gap between Parquet's pages and its footer.

Parquet's own checksums cover each page, and nothing covers the footer, which says where the pages are, how many rows
they hold and what their least and largest value is: one flipped bit there can give wrong numbers in silence. Nor do
they say which column a page belongs to: the bytes of one column over those of another are good pages still. Readers
of Parquet find everything by offsets, so what stands between the last page and the footer is seen by nobody else:

    pages | a digest of each column chunk, their number | MARK | SHA-256 of the pages | SHA-256 of the former, of what
    stands before the mark and of the footer | footer, its length, PAR1

The digests of the chunks, in the order of the footer, let a reader of few columns check what it reads. Files of an
earlier version have OLD_MARK and no such digests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

MARK = b"byolsim seal 2\r\n"
OLD_MARK = b"byolsim seal 1\r\n"
LENGTH = len(MARK) + 2 * 32
"""Bytes from the mark to the footer."""

DIGEST = 8
"""Bytes of the digest of a column chunk: it is to notice accidents."""

_COUNT = 4
_TAIL = 8
"""Bytes of a Parquet file after the footer: its length, and the mark PAR1."""

_AT_ONCE = 1 << 20

Place = tuple[int, int]
"""Where a column chunk is: offset and length in bytes."""

ReadAt = Callable[[int, int], bytes]
"""`read_at(length, offset)` gives bytes of a file."""


@dataclass(frozen=True)
class Seal:
    """What a file says of its pages.

    Attributes
    ----------
    pages : bytes that the pages take, from the start of the file.
    digest : their SHA-256.
    chunks : the digests of the column chunks, one after the other; None in a file of an earlier version.
    """

    pages: int
    digest: bytes
    chunks: bytes | None

    def holds(self, read_at: ReadAt) -> bool:
        """Whether all pages are as they were written."""
        digest = hashlib.sha256()
        for start in range(0, self.pages, _AT_ONCE):
            digest.update(read_at(min(_AT_ONCE, self.pages - start), start))
        return digest.digest() == self.digest

    def holds_chunks(self, places: Iterable[tuple[int, Place]], read_at: ReadAt) -> bool:
        """Whether the column chunks of these numbers are; all pages where the file has no digests of its chunks."""
        if self.chunks is None:
            return self.holds(read_at)
        for number, (offset, length) in places:
            if _digest(read_at(length, offset)) != self.chunks[DIGEST * number : DIGEST * (number + 1)]:
                return False
        return True


def sealed(data: memoryview, places: Sequence[Place]) -> list[bytes | memoryview]:
    """A Parquet file's bytes with the seal put in, in parts, so that they are not copied."""
    end = _end_of_pages(len(data), bytes(data[-_TAIL:]))
    chunks = [_digest(data[offset : offset + length]) for offset, length in places]
    return [data[:end], _gap(hashlib.sha256(data[:end]).digest(), chunks, data[end:]), data[end:]]


def seal_file(file: BinaryIO, places: Sequence[Place]) -> None:
    """Put the seal into a Parquet file that is open for reading and writing."""
    size = file.seek(0, os.SEEK_END)

    def read_at(length: int, offset: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    end = _end_of_pages(size, read_at(_TAIL, size - _TAIL))
    pages = hashlib.sha256()
    for start in range(0, end, _AT_ONCE):
        pages.update(read_at(min(_AT_ONCE, end - start), start))
    chunks = [_digest(read_at(length, offset)) for offset, length in places]
    footer = read_at(size - end, end)
    file.seek(end)
    file.write(_gap(pages.digest(), chunks, footer))
    file.write(footer)


def read_seal(size: int, read_at: ReadAt) -> Seal | None:
    """The seal of a file of `size` bytes, None where there is none.

    Raises
    ------
    ValueError
        If the footer is not the one that was sealed.
    """
    if size < _TAIL:
        return None
    end = _end_of_pages(size, read_at(_TAIL, size - _TAIL)) - LENGTH
    mark = read_at(len(MARK), end) if end >= 0 else b""
    if mark not in (MARK, OLD_MARK):
        return None
    text = read_at(size - end, end)
    pages, rest, footer = text[len(MARK) : LENGTH - 32], text[LENGTH - 32 : LENGTH], text[LENGTH:]
    before, chunks = b"", None
    if mark == MARK:
        count = int.from_bytes(read_at(_COUNT, end - _COUNT), "little") if end >= _COUNT else 0
        length = _COUNT + DIGEST * count
        if length > end:
            raise ValueError("checksum of the footer")
        end -= length
        before = read_at(length, end)
        chunks = before[:-_COUNT]
    if hashlib.sha256(pages + before + footer).digest() != rest:
        raise ValueError("checksum of the footer")
    return Seal(end, pages, chunks)


def _gap(pages: bytes, chunks: Sequence[bytes], footer: bytes | memoryview) -> bytes:
    before = b"".join((*chunks, len(chunks).to_bytes(_COUNT, "little")))
    rest = hashlib.sha256(pages + before)
    rest.update(footer)
    return before + MARK + pages + rest.digest()


def _digest(chunk: bytes | memoryview) -> bytes:
    return hashlib.blake2b(chunk, digest_size=DIGEST).digest()


def _end_of_pages(size: int, tail: bytes) -> int:
    """Offset of the footer, from the file's last bytes; negative where they make no sense."""
    return size - _TAIL - int.from_bytes(tail[:4], "little")
