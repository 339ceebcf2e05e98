"""`byolsim sweep`: a grid of runs."""

from __future__ import annotations

from contextlib import nullcontext

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.progress import progress_bar
from byolsim.cli.tables import table
from byolsim.config.commands import SweepOutput, parse_shard
from byolsim.config.fields import known
from byolsim.config.grid import SweepConfig, axes, sweep_notes
from byolsim.config.run import RunConfig
from byolsim.store.failures import FOLDER
from byolsim.sweeps.estimate import Cost, estimate
from byolsim.sweeps.launch import SweepResult, carry_out
from byolsim.sweeps.meter import Progress
from byolsim.sweeps.plan import Plan, plan_sweep
from byolsim.sweeps.pools.catalogue import choice_of, executor_size

FAILURES_SHOWN = 20


@command_of(
    SweepConfig,
    SweepOutput,
    help="Train a grid of models, in parallel, and store each as one Parquet file. What is there already is skipped.",
    epilog="Exit code 0 also where runs diverged: that is a result. Exit code 1 where a run failed for another reason "
    "or the disk is full: the same command tries again what is missing, and --retry_failed what failed.",
)
def command(given: Given) -> int:
    """Parse, sweep, show."""
    config = given.build(SweepConfig)
    output = given.build(SweepOutput)
    return sweep_grid(plan_of(config, output), output, sweep_notes(given.values, config))


def plan_of(config: SweepConfig, output: SweepOutput) -> Plan:
    """What the command would do."""
    return plan_sweep(
        config,
        output.out_dir,
        workers=output.workers or choice_of(output.executor).workers(),
        force=output.force,
        retry_failed=output.retry_failed,
        shard=parse_shard(output.shard) if output.shard is not None else None,
    )


def sweep_grid(plan: Plan, output: SweepOutput, notes: list[str]) -> int:
    """Carry out a plan as the command does, and say what came of it; the exit code."""
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if output.dry_run:
        click.echo(_plan_text(plan))
        return 0
    with progress_bar("byolsim sweep", plan.run_steps) as advance:
        plan, result = _carried_out(plan, output, advance)
    click.echo(_summary(result, plan))
    return 1 if result.count("failed") or result.count("left") else 0


def _carried_out(plan: Plan, output: SweepOutput, advance: Progress) -> tuple[Plan, SweepResult]:
    """The plan, cut for the workers that the executor turned out to have, and what came of it."""
    opened = choice_of(output.executor).open(output.scheduler, plan.workers) if plan.todo else nullcontext()
    with opened as executor:
        if executor is not None:
            plan = plan.for_workers(executor_size(executor, output.workers))
        return plan, carry_out(
            plan,
            executor=executor,
            limit=output.workers,
            workers_write=output.workers_write,
            fail_fast=output.fail_fast,
            log_wandb=output.log_wandb,
            save_state=output.save_state,
            progress=advance,
        )


def _plan_text(plan: Plan) -> str:
    pending = sum(map(len, plan.todo))
    there = len(plan.runs) - pending - len(plan.failed)
    failed = f"{len(plan.failed)} failed before, " if plan.failed else ""
    head = (
        f"{len(plan.runs)} runs of mode {plan.config.lr_enc_mode} in {plan.out_dir}: {there} already there, "
        f"{failed}{pending} to compute"
    )
    return "\n".join([head, *_cost_table(plan)]) if pending else head


def _cost_table(plan: Plan) -> list[str]:
    cost = estimate(plan)
    rows = [[str(n), *_cost_cells(part)] for n, part in cost.by_batch_size.items()]
    return [
        *table(["batch_size", "runs", "groups", "run-steps", "core-seconds", "bytes"], rows, left=()),
        f"in all: {cost.total.runs} runs in {cost.total.groups} groups that share their draws, "
        f"{cost.total.run_steps:,} run-steps, {_seconds(cost.total.seconds)} seconds with {_where(plan)}, "
        f"{_size(cost.total.bytes)}",
        "an estimate: some steps were timed on this machine just now; start and compilation are not counted, and a run "
        "that diverges ends earlier",
    ]


def _cost_cells(cost: Cost) -> list[str]:
    return [str(cost.runs), str(cost.groups), f"{cost.run_steps:,}", _seconds(cost.seconds), _size(cost.bytes)]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _where(plan: Plan) -> str:
    n = plan.workers
    on = f" on {plan.runs[0].backend}/{plan.runs[0].device}" if plan.runs else ""
    return f"{n} process{'es' * (n != 1)}{on}"


def _summary(result: SweepResult, plan: Plan) -> str:
    counts = {status: result.count(status) for status in ("completed", "diverged", "skipped", "failed", "left")}
    clipped = sum(o.clips is not None and (o.clips.lr_pred_limit + o.clips.lr_enc_limit > 0) for o in result.outcomes)
    floored = sum(o.clips is not None and o.clips.H_floor > 0 for o in result.outcomes)
    lines = [
        f"{len(result.outcomes)} runs in {plan.out_dir}: {counts['completed']} completed, "
        f"{counts['diverged']} diverged, {counts['skipped']} already there, {counts['failed']} failed; "
        f"{result.wall_s:.1f} s" + (f" with {_where(plan)}" if plan.workers else ""),
    ]
    if clipped or floored:
        lines.append(f"auto schedule: a stability bound was active in {clipped} runs, the floor of H_t in {floored}")
    lines += _failure_table(result, plan)
    if result.stopped:
        lines.append(f"stopped: {result.stopped}; {counts['left']} more runs were not begun")
    if plan.failed:
        lines.append(f"{len(plan.failed)} failed before and were not tried again: --retry_failed does")
    return "\n".join(lines)


def _failure_table(result: SweepResult, plan: Plan) -> list[str]:
    failed = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    if not failed:
        return []
    configs = {config.run_id: config for config in plan.runs}
    rows = [[f"failed {o.run_id}", *_point(configs[o.run_id]), o.reason] for o in failed[:FAILURES_SHOWN]]
    head = ["run", *axes().values(), "reason"]
    lines = table(head, rows, left=(0, len(head) - 1))
    if len(failed) > FAILURES_SHOWN:
        lines.append(f"and {len(failed) - FAILURES_SHOWN} more")
    return [*lines, f"each is recorded in {plan.out_dir / FOLDER}, if the disk allows"]


def _point(config: RunConfig) -> list[str]:
    """Where a run stands in its grid."""

    def shown(name: str) -> str:
        value = getattr(config, name)
        if value is None:
            return str(known(RunConfig.model_fields[name])["auto"])
        return f"{value:g}" if isinstance(value, float) else str(value)

    return [shown(name) for name in axes().values()]
