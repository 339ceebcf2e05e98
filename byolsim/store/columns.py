"""RunRecord -> the bytes of its Parquet file: the columns, the metadata and their checksums."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from byolsim.config.describe import field_type
from byolsim.config.fields import hyperparameters
from byolsim.config.run import RunConfig
from byolsim.model.metrics import METRICS
from byolsim.model.modes import SPECTRA
from byolsim.record import RunRecord
from byolsim.store.seal import Place, sealed
from byolsim.version import NUMERICS_VERSION, SCHEMA_VERSION

METADATA_KEY = b"byolsim"
CHECKSUM_KEY = b"byolsim.sha256"
"""Parquet's page checksums cover the rows; this one covers the metadata."""

ROWS_AT_ONCE = 1 << 16
"""Rows of one row group: what a writer lays out at a time."""

NUMBERS_AT_ONCE = 1 << 24
"""Numbers in the lists of one row group, which are what makes rows long."""

LIST = pa.list_(pa.field("element", pa.float64()))
"""Of a spectrum: one number a mode or dimension."""

_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}


@cache
def schema(spectra: bool = False) -> pa.Schema:
    """The explicit schema of a run's file: identity, epoch, metrics, every hyperparameter; and its spectra.

    These are last, where a reader that does not know them finds all else at its place.
    """
    fields = [("run_id", pa.string(), False), ("status", pa.string(), False), ("epoch", pa.int64(), False)]
    fields += [(name, pa.float64(), True) for name in METRICS]
    for name, field in hyperparameters(RunConfig).items():
        bare = field_type(field)[0]
        kind = pa.string() if typing.get_origin(bare) is typing.Literal else _ARROW[bare]
        fields.append((name, kind, True))
    fields.append(("ema_m", pa.float64(), False))
    fields += [(name, LIST, True) for name in SPECTRA if spectra]
    return pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in fields])


def encode(record: RunRecord) -> bytes:
    """The whole file of a run."""
    return b"".join(encoded(record))


def encoded(record: RunRecord) -> list[bytes | memoryview]:
    """The whole file of a run, in parts: a long run's is not copied to make one of them.

    Metrics hardly repeat, so they are stored plain; a hyperparameter is one value in a dictionary. Snappy, as zstd
    takes twice the time on files of a few hundred rows and saves nothing. Arrow's own copy of the schema is left out:
    it would hold the metadata a second time, and every type is Parquet's.
    """
    sink, form = pa.BufferOutputStream(), schema(bool(record.spectra))
    constant = [name for name in form.names if name != "epoch" and name not in METRICS and name not in SPECTRA]
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        sink, form, use_dictionary=constant, compression="snappy", write_page_checksum=True, store_schema=False,
        metadata_collector=footers,
    ) as writer:  # fmt: skip
        for table in _tables(record):
            writer.write_table(table)
        writer.add_key_value_metadata(_metadata(record))
    return sealed(memoryview(sink.getvalue()), places(footers[0]))


def places(footer: pq.FileMetaData) -> list[Place]:
    """Where each column chunk of a Parquet file is, row group by row group, the columns in their order."""
    return [
        place_of(group.column(index))
        for group in map(footer.row_group, range(footer.num_row_groups))
        for index in range(footer.num_columns)
    ]


def place_of(chunk: pq.ColumnChunkMetaData) -> Place:
    """Where one column chunk is: its dictionary comes first."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    return start, chunk.total_compressed_size


def to_arrow(record: RunRecord) -> pa.Table:
    """The rows of a record as its file holds them: see `RunRecord.to_arrow`."""
    return pa.concat_tables(_tables(record))


def _tables(record: RunRecord) -> Iterator[pa.Table]:
    """The rows of a record, as many at a time as make a row group; at least one table."""
    numbers = sum(values.shape[1] for values in record.spectra.values())
    step = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // max(1, numbers)))
    for start in range(0, max(1, len(record.epochs)), step):
        yield _table(record, slice(start, start + step))


def _table(record: RunRecord, part: slice) -> pa.Table:
    config, epochs, form = record.config, record.epochs[part], schema(bool(record.spectra))
    constant = config.hyperparameters | {"run_id": config.run_id, "status": record.status, "ema_m": config.ema_m}
    values: dict[str, Any] = {name: pa.array(record.columns[name][part], from_pandas=True) for name in METRICS}
    values |= {name: _lists(numbers[part]) for name, numbers in record.spectra.items()}
    values["epoch"] = epochs
    for field in form:
        if field.name in constant:
            values[field.name] = pa.repeat(pa.scalar(constant[field.name], field.type), len(epochs))
    return pa.table({name: values[name] for name in form.names}, schema=form)


def _lists(numbers: NDArray[np.float64]) -> pa.ListArray:
    """Rows of numbers as lists; null where a row has none, and within a row where one has no value."""
    none = np.isnan(numbers).all(axis=1)
    ends = np.cumsum(np.where(none, 0, numbers.shape[1]))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    values = pa.array(numbers[~none].reshape(-1), from_pandas=True)
    return pa.ListArray.from_arrays(offsets, values, type=LIST, mask=pa.array(none))


def _metadata(record: RunRecord) -> dict[bytes, str]:
    text = json.dumps(_details(record), sort_keys=True)
    return {METADATA_KEY: text, CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}


def _details(record: RunRecord) -> dict[str, Any]:
    config = record.config
    return {
        "schema_version": SCHEMA_VERSION,
        "numerics_version": NUMERICS_VERSION,
        "run_id": config.run_id,
        "config": config.hyperparameters,
        "spectra": bool(record.spectra),
        "status": record.status,
        "diverged_epoch": record.diverged_epoch,
        "clips": asdict(record.clips),
        "wall_s": record.wall_s,
        "backend": config.backend,
        "device": config.device,
        "encoder_metrics": "exact"
        if config.enc == "linear" and config.pred == "linear"
        else "best linear fit, sampled",
        "versions": dict(record.versions),
        "processor": dict(record.processor),
    }
