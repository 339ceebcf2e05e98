"""RunRecord <-> Parquet: one file a run, complete or not there at all (SPEC 7)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from byolsim import __version__
from byolsim.config import NUMERICS_VERSION, SCHEMA_VERSION, RunConfig
from byolsim.describe import field_type
from byolsim.errors import DiskFull, UserError
from byolsim.metrics import METRICS
from byolsim.record import RunRecord
from byolsim.temporary import temporary_path

SUFFIX = ".parquet"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a file does not fit: disk, quota, limit on the size of a file."""

METADATA_KEY = b"byolsim"
CHECKSUM_KEY = b"byolsim.sha256"
"""Parquet's page checksums cover the rows; this one covers the metadata."""


@dataclass(frozen=True)
class RunInfo:
    """What a file says of its run besides the rows: the metadata of SPEC 7."""

    path: Path
    run_id: str
    config: RunConfig
    status: str
    diverged_epoch: int | None
    rows: int
    details: Mapping[str, Any]


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


_ARROW = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}


def file_name(config: RunConfig) -> str:
    """Readable name that ends in the run's id."""

    def rate(value: float | None) -> str:
        return "auto" if value is None else f"{value:g}"

    kind = f"sweep_{config.lr_enc_mode}" if config.lr_enc_mode else "run"
    return (
        f"{kind}_seed{config.seed}_bs{config.batch_size}_tau{config.tau:g}_lrpred{rate(config.lr_pred)}"
        f"_lrenc{rate(config.lr_enc)}-{config.run_id}{SUFFIX}"
    )


def run_path(out_dir: str | Path, config: RunConfig, run_name: str | None = None) -> Path:
    """The file of a run in its folder.

    Raises
    ------
    UserError
        If `run_name` is not a plain file name: it must not leave the folder.
    """
    if run_name is None:
        return Path(out_dir) / file_name(config)
    bad = set('/\\:*?"<>|') & set(run_name)
    if bad or run_name.startswith((".", "-")) or not run_name.isprintable() or run_name != run_name.strip():
        raise UserError(
            f"run_name {run_name!r} is not allowed: must be a plain file name, with no folder, leading dot or dash"
        )
    if len(run_name.encode()) > 200:
        raise UserError(f"run_name {run_name[:20]!r}... is not allowed: must be at most 200 bytes long")
    return Path(out_dir) / (run_name.removesuffix(SUFFIX) + SUFFIX)


def save(record: RunRecord, path: Path) -> Path:
    """Write a record: to a temporary name in the same folder, flushed to disk, then renamed.

    Raises
    ------
    UserError
        If the folder cannot be written, `DiskFull` if the file does not fit; no partial file is left.
    """
    try:
        data = encode(record)
    except pa.ArrowException as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return write_whole(path, data)


def encode(record: RunRecord) -> pa.Buffer:
    """The bytes of a run's file."""
    sink = pa.BufferOutputStream()
    pq.write_table(_table(record), sink, write_page_checksum=True, compression="zstd")
    return sink.getvalue()


def write_whole(path: Path, data: bytes | pa.Buffer) -> Path:
    """Write a file that appears complete or not at all: temporary name, flush to disk, rename; folders are made.

    Raises
    ------
    UserError
        If it cannot be written, `DiskFull` among them; no partial file is left.
    """
    temporary = temporary_path(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
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
    return path


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _table(record: RunRecord) -> pa.Table:
    rows, config = len(record.epochs), record.config
    values: dict[str, Any] = {
        "run_id": [config.run_id] * rows,
        "status": [record.status] * rows,
        "epoch": record.epochs,
        "ema_m": [config.ema_m] * rows,
    }
    values |= {name: pa.array(record.columns[name], from_pandas=True) for name in METRICS}
    values |= {name: [value] * rows for name, value in config.model_dump().items()}
    details = json.dumps(_details(record), sort_keys=True).encode()
    form = schema().with_metadata({METADATA_KEY: details, CHECKSUM_KEY: hashlib.sha256(details).hexdigest()})
    return pa.table({name: values[name] for name in form.names}, schema=form)


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
    }


@cache  # to ask takes as long as to write a file
def _versions() -> dict[str, str]:
    found = {"byolsim": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "numba", "scipy", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_info(path: Path) -> RunInfo:
    """Read what a file says of its run, without its rows.

    Raises
    ------
    UserError
        If the file is truncated, foreign, of another schema version or not as long as it says.
    """
    with open_file(path) as file:
        return _info(path, file)


def open_file(path: Path) -> pq.ParquetFile:
    """Open a Parquet file with page checksums verified on every read; `UserError` if it is none."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a complete Parquet file ({_first_line(error)})") from error


def _info(path: Path, file: pq.ParquetFile) -> RunInfo:
    metadata = file.schema_arrow.metadata or {}
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise UserError(f"{path}: not a byolsim file")
    if hashlib.sha256(text).hexdigest().encode() != metadata.get(CHECKSUM_KEY):
        raise UserError(f"{path}: damaged metadata (checksum)")
    try:
        details = json.loads(text)
        if details["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{path}: schema version {details['schema_version']}, not {SCHEMA_VERSION}")
        if file.schema_arrow.remove_metadata() != schema():
            raise UserError(f"{path}: damaged or foreign columns")
        config = RunConfig(**details["config"])
        return RunInfo(
            path=path,
            run_id=details["run_id"],
            config=config,
            status=details["status"],
            diverged_epoch=details["diverged_epoch"],
            rows=file.metadata.num_rows,
            details=details,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged metadata ({_first_line(error)})") from error


def read_columns(path: Path, columns: Sequence[str]) -> tuple[RunInfo, pa.Table]:
    """A file's info and the named columns of its rows, checksums verified; `UserError` as `read_info`."""
    with open_file(path) as file:
        info = _info(path, file)
        try:
            return info, file.read(columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: damaged rows ({_first_line(error)})") from error


def is_complete(path: Path, config: RunConfig) -> bool:
    """Whether the complete file of this very configuration is there, every row of it intact."""
    try:
        return exists(path) and read_columns(path, schema().names)[0].run_id == config.run_id
    except UserError:
        return False


def exists(path: Path) -> bool:
    """Whether there is such a file; `UserError` where the system cannot say (a name too long, a folder locked)."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
