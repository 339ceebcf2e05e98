"""Reading a file of runs: opened with care, checked for what is read, and its runs one at a time.

A file holds one run, or is what `byolsim export` writes: many runs, one after the other, and a line of JSON for each of
them, compressed, in the metadata. A column that a file lacks is null, one that is not known here is not read: files of
earlier and later versions are files of runs.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from byolsim.errors import UserError
from byolsim.store.columns import CHECKSUM_KEY, METADATA_KEY, place_of, places, schema
from byolsim.store.details import LONGEST, Foreign, RunInfo, first_line, parse_info, parse_json
from byolsim.store.seal import Place, Seal, read_seal

RUNS_KEY = b"byolsim.runs"
"""Metadata of a file of many runs: base64 of zlib of one line of JSON a run, `{"rows": ..., "details": {...}}`."""

NEEDED = ("run_id", "status", "epoch")
"""Columns without which a file holds no run."""

_DAMAGE = (OSError, pa.ArrowException, ValueError, OverflowError)
"""What reading a damaged file can raise."""

_LONGEST_FOOTER = 2**30
_AT_ONCE = 1 << 16


class RunsWriter:
    """Collects what the files of runs say of them, for the metadata of one file that holds them all."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj()
        self._parts: list[bytes] = []

    def add(self, info: RunInfo) -> None:
        """The next run of the file."""
        line = json.dumps({"rows": info.rows, "details": info.details}, sort_keys=True)
        self._parts.append(self._packer.compress(f"{line}\n".encode()))

    def metadata(self) -> dict[bytes, bytes]:
        """All of them; once."""
        text = base64.b64encode(b"".join([*self._parts, self._packer.flush()]))
        return {RUNS_KEY: text, CHECKSUM_KEY: hashlib.sha256(text).hexdigest().encode()}


