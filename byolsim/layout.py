"""RunRecord -> the bytes of its Parquet file: the columns, the metadata (SPEC 7) and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import typing
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from byolsim import __version__
from byolsim.config import NUMERICS_VERSION, SCHEMA_VERSION, RunConfig
from byolsim.describe import field_type
from byolsim.metrics import METRICS
from byolsim.processor import processor
from byolsim.record import RunRecord
from byolsim.seal import sealed

METADATA_KEY = b"byolsim"
CHECKSUM_KEY = b"byolsim.sha256"
"""Parquet's page checksums cover the rows; this one covers the metadata."""

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
    """The whole file of a run.

    Metrics hardly repeat, so they are stored plain; a hyperparameter is one value in a dictionary. Snappy, as zstd
    takes twice the time on files of a few hundred rows and saves nothing. Arrow's own copy of the schema is left out:
    it would hold the metadata a second time, and every type is Parquet's.
    """
    sink = pa.BufferOutputStream()
    constant = [name for name in schema().names if name != "epoch" and name not in METRICS]
    with pq.ParquetWriter(
        sink, schema(), use_dictionary=constant, compression="snappy", write_page_checksum=True, store_schema=False
    ) as writer:
        writer.write_table(_table(record))
        writer.add_key_value_metadata(_metadata(record))
    return sealed(sink.getvalue().to_pybytes())


def _table(record: RunRecord) -> pa.Table:
    config = record.config
    constant = config.model_dump() | {"run_id": config.run_id, "status": record.status, "ema_m": config.ema_m}
    values: dict[str, Any] = {name: pa.array(record.columns[name], from_pandas=True) for name in METRICS}
    values["epoch"] = record.epochs
    for field in schema():
        if field.name in constant:
            values[field.name] = pa.repeat(pa.scalar(constant[field.name], field.type), len(record.epochs))
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
        "versions": _versions(),
        "processor": processor(),
    }


@cache
def _versions() -> dict[str, str]:
    found = {"byolsim": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "numba", "scipy", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
