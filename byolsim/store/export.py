"""All rows of the selected runs of a folder in one file: `byolsim export`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from byolsim.config.commands import ExportConfig
from byolsim.errors import UserError
from byolsim.machine.temporary import clear_leftovers
from byolsim.machine.whole import whole_file
from byolsim.store.columns import places, schema
from byolsim.store.files import exists
from byolsim.store.folder import each_run
from byolsim.store.listing import run_facts
from byolsim.store.runfile import RunsWriter
from byolsim.store.seal import seal_file
from byolsim.store.where import last_row, parse_where

ROWS_AT_ONCE = 1 << 16
"""Rows that are held in memory, and in one row group of the file."""

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

    The runs stand in the order of their files' names, each id once. Memory does not grow with the folder, and the file
    appears complete or not at all.

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
    skipped, said = list[str](), RunsWriter()
    runs = rows = seen = 0

    def selected() -> Iterator[pa.Table]:
        nonlocal runs, rows, seen
        for info, table in each_run(config.runs_dir, schema().names, skipped):
            seen += 1
            if chosen({**run_facts(info), **last_row(table, chosen.metrics)}):
                runs, rows = runs + 1, rows + table.num_rows
                said.add(info)
                yield table

    batches = _batches(selected())
    first = next(batches, None)  # before anything is written
    if first is None:
        raise UserError(f"--where {config.where!r} selects none of the {seen} runs in {config.runs_dir!r}")
    clear_leftovers(path.parent)
    with whole_file(path) as file:
        writer(file, chain([first], batches), said)
        _check_place(path, config)
    return Exported(path, runs, rows, skipped)


def _parquet(file: BinaryIO, batches: Iterable[pa.Table], said: RunsWriter) -> None:
    """As the file of a run, with what the files said of each run in the metadata: readers of a folder read it."""
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        file, schema(), compression="snappy", write_page_checksum=True, store_schema=False, metadata_collector=footers
    ) as sink:
        for batch in batches:
            sink.write_table(batch)
        sink.add_key_value_metadata(said.metadata())
    seal_file(file, places(footers[0]))


def _csv(file: BinaryIO, batches: Iterable[pa.Table], said: RunsWriter) -> None:
    with pa.csv.CSVWriter(file, schema()) as sink:
        for batch in batches:
            sink.write_table(batch)


_WRITERS: dict[str, Callable[[BinaryIO, Iterable[pa.Table], RunsWriter], None]] = {".parquet": _parquet, ".csv": _csv}


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
    """The same rows in fewer tables, each of some `ROWS_AT_ONCE` rows."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        if rows >= ROWS_AT_ONCE:
            yield pa.concat_tables(held)
            held, rows = [], 0
        elif len(held) == TABLES_AT_ONCE:
            held = [pa.concat_tables(held).combine_chunks()]
    if held:
        yield pa.concat_tables(held)
