"""`byolsim run`: one run."""

from __future__ import annotations

import math
from pathlib import Path

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.progress import progress_bar
from byolsim.config import RunConfig, schedule_notes
from byolsim.launch import describe_run, run
from byolsim.output import RunOutput
from byolsim.record import RunRecord
from byolsim.store import read_info


@command_of(
    RunConfig,
    RunOutput,
    help="Train one model and store its trajectory as one Parquet file.",
    epilog="A rate that is given without its auto constant is fixed: --lr_pred 1e-3 turns the schedule off for alpha.",
)
def command(given: Given) -> int:
    """Parse, run, show."""
    run_one(given.build(RunConfig), given.build(RunOutput), schedule_notes(given.values))
    return 0


def run_one(config: RunConfig, output: RunOutput, notes: list[str]) -> None:
    """Run one configuration as the command does, and say what came of it."""
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if output.dry_run:
        click.echo(describe_run(config, output.out_dir, run_name=output.run_name, force=output.force))
        return
    with progress_bar("byolsim run", config.epochs) as advance:
        path, record = run(
            config,
            output.out_dir,
            run_name=output.run_name,
            force=output.force,
            log_wandb=output.log_wandb,
            progress=advance,
        )
    if record is None:
        status = read_info(path).status
        click.echo(f"{path} is there already ({status}): nothing computed; --force computes it again")
    else:
        click.echo(_summary(record, path))


def _summary(record: RunRecord, path: Path) -> str:
    config, clips = record.config, record.clips
    end = f"completed: {config.epochs} epochs in"
    if record.status == "diverged":
        end = f"diverged at epoch {record.diverged_epoch} of {config.epochs}, after"
    lines = [
        f"wrote {path} ({len(record.epochs)} rows)",
        f"{end} {record.wall_s:.2f} s on {config.backend}/{config.device}, {config.dtype}",
    ]
    if config.lr_pred is None or config.lr_enc is None:
        lines.append(
            f"auto schedule: bound active at {clips.lr_pred_limit} (alpha) and {clips.lr_enc_limit} (beta) steps, "
            f"floor of H_t at {clips.H_floor}"
        )
    shown = ("loss_pop", "W_Fro_raw", "BA_err_aligned", "erank_encoded")
    lines.append("last row: " + ", ".join(f"{name} {_value(record, name)}" for name in shown))
    return "\n".join(lines)


def _value(record: RunRecord, name: str) -> str:
    value = float(record.columns[name][-1]) if len(record.epochs) else math.nan
    return f"{value:.4g}" if math.isfinite(value) else "null"
