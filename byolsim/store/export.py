"""All rows of the selected runs of a folder in one file: `byolsim export`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from byolsim.config.commands import ExportConfig
from byolsim.errors import UserError
from byolsim.machine.temporary import clear_leftovers
from byolsim.machine.whole import whole_file
from byolsim.model.modes import spectrum_sizes
from byolsim.store.columns import places, schema
from byolsim.store.details import RunInfo
from byolsim.store.files import each_table, exists
from byolsim.store.folder import each_file, each_run, no_run
from byolsim.store.listing import run_facts
from byolsim.store.runfile import RunsWriter, each_said
from byolsim.store.seal import seal_file
from byolsim.store.where import Facts, Where, last_row, parse_where

ROWS_AT_ONCE = 1 << 16
"""Rows that are held in memory, and in one row group of the file."""

BYTES_AT_ONCE = 1 << 28
"""The same of their bytes: rows with spectra can be long."""

TABLES_AT_ONCE = 64
"""Tables that are held before they are copied into one: of a short run the table takes more than its rows."""


@dataclass(frozen=True)
class Exported:
    """What was written: the runs and rows in it, and one line for each file that was skipped."""

    path: Path
    runs: int
    rows: int
    skipped: list[str]


def export_runs(config: ExportConfig) -> Exported:
    """Write all rows of the selected runs, in the columns of the run files, to one Parquet or CSV file.

    The runs stand in the order of their files' names, each id once. Spectra are lists in Parquet and the columns
    `name_1`, `name_2`, ... in CSV, null beyond the numbers that a run has; there are none where no run has any. Memory
    does not grow with the folder, and the file appears complete or not at all.

    Raises
    ------
    UserError
        If `where` cannot be read or selects nothing, the folder holds no run, or the file cannot be written, has
        another ending, stands in the runs folder or is there already (without `force`).
    """
    chosen, path = parse_where(config.where), Path(config.to)
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise UserError(f"--to {config.to!r} is not allowed: must be a name that ends in {' or '.join(_WRITERS)}")
    _check_place(path, config)
    ids, sizes = _survey(config, chosen)
    skipped, said = list[str](), RunsWriter()
    runs = rows = 0

    def selected() -> Iterator[pa.Table]:
        nonlocal runs, rows
        for info, table in each_run(config.runs_dir, schema(bool(sizes)).names, skipped):
            if info.run_id in ids:
                runs, rows = runs + 1, rows + table.num_rows
                said.add(info)
                yield table

    batches = _batches(selected())
    first = next(batches, None)  # before anything is written
    if first is None:
        raise no_run(config.runs_dir, skipped)
    clear_leftovers(path.parent)
    with whole_file(path) as file:
        writer(file, chain([first], batches), said, sizes)
        _check_place(path, config)
    return Exported(path, runs, rows, skipped)


def _survey(config: ExportConfig, chosen: Where) -> tuple[set[str], dict[str, int]]:
    """Ids of the selected runs, and the most numbers that one of them has in each list; nothing where none has any.

    The columns of a file are known before its first row. Rows are read only where `where` names a metric.
    """

    def read(path: Path) -> Iterator[tuple[RunInfo, Facts]]:
        if not chosen.metrics:
            return ((info, {}) for info in each_said(path))
        return ((info, last_row(table, chosen.metrics)) for info, table in each_table(path, chosen.metrics))

    ids, sizes, seen, skipped = set[str](), dict[str, int](), 0, list[str]()
    for info, measured in each_file(config.runs_dir, skipped, read):
        seen += 1
        if not chosen({**run_facts(info), **measured}):
            continue
        ids.add(info.run_id)
        if info.has_spectra:
            sizes = {name: max(size, sizes.get(name, 0)) for name, size in spectrum_sizes(info.config).items()}
    if not seen:
        raise no_run(config.runs_dir, skipped)
    if not ids:
        raise UserError(f"--where {config.where!r} selects none of the {seen} runs in {config.runs_dir!r}")
    return ids, sizes


def _parquet(file: BinaryIO, batches: Iterable[pa.Table], said: RunsWriter, sizes: Mapping[str, int]) -> None:
    """As the file of a run, with what the files said of each run in the metadata: readers of a folder read it."""
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        file, schema(bool(sizes)), compression="snappy", write_page_checksum=True, store_schema=False,
        metadata_collector=footers,
    ) as sink:  # fmt: skip
        for batch in batches:
            sink.write_table(batch)
        sink.add_key_value_metadata(said.metadata())
    seal_file(file, places(footers[0]))


def _csv(file: BinaryIO, batches: Iterable[pa.Table], said: RunsWriter, sizes: Mapping[str, int]) -> None:
    form = schema()
    for name, size in sizes.items():
        for number in range(1, size + 1):
            form = form.append(pa.field(f"{name}_{number}", pa.float64()))
    with pa.csv.CSVWriter(file, form) as sink:
        for batch in batches:
            sink.write_table(pa.Table.from_arrays(list(_flat(batch, sizes)), schema=form))


def _flat(table: pa.Table, sizes: Mapping[str, int]) -> Iterator[pa.ChunkedArray]:
    """The columns of a table, and for each list one a number, null where a row's list is null or shorter."""
    yield from (table[name] for name in schema().names)
    for name, size in sizes.items():
        padded = pc.list_slice(table[name], 0, size, return_fixed_size_list=True)
        yield from (pc.list_element(padded, number) for number in range(size))


_WRITERS: dict[str, Callable[[BinaryIO, Iterable[pa.Table], RunsWriter, Mapping[str, int]], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
}


def _check_place(path: Path, config: ExportConfig) -> None:
    """Refuse a file that readers of the runs folder would take for a run of it, and one that is there."""
    try:
        inside = path.resolve().is_relative_to(Path(config.runs_dir).resolve())
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--to {config.to!r} cannot be written: {why}") from None
    if inside:
        raise UserError(
            f"--to {config.to!r} is in the runs folder {config.runs_dir!r}, whose readers would read every row twice: "
            "must be a file outside it"
        )
    if path.is_dir():
        raise UserError(f"--to {config.to!r} is a folder: must be a file")
    if exists(path) and not config.force:
        raise UserError(f"--to {config.to!r} is there already: choose another name, or --force to replace it")


def _batches(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables, each of some `ROWS_AT_ONCE` rows or `BYTES_AT_ONCE` bytes."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
        elif len(held) == TABLES_AT_ONCE:
            held = [pa.concat_tables(held).combine_chunks()]
    if held:
        yield pa.concat_tables(held)
