"""`byolsim run`: one run."""

from __future__ import annotations

import math
from pathlib import Path

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.progress import progress_bar
from byolsim.config.commands import RunOutput
from byolsim.config.run import RunConfig, rule_notes, schedule_notes
from byolsim.record import RunRecord
from byolsim.store.files import read_info
from byolsim.sweeps.launch import describe_run, run


@command_of(
    RunConfig,
    RunOutput,
    help="Train one model and store its trajectory as one Parquet file.",
    epilog="A rate that is given without its auto constant is fixed: --lr_pred 1e-3 turns the schedule off for alpha.",
)
def command(given: Given) -> int:
    """Parse, run, show."""
    config = given.build(RunConfig)
    run_one(config, given.build(RunOutput), schedule_notes(given.values) + rule_notes(given.values, config))
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
            save_state=output.save_state,
            progress=advance,
        )
    if record is None:
        info = read_info(path)
        click.echo(f"{path} is there already ({info.status}): nothing computed; --force computes it again")
        if config.log_spectra and not info.has_spectra:
            click.echo(f"note: {path} was stored without spectra: --force computes it again, with them", err=True)
    else:
        click.echo(_summary(record, path))


_LAST_ROW = ("loss_pop", "loss_rel", "Hmax_exact", "W_excess", "W_Fro_raw", "BA_err_aligned", "erank_encoded")
"""Metrics of the summary: what a reader needs to see whether a run has learned or died."""


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
    shown = {name: _shown(_value(record, name, -1)) for name in _LAST_ROW}
    start = _value(record, "Hmax_exact", 0)
    share = f"{_shown(_value(record, 'Hmax_exact', -1) / start if start else math.nan)} of the start"
    notes = {"Hmax_exact": f" ({share})"}
    lines.append("last row: " + ", ".join(f"{name} {value}{notes.get(name, '')}" for name, value in shown.items()))
    if record.collapsed:
        lines.append(f"collapsed: the features have vanished (Hmax_exact {shown['Hmax_exact']}, {share})")
    return "\n".join(lines)


def _value(record: RunRecord, name: str, row: int) -> float:
    return float(record.columns[name][row]) if len(record.epochs) else math.nan


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "null"
