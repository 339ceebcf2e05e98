"""`byolsim sweep`: a grid of runs."""

from __future__ import annotations

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.progress import progress_bar
from byolsim.config import SweepConfig, sweep_notes
from byolsim.launch import Plan, SweepResult, carry_out, plan_sweep
from byolsim.output import SweepOutput

FAILURES_SHOWN = 20


@command_of(
    SweepConfig,
    SweepOutput,
    help="Train a grid of models, in parallel, and store each as one Parquet file. What is there already is skipped.",
    epilog="Exit code 0 also where runs diverged: that is a result. Exit code 1 where a run failed for another reason.",
)
def command(given: Given) -> int:
    """Parse, sweep, show."""
    config = given.build(SweepConfig)
    output = given.build(SweepOutput)
    plan = plan_sweep(config, output.out_dir, workers=output.workers, force=output.force)
    return sweep_grid(plan, output, sweep_notes(given.values, config))


def sweep_grid(plan: Plan, output: SweepOutput, notes: list[str]) -> int:
    """Carry out a plan as the command does, and say what came of it; the exit code."""
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if output.dry_run:
        click.echo(_plan_text(plan))
        return 0
    with progress_bar("byolsim sweep", plan.run_steps) as advance:
        result = carry_out(plan, log_wandb=output.log_wandb, progress=advance)
    click.echo(_summary(result, plan))
    return 1 if result.count("failed") else 0


def _plan_text(plan: Plan) -> str:
    pending, mode = sum(map(len, plan.todo)), plan.runs[0].lr_enc_mode
    return (
        f"{len(plan.runs)} runs of mode {mode} in {plan.out_dir}: {len(plan.runs) - pending} already there, "
        f"{pending} to compute\n"
        f"{len(plan.todo)} groups that share their draws, {plan.run_steps:,} run-steps, {_where(plan)}"
    )


def _where(plan: Plan) -> str:
    run, n = plan.runs[0], plan.workers
    return f"{n} process{'es' * (n != 1)} on {run.backend}/{run.device}"


def _summary(result: SweepResult, plan: Plan) -> str:
    counts = {status: result.count(status) for status in ("completed", "diverged", "skipped", "failed")}
    clipped = sum(o.clips is not None and (o.clips.lr_pred_limit + o.clips.lr_enc_limit > 0) for o in result.outcomes)
    floored = sum(o.clips is not None and o.clips.H_floor > 0 for o in result.outcomes)
    lines = [
        f"{len(result.outcomes)} runs in {plan.out_dir}: {counts['completed']} completed, "
        f"{counts['diverged']} diverged, {counts['skipped']} already there, {counts['failed']} failed; "
        f"{result.wall_s:.1f} s with {_where(plan)}",
    ]
    if clipped or floored:
        lines.append(f"auto schedule: a stability bound was active in {clipped} runs, the floor of H_t in {floored}")
    failed = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    lines += [f"failed {outcome.run_id}: {outcome.reason}" for outcome in failed[:FAILURES_SHOWN]]
    if len(failed) > FAILURES_SHOWN:
        more = len(failed) - FAILURES_SHOWN
        lines.append(f"and {more} more; each is recorded in {plan.out_dir}/_failed, if the disk allows")
    return "\n".join(lines)
