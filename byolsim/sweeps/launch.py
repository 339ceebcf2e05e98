"""Compute and store: one run, or a grid."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from numpy.typing import ArrayLike

from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig, Shared
from byolsim.errors import UserError
from byolsim.machine.temporary import clear_leftovers
from byolsim.machine.threads import one_blas_thread
from byolsim.machine.whole import check_writable
from byolsim.model.start import Start
from byolsim.record import RunRecord
from byolsim.simulate import as_start, started, warm_up
from byolsim.store.failures import FOLDER
from byolsim.store.names import run_path
from byolsim.store.states import STATES
from byolsim.sweeps.dispatch import Dispatch
from byolsim.sweeps.meter import Progress, unfailing
from byolsim.sweeps.outcome import Outcome
from byolsim.sweeps.plan import Plan, check_workers, plan_run, plan_sweep
from byolsim.sweeps.pools.base import Pool
from byolsim.sweeps.pools.catalogue import executor_size, pool_class
from byolsim.sweeps.pools.here import Here
from byolsim.sweeps.pools.processes import Processes
from byolsim.sweeps.writer import Single, Writer


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left, run by run, how long it took, and why it stopped early, if it did."""

    outcomes: list[Outcome] = field(default_factory=list)
    wall_s: float = 0.0
    stopped: str = ""

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
    save_state: bool = False,
    initial: Start | Mapping[str, ArrayLike] | None = None,
    progress: Callable[[int], None] = lambda epochs: None,
) -> tuple[Path, RunRecord | None]:
    """Compute one run and store it; the path, and the record or None if the complete file was already there.

    Parameters
    ----------
    save_state : write where the run ended beside its file as well (`load_state` reads it), and keep it in the record.
    initial : where it starts, as in `simulate_runs`.

    Raises
    ------
    ValueError
        If it cannot start there.
    UserError
        If the configuration cannot be run, the folder cannot be written, or a file of another run has the name.
    """
    _check_states(config, save_state)
    start = as_start(initial)
    writer = Single(Path(out_dir), force, log_wandb, save_state, start, run_name)
    plan = plan_run(started(config, start), writer)
    if not plan.todo:
        return writer.path(plan.runs[0]), None
    (outcome,) = _carry_out(plan, writer, lambda: Here(writer), progress).outcomes
    return outcome.path, outcome.record


def sweep(
    config: SweepConfig,
    out_dir: str | Path = "runs_parquet",
    *,
    workers: int | None = None,
    force: bool = False,
    retry_failed: bool = False,
    fail_fast: bool = False,
    shard: tuple[int, int] | None = None,
    executor: Executor | None = None,
    workers_write: bool = False,
    log_wandb: bool = False,
    save_state: bool = False,
    progress: Progress = lambda run_steps: None,
) -> SweepResult:
    """Compute the runs of a grid that are not there yet.

    The same bits for any number of workers, any executor, any shards. A run that diverges is a result; a run that
    fails for another reason is recorded as `<id>.failed.json`, and the others go on.

    Parameters
    ----------
    workers : processes (all cores by default); with an executor, the groups that it is given at a time (one a worker).
    force : compute also what is there.
    retry_failed : compute also the runs whose failure is recorded.
    fail_fast : stop at the first run that fails, and end what is running.
    shard : (I, N), to do the part I = 0..N-1 of N.
    executor : any `concurrent.futures.Executor` to map the groups over; it is not shut down.
    workers_write : the executor's workers share the folder and write it themselves.
    save_state : write where each run ended as well (`load_state`).

    Raises
    ------
    UserError
        If the grid cannot be run or the folder cannot be written.
    """
    check_workers(workers)
    count = workers or (executor_size(executor) if executor is not None else None)
    plan = plan_sweep(config, out_dir, workers=count, force=force, retry_failed=retry_failed, shard=shard)
    return carry_out(
        plan,
        executor=executor,
        limit=workers,
        workers_write=workers_write,
        fail_fast=fail_fast,
        log_wandb=log_wandb,
        save_state=save_state,
        progress=progress,
    )


