"""RunRecord -> the bytes of its Parquet file: the columns, the metadata and their checksums."""

from __future__ import annotations

import hashlib
import json
import typing
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from byolsim.config.describe import field_type
from byolsim.config.run import RunConfig
from byolsim.model.metrics import METRICS
from byolsim.record import RunRecord
from byolsim.store.seal import Place, sealed
from byolsim.version import NUMERICS_VERSION, SCHEMA_VERSION

METADATA_KEY = b"byolsim"
CHECKSUM_KEY = b"byolsim.sha256"
"""Parquet's page checksums cover the rows; this one covers the metadata."""

ROWS_AT_ONCE = 1 << 16
"""Rows of one row group: what a writer lays out at a time."""

_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}


@cache
def schema() -> pa.Schema:
    """The explicit schema of a run's file: identity, epoch, metrics, then every hyperparameter."""
    fields = [("run_id", pa.string(), False), ("status", pa.string(), False), ("epoch", pa.int64(), False)]
    fields += [(name, pa.float64(), True) for name in METRICS]
    for name, field in RunConfig.model_fields.items():
        bare = field_type(field)[0]
        kind = pa.string() if typing.get_origin(bare) is typing.Literal else _ARROW[bare]
        fields.append((name, kind, True))
    fields.append(("ema_m", pa.float64(), False))
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
    sink = pa.BufferOutputStream()
    constant = [name for name in schema().names if name != "epoch" and name not in METRICS]
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        sink, schema(), use_dictionary=constant, compression="snappy", write_page_checksum=True, store_schema=False,
        metadata_collector=footers,
    ) as writer:  # fmt: skip
        for start in range(0, max(1, len(record.epochs)), ROWS_AT_ONCE):
            writer.write_table(_table(record, slice(start, start + ROWS_AT_ONCE)))
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


def _table(record: RunRecord, part: slice) -> pa.Table:
    config, epochs = record.config, record.epochs[part]
    constant = config.model_dump() | {"run_id": config.run_id, "status": record.status, "ema_m": config.ema_m}
    values: dict[str, Any] = {name: pa.array(record.columns[name][part], from_pandas=True) for name in METRICS}
    values["epoch"] = epochs
    for field in schema():
        if field.name in constant:
            values[field.name] = pa.repeat(pa.scalar(constant[field.name], field.type), len(epochs))
    return pa.table({name: values[name] for name in schema().names}, schema=schema())


def _metadata(record: RunRecord) -> dict[bytes, str]:
    text = json.dumps(_details(record), sort_keys=True)
    return {METADATA_KEY: text, CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}


def _details(record: RunRecord) -> dict[str, Any]:
    config = record.config
    return {
        "schema_version": SCHEMA_VERSION,
        "numerics_version": NUMERICS_VERSION,
        "run_id": config.run_id,
        "config": config.model_dump(),
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