@dataclass(frozen=True)
class RunFile:
    """An open file of runs whose footer and metadata are intact."""

    path: Path
    file: pq.ParquetFile
    source: pa.NativeFile
    seal: Seal | None
    form: pa.Schema
    usual: bool
    metadata: Mapping[bytes, bytes]

    @property
    def is_one_run(self) -> bool:
        """Whether it is a run's own file."""
        return METADATA_KEY in self.metadata

    def infos(self) -> Iterator[RunInfo]:
        """What the file says of its runs, in the order of their rows; `UserError` where one cannot be believed."""
        rows = self.file.metadata.num_rows
        if self.is_one_run:
            yield parse_info(self.path, self.metadata[METADATA_KEY], rows)
            return
        for line in self._lines():
            try:
                one = parse_json(line)
                text, count = json.dumps(one["details"]), one["rows"]
                if type(count) is not int or not 0 <= count <= rows:
                    raise ValueError("more rows than the file has")
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.path}: damaged metadata ({first_line(error)})") from error
            rows -= count
            yield parse_info(self.path, text, count)
        if rows:
            raise UserError(f"{self.path}: damaged metadata ({rows} rows of no run)")

    def _lines(self) -> Iterator[bytes]:
        """The lines of a file of many runs, unpacked a little at a time."""
        try:
            packed, unpacker, held = base64.b64decode(self.metadata[RUNS_KEY], validate=True), zlib.decompressobj(), b""
            while packed and not unpacker.eof:
                held += unpacker.decompress(packed, _AT_ONCE)
                packed = unpacker.unconsumed_tail
                *lines, held = held.split(b"\n")
                yield from lines
                if len(held) > LONGEST:
                    raise ValueError("a line too long")
            if held or not unpacker.eof:
                raise ValueError("cut off")
        except (binascii.Error, zlib.error, ValueError) as error:
            raise UserError(f"{self.path}: damaged metadata ({first_line(error)})") from error

    def check_all(self) -> None:
        """Read every byte of the rows; a file without a seal, written by another program, is decoded instead."""
        with self._damage_named():
            if self.seal is None:
                self._check_places()
                for group in range(self.file.num_row_groups):
                    self.file.read_row_group(group, use_threads=False)
            elif not self.seal.holds(self.source.read_at):
                raise ValueError("checksum of the pages")

    def check_columns(self, columns: Sequence[str]) -> None:
        """Check the bytes of the columns; those of all where the columns are more than half."""
        with self._damage_named():
            if self.seal is None:
                self._check_places()
            elif 2 * len(columns) > len(self.form.names):
                self.check_all()
            elif not self.seal.holds_chunks(self._places(columns), self.source.read_at):
                raise ValueError("checksum of a column")

    def _places(self, columns: Sequence[str]) -> Iterator[tuple[int, Place]]:
        """Number and place of the chunks of the columns."""
        footer, wanted = self.file.metadata, set(columns)
        paths = (footer.schema.column(index).path for index in range(footer.num_columns))
        # the path of a list is that of its numbers, `P_eig_re.list.element`
        indices = [index for index, path in enumerate(paths) if path.partition(".")[0] in wanted]
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            for index in indices:
                yield number * footer.num_columns + index, place_of(group.column(index))

    def _check_places(self) -> None:
        """Without a seal the footer may have been damaged: no two columns share bytes."""
        end = 0
        for start, length in sorted(places(self.file.metadata)):
            if start < end or length < 0:
                raise ValueError("columns that share bytes")
            end = start + length
        if end > self.source.size():
            raise ValueError("columns beyond the end")

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise UserError(f"{self.path}: damaged rows ({first_line(error)})") from error

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[RunInfo, pa.Table]]:
        """The runs with the named columns of their rows, checked; `UserError` if they are damaged."""
        names = self.form.names
        present = [name for name in columns if name in names] or ["epoch"]  # what is read tells the number of rows
        infos = self.infos()
        first = next(infos, None)  # rows are compared with what the run logged before they are read
        if first is None:
            return
        self.check_columns(present)
        if self.is_one_run:
            with self._damage_named():
                table = self.file.read(columns=present, use_threads=False)
            yield first, self._filled(table, columns)
            return
        rows = self._take(present)
        next(rows)
        for info in _chain(first, infos):
            yield info, self._filled(rows.send(info.rows), columns)

    def _filled(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        """The named columns, in this order and of the form of this version; null where the file lacks one."""
        if self.usual and table.column_names == list(columns):
            return table.replace_schema_metadata(None)
        form, held, rows = pa.schema([schema(True).field(name) for name in columns]), table.column_names, table.num_rows
        values = [table[field.name] if field.name in held else pa.nulls(rows, field.type) for field in form]
        known = [
            one if one.type == field.type else one.cast(field.type) for one, field in zip(values, form, strict=True)
        ]
        return pa.Table.from_arrays(known, schema=form)

    def _take(self, columns: Sequence[str]) -> Any:
        """A generator that is sent numbers of rows and gives the next so many, as a table."""
        held, group = self.form.empty_table().select(columns), 0
        table = None
        while True:
            count = yield table
            parts = [held]
            with self._damage_named():
                while sum(part.num_rows for part in parts) < count:
                    parts.append(self.file.read_row_group(group, columns=columns, use_threads=False))
                    group += 1
            joined = pa.concat_tables(parts)
            table, held = joined.slice(0, count), joined.slice(count)


def _chain(first: RunInfo, others: Iterator[RunInfo]) -> Iterator[RunInfo]:
    yield first
    yield from others


@contextlib.contextmanager
def opened(path: Path) -> Iterator[RunFile]:
    """Open a file of runs, with page checksums verified on every read; `UserError` if it is none."""
    with contextlib.ExitStack() as stack:
        try:
            if not path.is_file():  # a pipe of that name would wait for its writer for ever
                raise UserError(f"{path}: not a complete Parquet file (not a file)")
            source = stack.enter_context(pa.OSFile(os.fsencode(path)))
            seal = read_seal(source.size(), source.read_at)
            file = stack.enter_context(
                pq.ParquetFile(
                    source, page_checksum_verification=True, pre_buffer=False,
                    thrift_string_size_limit=_LONGEST_FOOTER,
                )
            )  # fmt: skip
            form = file.schema_arrow
        except _DAMAGE as error:
            raise UserError(f"{path}: not a complete Parquet file ({first_line(error)})") from error
        yield RunFile(path, file, source, seal, form, _check_form(path, form), form.metadata)


def each_said(path: Path) -> Iterator[RunInfo]:
    """What a file says of each of its runs; its footer is checked, its rows are not."""
    with opened(path) as runs:
        yield from runs.infos()


def _text(form: pa.Schema) -> str:
    """Names, types and nulls of columns: compared sooner than the columns themselves, in a folder of many files."""
    return str(form.to_string(show_field_metadata=False, show_schema_metadata=False))


@cache
def _usual_text(spectra: bool) -> str:
    return _text(schema(spectra))


def _is_kind(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types are one, whatever the numbers of a list are called."""
    if pa.types.is_list(kind) and pa.types.is_list(wanted):
        return bool(kind.value_type == wanted.value_type)
    return bool(kind == wanted)


def _check_form(path: Path, form: pa.Schema) -> bool:
    """The metadata are there and intact, and the columns those of a run; whether they are those of this version."""
    metadata = form.metadata or {}
    text = metadata.get(METADATA_KEY, metadata.get(RUNS_KEY))
    if text is None:
        raise Foreign(f"{path}: not a byolsim file")
    if hashlib.sha256(text).hexdigest().encode() != metadata.get(CHECKSUM_KEY):
        raise UserError(f"{path}: damaged metadata (checksum)")
    if _text(form) in map(_usual_text, (False, True)):
        return True
    known = schema(True)
    names = form.names
    types = dict(zip(names, form.types, strict=True))
    wrong = [name for name in known.names if name in types and not _is_kind(types[name], known.field(name).type)]
    wrong += [name for name in NEEDED if name not in types]
    if wrong or len(types) < len(names):
        raise UserError(f"{path}: damaged or foreign columns{f' ({wrong[0]})' if wrong else ''}")
    return False
