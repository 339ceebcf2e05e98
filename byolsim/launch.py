"""Compute and store: one run, or a grid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from byolsim.backends import get_backend
from byolsim.backends.base import GroupTooLarge
from byolsim.config import RunConfig, SweepConfig
from byolsim.errors import UserError
from byolsim.grid import estimated_cost, expand, tasks
from byolsim.processes import Outcome, run_in_processes, run_task
from byolsim.record import RunRecord
from byolsim.simulate import simulate_runs
from byolsim.store import TEMPORARY, clear_failure, clear_leftovers, exists, is_complete, run_path, save, save_failure
from byolsim.tracking import log_run

WORTH_PROCESSES = 4e10
"""Operations, about two seconds of one core, above which a sweep uses more than one process."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left, run by run, and how long it took."""

    outcomes: list[Outcome] = field(default_factory=list)
    wall_s: float = 0.0

    def count(self, status: str) -> int:
        """Number of runs that ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)


def run(
    config: RunConfig,
    out_dir: str | Path = "runs_parquet",
    *,
    run_name: str | None = None,
    force: bool = False,
    log_wandb: bool = False,
    progress: Callable[[int], None] = lambda epochs: None,
) -> tuple[Path, RunRecord | None]:
    """Compute one run and store it; the path, and the record or None if the complete file was already there.

    Raises
    ------
    UserError
        If the configuration cannot be run, the folder cannot be written, or a file of another run has the name.
    """
    config = get_backend(config.backend).resolve(config)
    path, there = _target(config, out_dir, run_name, force)
    if there:
        return path, None
    check_writable(out_dir)
    try:
        (record,) = simulate_runs([config], progress)
    except GroupTooLarge as error:
        raise UserError(f"{error}: lower batch_size, d_obs or hidden") from error
    save(record, path)
    clear_failure(out_dir, config)
    if log_wandb:
        log_run(record)
    return path, record


def sweep(
    config: SweepConfig,
    out_dir: str | Path = "runs_parquet",
    *,
    workers: int | None = None,
    force: bool = False,
    log_wandb: bool = False,
    progress: Callable[[int], None] = lambda run_steps: None,
) -> SweepResult:
    """Compute the runs of a grid that are not there yet, in `workers` processes (all cores by default).

    The same bits for any number of workers. A run that diverges is a result; a run that fails for another reason is
    recorded as `<id>.failed.json`, and the others go on.

    Raises
    ------
    UserError
        If the grid cannot be run or the folder cannot be written.
    """
    return carry_out(plan_sweep(config, out_dir, workers=workers, force=force), log_wandb=log_wandb, progress=progress)


@dataclass(frozen=True)
class Plan:
    """What a sweep is about to do.

    Attributes
    ----------
    runs : all runs of the grid.
    todo : the groups of runs that are not there yet, in the order of execution.
    workers : processes that will be used.
    """

    out_dir: Path
    runs: list[RunConfig]
    todo: list[list[RunConfig]]
    workers: int

    @property
    def run_steps(self) -> int:
        """Training steps, summed over the runs to compute."""
        return sum(run.epochs for group in self.todo for run in group)


def plan_sweep(
    config: SweepConfig, out_dir: str | Path = "runs_parquet", *, workers: int | None = None, force: bool = False
) -> Plan:
    """What `sweep` would do; nothing is written. `UserError` if a backend cannot run a configuration."""
    backend = get_backend(config.backend)
    runs = [backend.resolve(run) for run in expand(config)]
    pending = [run for run in runs if force or not is_complete(run_path(out_dir, run), run)]
    # One process feeds a GPU: a group there is as large as its memory allows.
    count = 1 if runs[0].device == "cuda" else workers or _default_workers(pending)
    todo = tasks(pending, count, backend.group_limit(runs[0])) if pending else []
    return Plan(Path(out_dir), runs, todo, min(count, len(todo)))


def carry_out(
    plan: Plan, *, log_wandb: bool = False, progress: Callable[[int], None] = lambda run_steps: None
) -> SweepResult:
    """Do what was planned; `UserError` if the folder cannot be written."""
    start = time.perf_counter()
    by_id = {run.run_id: run for run in plan.runs}
    pending = {run.run_id for group in plan.todo for run in group}
    there = [run for run_id, run in by_id.items() if run_id not in pending]
    outcomes = [Outcome(run.run_id, run_path(plan.out_dir, run), "skipped") for run in there]
    if plan.todo:
        check_writable(plan.out_dir)
    if plan.workers > 1:
        outcomes += run_in_processes(plan.todo, plan.workers, plan.out_dir, log_wandb, progress)
    else:
        for group in plan.todo:
            outcomes += run_task(group, plan.out_dir, log_wandb, progress)
    for outcome in outcomes:
        if outcome.status == "failed":
            save_failure(plan.out_dir, by_id[outcome.run_id], outcome.reason)
    return SweepResult(outcomes, time.perf_counter() - start)


def describe_run(config: RunConfig, out_dir: str | Path, *, run_name: str | None = None, force: bool = False) -> str:
    """What `run` would do, without doing it."""
    config = get_backend(config.backend).resolve(config)
    path, there = _target(config, out_dir, run_name, force)
    if there:
        return f"{path} is there already: nothing to compute"
    return f"would write {path}: {config.epochs:,} epochs on {config.backend}/{config.device}, run id {config.run_id}"


def _target(config: RunConfig, out_dir: str | Path, run_name: str | None, force: bool) -> tuple[Path, bool]:
    """The file of a run, and whether it is there and need not be computed."""
    path = run_path(out_dir, config, run_name)
    if force or not exists(path):
        return path, False
    if is_complete(path, config):
        return path, True
    if run_name is not None:
        raise UserError(f"{path} is there and is another run's: choose another run_name, or --force to replace it")
    return path, False


def _default_workers(pending: Sequence[RunConfig]) -> int:
    """All cores, or this process alone where starting others would take longer than the work."""
    return available_cores() if estimated_cost(pending) > WORTH_PROCESSES else 1


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_writable(out_dir: str | Path, option: str = "out_dir") -> None:
    """Make the folder and prove that a file can be made in it, before hours are spent; `UserError` if not."""
    folder = Path(out_dir)
    probe = folder / f"{TEMPORARY}{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        clear_leftovers(folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {str(out_dir)!r} cannot be written: {why}") from error
