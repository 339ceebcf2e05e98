"""What a run or a sweep is about to do: its runs, what is missing, the groups it is cut into. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from byolsim.backends import get_backend
from byolsim.config.grid import Runs, SweepConfig, grid_of
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.cores import available_cores
from byolsim.model import rows
from byolsim.simulate import resolve
from byolsim.store.failures import lasting_failures
from byolsim.store.files import is_complete
from byolsim.store.names import SUFFIX
from byolsim.sweeps.grid import estimated_cost, joined, shard_of, tasks
from byolsim.sweeps.writer import Single, Writer

MAX_WORKERS = 4096
WORTH_PROCESSES = 4e10
"""Operations, about two seconds of one core, above which a sweep uses more than one process."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is about to do.

    Attributes
    ----------
    config : the grid, or the one run.
    runs : all runs of the grid, or of the shard.
    todo : the groups of runs to compute, in the order of execution.
    failed : run id -> reason of the runs that failed before and are not tried again.
    workers : processes that will be used.
    force : compute what is there already.
    """

    out_dir: Path
    config: SweepConfig | RunConfig
    runs: Sequence[RunConfig]
    todo: Sequence[Sequence[RunConfig]]
    failed: Mapping[str, str]
    workers: int
    force: bool = False

    @property
    def run_steps(self) -> int:
        """Training steps, summed over the runs to compute."""
        return sum(group[0].epochs * len(group) for group in self.todo)

    def for_workers(self, workers: int) -> Plan:
        """The same runs, cut into groups for another number of workers."""
        todo = _groups(joined(self.todo), workers)
        return replace(self, todo=todo, workers=min(workers, len(todo)))


def plan_sweep(
    config: SweepConfig,
    out_dir: str | Path = "runs_parquet",
    *,
    workers: int | None = None,
    force: bool = False,
    retry_failed: bool = False,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """What `sweep` would do.

    Raises
    ------
    UserError
        If a backend cannot run a configuration, the shard is none, or the number of workers.
    """
    check_workers(workers)
    runs = grid_of(config, resolve)
    for group in runs.streams():
        _ = group[0]  # what the backend cannot run is refused here; it depends on the stream alone
    if shard is not None:
        runs = shard_of(runs, *shard)
    failures = {} if force or retry_failed else lasting_failures(out_dir)
    return _plan(config, runs, Writer(Path(out_dir), force), failures, workers)


def plan_run(config: RunConfig, writer: Single) -> Plan:
    """What `run` would do: a grid of one run.

    Raises
    ------
    UserError
        If the backend cannot run it, or a file of another run stands in its place.
    """
    plan = _plan(config, Runs.of(resolve(config)), writer, {}, 1)
    for (run,) in plan.todo:
        writer.check_place(run)
    return plan


def _plan(
    config: SweepConfig | RunConfig, runs: Runs, writer: Writer, failures: Mapping[str, str], workers: int | None
) -> Plan:
    missing = runs if writer.force else _missing(runs, writer)
    failed = {run.run_id: failures[run.run_id] for run in missing if run.run_id in failures} if failures else {}
    pending = _those(missing, lambda run: run.run_id not in failed) if failed else missing
    # One process feeds a GPU: a group there is as large as its memory allows.
    on_gpu = bool(runs) and runs[0].device == "cuda"
    count = 1 if on_gpu else workers or _default_workers(pending)
    todo = _groups(pending, count)
    if todo:
        rows.check_rows(max(todo, key=len), min(count, len(todo)))
    return Plan(writer.out_dir, config, runs, todo, failed, min(count, len(todo)), writer.force)


def check_workers(workers: int | None) -> None:
    """`UserError` for a number of workers that is none."""
    if workers is not None and (type(workers) is not int or not 1 <= workers <= MAX_WORKERS):
        raise UserError(f"workers = {workers!r} is not allowed: must be a whole number >= 1 and <= {MAX_WORKERS}")


def _missing(runs: Runs, writer: Writer) -> Runs:
    """The runs whose complete file is not there; the folder is listed once, and only what it has is opened."""
    try:
        names = {entry.name for entry in os.scandir(writer.out_dir) if entry.name.endswith(SUFFIX)}
    except (OSError, ValueError):  # not there, or not to be read: whoever writes into it says why
        names = set()
    if not names:
        return runs

    def is_missing(run: RunConfig) -> bool:
        path = writer.path(run)
        return path.name not in names or not is_complete(path, run)

    return _those(runs, is_missing)


def _those(runs: Runs, wanted: Callable[[RunConfig], bool]) -> Runs:
    """The runs of which something holds."""
    return runs.chosen(index for index, run in zip(runs.indices, runs, strict=True) if wanted(run))


def _groups(pending: Sequence[RunConfig], workers: int) -> list[Sequence[RunConfig]]:
    if not pending:
        return []
    limit = min(get_backend(pending[0].backend).group_limit(pending[0]), rows.group_limit(pending[0]))
    return tasks(pending, workers, limit)


def _default_workers(pending: Sequence[RunConfig]) -> int:
    """All cores, or this process alone where starting others would take longer than the work."""
    return available_cores() if estimated_cost(pending) > WORTH_PROCESSES else 1
