"""Where and how results are written: options of the commands that are never part of a run's identity."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from byolsim.config import Frozen, LrEncMode


class RunOutput(Frozen):
    """Where one run is written; never part of its identity."""

    out_dir: str = Field(default="runs_parquet", min_length=1, description="folder of the Parquet files")
    run_name: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="name of the file, in place of the automatic one"
    )
    log_wandb: bool = Field(default=False, description="log to Weights & Biases once the file is safe (extra wandb)")
    force: bool = Field(default=False, description="compute again, and replace, what is already there")
    dry_run: bool = Field(default=False, description="say what would be done, and do nothing")


class SweepOutput(Frozen):
    """Where and how a grid is computed; never part of a run's identity."""

    out_dir: str = Field(default="runs_parquet", min_length=1, description="folder of the Parquet files")
    workers: Annotated[int, Field(ge=1, le=4096)] | None = Field(default=None, description="processes (all cores)")
    log_wandb: bool = Field(default=False, description="log to Weights & Biases once a file is safe (extra wandb)")
    force: bool = Field(default=False, description="compute again, and replace, what is already there")
    dry_run: bool = Field(default=False, description="say what would be done, and do nothing")


class FigsConfig(Frozen):
    """Which runs are drawn, at which epoch, and where the pictures go."""

    runs_dir: str = Field(default="runs_parquet", min_length=1, description="folder of the Parquet files")
    lr_enc_mode: LrEncMode | None = Field(
        default=None, description="which sweep to draw; needed where the folder holds several modes"
    )
    metric: str = Field(default="W_Fro_aligned", description="metric of the main heatmap")
    enc_metric: str = Field(default="BA_err_aligned", description="metric of the encoder heatmap")
    epoch: Annotated[int, Field(ge=0)] = Field(default=2000, description="the epoch that is drawn")
    use_last_valid: bool = Field(
        default=False, description="take each run's last finite value at or before the epoch, not that row alone"
    )
    out: str = Field(default="figs", min_length=1, description="folder of the pictures")


class _Stored(Frozen):
    """Which stored runs a command looks at."""

    runs_dir: str = Field(default="runs_parquet", min_length=1, description="folder of the Parquet files")
    where: str | None = Field(
        default=None,
        description="which runs: comparisons of hyperparameters, status or reached (the last epoch), joined by 'and' "
        "or by repeating the option",
        json_schema_extra={"allowed": "comparisons like tau<1e-2, with < <= > >= == = !="},
    )


class LsConfig(_Stored):
    """Which runs are listed, and how."""

    format: Literal["table", "csv", "json"] = Field(
        default="table", description="a table, or every hyperparameter as CSV or JSON"
    )


class ExportConfig(_Stored):
    """Which runs go to one file."""

    to: str = Field(
        default="runs.parquet",
        min_length=1,
        description="the file to write, outside runs_dir",
        json_schema_extra={"allowed": "a name that ends in .parquet or .csv"},
    )
    force: bool = Field(default=False, description="replace the file if it is there")
