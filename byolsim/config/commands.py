"""Where and how results are written: options of the commands that are never part of a run's identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from byolsim.config.fields import hyper, known, names
from byolsim.config.run import Frozen, LrEncMode

Name = Annotated[str, Field(min_length=1)]

ExecutorName = Literal["processes", "dask"]
"""Each is a module of `byolsim.sweeps.pools`."""

SHARD_ALLOWED = "I/N, whole numbers with 0 <= I < N <= 10^6"


def parse_shard(text: str) -> tuple[int, int]:
    """(I, N) of a shard `I/N`; `ValueError` if it is none."""
    match = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    if match is None:
        raise ValueError("not of the form I/N")
    index, count = int(match[1]), int(match[2])
    if not index < count <= 10**6:
        raise ValueError("no such part")
    return index, count


def _shard_text(text: str) -> str:
    return "{}/{}".format(*parse_shard(text))


ADDRESS_ALLOWED = "tcp://HOST:PORT"


def _address(text: str) -> str:
    if re.fullmatch(r"tcp://[^\s/:]\S*:[0-9]+", text) is None:
        raise ValueError("not an address")
    return text


class RunOutput(Frozen):
    """Where one run is written; never part of its identity."""

    out_dir: Name = hyper("runs_parquet", "folder of the Parquet files")
    run_name: Annotated[str, Field(min_length=1, max_length=200)] | None = hyper(
        None, "name of the file, in place of the automatic one"
    )
    log_wandb: bool = hyper(False, "log to Weights & Biases once the file is safe (extra wandb)")
    save_state: bool = hyper(False, "write where the run ended too, as _states/NAME.npz: to go on from it", flag=True)
    force: bool = hyper(False, "compute again, and replace, what is already there", flag=True)
    dry_run: bool = hyper(False, "say what would be done, and do nothing", flag=True)


class SweepOutput(Frozen):
    """Where and how a grid is computed; never part of a run's identity."""

    out_dir: Name = hyper("runs_parquet", "folder of the Parquet files")
    workers: Annotated[int, Field(ge=1, le=4096)] | None = hyper(None, "processes (all cores)")
    shard: Annotated[str, AfterValidator(_shard_text)] | None = hyper(
        None,
        "do part I of N of the grid; the parts cost about the same, and depend on the grid alone",
        set_by_all=True,
        allowed=SHARD_ALLOWED,
    )
    executor: ExecutorName = hyper("processes", "worker processes of byolsim, or a local Dask cluster (extra dask)")
    scheduler: Annotated[str, AfterValidator(_address)] | None = hyper(
        None,
        "address of a running Dask scheduler to use, in place of a local cluster",
        of_executor="dask",
        allowed=ADDRESS_ALLOWED,
    )
    workers_write: bool = hyper(
        False, "Dask's workers write the files themselves, into a folder that they share", flag=True, of_executor="dask"
    )
    log_wandb: bool = hyper(False, "log to Weights & Biases once a file is safe (extra wandb)")
    save_state: bool = hyper(False, "write where each run ended too, as _states/NAME.npz", flag=True)
    force: bool = hyper(False, "compute again, and replace, what is already there", flag=True)
    retry_failed: bool = hyper(False, "try runs again whose failure is recorded", flag=True)
    fail_fast: bool = hyper(False, "stop at the first run that fails, and end what is running", flag=True)
    dry_run: bool = hyper(False, "say what would be done and what it would cost, and do nothing", flag=True)

    @model_validator(mode="before")
    @classmethod
    def _scheduler_is_dask(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("scheduler") is not None:
            return {"executor": "dask"} | dict(given)
        return given

    @model_validator(mode="after")
    def _check_executor(self) -> SweepOutput:
        for name in names(type(self), "of_executor"):
            owner = known(type(self).model_fields[name])["of_executor"]
            if getattr(self, name) and self.executor != owner:
                raise ValueError(f"{name} belongs to executor = {owner!r}, not to {self.executor!r}")
        return self


class _Stored(Frozen):
    """Which stored runs a command looks at."""

    runs_dir: Name = hyper("runs_parquet", "folder of the Parquet files", set_by_all=True)
    where: str | None = hyper(
        None,
        "which runs: comparisons of hyperparameters, status, reached (the last epoch) or metrics (in the last row), "
        "joined by 'and' or by repeating the option",
        repeated=True,
        set_by_all=True,
        allowed="comparisons like tau<1e-2, with < <= > >= == = !=",
    )


class FigsConfig(_Stored):
    """Which runs are drawn, at which epoch, and where the pictures go."""

    lr_enc_mode: LrEncMode | None = hyper(None, "which sweep to draw; needed where the folder holds several modes")
    metric: str = hyper(
        "W_Fro_aligned", "metric of the main heatmap; W_Fro_aligned cannot see a rotation of P, W_Fro_raw does"
    )
    enc_metric: str = hyper("BA_err_aligned", "metric of the encoder heatmap")
    epoch: Annotated[int, Field(ge=0)] = hyper(2000, "the epoch that is drawn", set_by_all=True)
    use_last_valid: bool = hyper(
        False,
        "take each run's last finite value at or before the epoch, not that row alone",
        flag=True,
        set_by_all=True,
    )
    out: Name = hyper("figs", "folder of the pictures")


class LsConfig(_Stored):
    """Which runs are listed, and how."""

    format: Literal["table", "csv", "json"] = hyper("table", "a table, or every hyperparameter as CSV or JSON")


class WorldOutput(Frozen):
    """How a world is shown, and where it is written."""

    format: Literal["table", "json"] = hyper("table", "a table of the modes, or every number as JSON")
    out: Name | None = hyper(
        None, "the file to write for --world, with the second moments", allowed="a name that ends in .npz"
    )
    force: bool = hyper(False, "replace the file if it is there", flag=True)


class ExportConfig(_Stored):
    """Which runs go to one file."""

    to: Name = hyper(
        "runs.parquet", "the file to write, outside runs_dir", allowed="a name that ends in .parquet or .csv"
    )
    force: bool = hyper(False, "replace the file if it is there", flag=True)