def carry_out(
    plan: Plan,
    *,
    executor: Executor | None = None,
    limit: int | None = None,
    workers_write: bool = False,
    fail_fast: bool = False,
    log_wandb: bool = False,
    save_state: bool = False,
    progress: Progress = lambda run_steps: None,
) -> SweepResult:
    """Do what was planned; as `sweep`, with `limit` for the groups that an executor is given at a time."""
    _check_states(plan.config, save_state)
    writer = Writer(plan.out_dir.absolute() if workers_write else plan.out_dir, plan.force, log_wandb, save_state)

    def pool() -> Pool:
        if executor is not None:
            return pool_class(executor)(executor, limit, writer, workers_write)
        return Processes(plan.workers, writer) if plan.workers > 1 else Here(writer)

    return _carry_out(plan, writer, pool, progress, fail_fast)


def _carry_out(
    plan: Plan, writer: Writer, pool_of: Callable[[], Pool], progress: Progress, fail_fast: bool = False
) -> SweepResult:
    """Do what was planned, in a pool that is made once the folder is known to take files and all is compiled."""
    start = time.perf_counter()
    outcomes = _known(plan)
    if not plan.todo:
        return SweepResult(outcomes, time.perf_counter() - start)
    check_writable(plan.out_dir)
    clear_leftovers(plan.out_dir / FOLDER)
    for group in plan.todo:
        warm_up(group[0])
    try:
        with one_blas_thread(), pool_of() as pool:
            dispatch = Dispatch(pool, writer, fail_fast, unfailing(progress))
            dispatch.run(plan.todo)
    finally:
        clear_all_leftovers(plan.out_dir)
    outcomes += _still_there(dispatch.outcomes, plan.out_dir)
    if dispatch.stopped:
        ended = {outcome.run_id for outcome in outcomes}
        left = [run for group in plan.todo for run in group if run.run_id not in ended]
        outcomes += [Outcome(run.run_id, writer.path(run), "left") for run in left]
    return SweepResult(outcomes, time.perf_counter() - start, dispatch.stopped)


def _still_there(outcomes: Sequence[Outcome], out_dir: Path) -> list[Outcome]:
    """Outcomes of the sweep; a run whose file somebody removed since is not complete."""
    try:
        names = {entry.name for entry in os.scandir(out_dir)}
    except OSError:  # the whole folder is gone
        names = set()
    removed = "its file was removed while the sweep ran"
    return [
        outcome
        if outcome.status == "failed" or outcome.path.name in names
        else replace(outcome, status="failed", reason=removed, transient=True)
        for outcome in outcomes
    ]


def _known(plan: Plan) -> list[Outcome]:
    """The runs that are not to be computed: already there, or failed before."""
    pending = {run.run_id for group in plan.todo for run in group}
    outcomes = []
    for run in plan.runs:
        run_id = run.run_id
        if run_id in plan.failed:
            outcomes.append(Outcome(run_id, run_path(plan.out_dir, run), "failed", plan.failed[run_id]))
        elif run_id not in pending:
            outcomes.append(Outcome(run_id, run_path(plan.out_dir, run), "skipped"))
    return outcomes


def describe_run(config: RunConfig, out_dir: str | Path, *, run_name: str | None = None, force: bool = False) -> str:
    """What `run` would do, without doing it."""
    writer = Single(Path(out_dir), force, run_name=run_name)
    plan = plan_run(config, writer)
    config, path = plan.runs[0], writer.path(plan.runs[0])
    if not plan.todo:
        return f"{path} is there already: nothing to compute"
    return f"would write {path}: {config.epochs:,} epochs on {config.backend}/{config.device}, run id {config.run_id}"


def _check_states(config: Shared, save_state: bool) -> None:
    """`UserError` where a model has no state that is kept."""
    if save_state and "mlp" in (config.enc, config.pred):
        raise UserError("save_state is for linear models: where an MLP ended is not kept")


def clear_all_leftovers(out_dir: Path) -> None:
    """Remove what killed processes left in a runs folder in the middle of a write."""
    for folder in (out_dir, out_dir / FOLDER, out_dir / STATES):
        clear_leftovers(folder)
