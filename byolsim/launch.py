"""Compute and store: one run, or the groups of a grid over processes.

A worker trains a group and writes its files itself, so a finished run is on disk before anybody is told of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from byolsim.backends import get_backend
from byolsim.config import RunConfig, SweepConfig
from byolsim.errors import UserError
from byolsim.grid import expand, tasks
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_runs
from byolsim.store import clear_failure, is_complete, read_info, run_path, save, save_failure
from byolsim.tracking import log_run

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
REPORT_S = 0.2
"""Seconds between a worker's reports of progress."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended: `completed`, `diverged`, `skipped` (already there) or `failed` with the reason."""

    run_id: str
    path: Path
    status: str
    reason: str = ""
    clips: ClipCounts | None = None


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
    get_backend(config.backend).check(config)
    path = run_path(out_dir, config, run_name)
    if not force and path.exists():
        if is_complete(path, config):
            return path, None
        if run_name is not None:
            raise UserError(f"{path} is there and is another run's: choose another run_name, or --force to replace it")
    check_writable(out_dir)
    (record,) = simulate_runs([config], progress)
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
    start = time.perf_counter()
    runs = expand(config)
    pending = pending_runs(runs, out_dir, force)
    outcomes = [Outcome(run.run_id, run_path(out_dir, run), "skipped") for run in runs if run not in set(pending)]
    if pending:
        check_writable(out_dir)
        count = workers or available_cores()
        todo = tasks(pending, count)
        count = min(count, len(todo))
        if count == 1:
            for group in todo:
                outcomes += _run_task(group, out_dir, log_wandb, progress)
        else:
            outcomes += _in_processes(todo, count, out_dir, log_wandb, progress)
    for outcome in outcomes:
        if outcome.status == "failed":
            save_failure(out_dir, next(r for r in runs if r.run_id == outcome.run_id), outcome.reason)
    return SweepResult(outcomes, time.perf_counter() - start)


@dataclass(frozen=True)
class Plan:
    """What a sweep would do."""

    runs: int
    pending: int
    run_steps: int
    text: str


def describe_sweep(
    config: SweepConfig, out_dir: str | Path, *, workers: int | None = None, force: bool = False
) -> Plan:
    """What `sweep` would do, without doing it."""
    runs = expand(config)
    pending = pending_runs(runs, out_dir, force)
    count = workers or available_cores()
    groups = tasks(pending, count) if pending else []
    steps = sum(run.epochs for run in pending)
    text = (
        f"{len(runs)} runs of mode {config.lr_enc_mode} in {out_dir}: {len(runs) - len(pending)} already there, "
        f"{len(pending)} to compute\n"
        f"{len(groups)} groups that share their draws, {steps:,} run-steps, {min(count, len(groups))} processes"
    )
    return Plan(len(runs), len(pending), steps, text)


def describe_run(config: RunConfig, out_dir: str | Path, *, run_name: str | None = None, force: bool = False) -> str:
    """What `run` would do, without doing it."""
    get_backend(config.backend).check(config)
    path = run_path(out_dir, config, run_name)
    if is_complete(path, config) and not force:
        return f"{path} is there already: nothing to compute"
    return f"would write {path}: {config.epochs:,} epochs on {config.backend}/{config.device}, run id {config.run_id}"


def pending_runs(runs: Sequence[RunConfig], out_dir: str | Path, force: bool) -> list[RunConfig]:
    """The runs that have to be computed, each checked against its backend."""
    for name in {config.backend for config in runs}:
        backend = get_backend(name)
        for config in runs:
            backend.check(config)
    return [config for config in runs if force or not is_complete(run_path(out_dir, config), config)]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_writable(out_dir: str | Path) -> None:
    """Make the folder and prove that a file can be made in it, before hours are spent; `UserError` if not."""
    folder = Path(out_dir)
    probe = folder / f".byolsim-{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"out_dir {str(out_dir)!r} cannot be written: {error.strerror or error}") from error


def _run_task(
    group: Sequence[RunConfig], out_dir: str | Path, log_wandb: bool, progress: Callable[[int], None]
) -> list[Outcome]:
    """Train one group and store its runs; each failure is an outcome."""
    paths = [run_path(out_dir, config) for config in group]
    try:
        records = simulate_runs(group, lambda epochs: progress(epochs * len(group)))
    except (MemoryError, ArithmeticError, ValueError, UserError) as error:
        return [_failed(config, path, error) for config, path in zip(group, paths, strict=True)]
    outcomes = []
    for record, path in zip(records, paths, strict=True):
        try:
            save(record, path)
        except UserError as error:
            outcomes.append(_failed(record.config, path, error))
            continue
        clear_failure(out_dir, record.config)
        if log_wandb:
            log_run(record)
        outcomes.append(Outcome(record.config.run_id, path, record.status, clips=record.clips))
    return outcomes


def _failed(config: RunConfig, path: Path, error: BaseException) -> Outcome:
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Outcome(config.run_id, path, "failed", reason.splitlines()[0])


def _in_processes(
    todo: Sequence[Sequence[RunConfig]],
    workers: int,
    out_dir: str | Path,
    log_wandb: bool,
    progress: Callable[[int], None],
) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    _warm(todo)
    with _one_thread_each(), _pool(context, workers, reports) as pool:
        futures = {pool.submit(_worker_task, group, out_dir, log_wandb): group for group in todo}
        outcomes: list[Outcome] = []
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=REPORT_S, return_when=FIRST_COMPLETED)
            while not reports.empty():
                progress(reports.get())
            for future in finished:
                outcomes += _collect(future, futures[future], out_dir)
        while not reports.empty():
            progress(reports.get())
    return outcomes


def _warm(todo: Sequence[Sequence[RunConfig]]) -> None:
    """Compile once, before the workers start: parallel first compilations would race for the cache."""
    seen = set()
    for group in todo:
        config = group[0]
        kind = (config.backend, config.sampler, config.dtype, config.batch_size > config.d_obs)
        if kind not in seen:
            seen.add(kind)
            get_backend(config.backend).warm(config)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile use one BLAS, OpenMP and numba thread."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _pool(context: SpawnContext, workers: int, reports: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end at once when the block is left by an exception, Ctrl-C among them."""
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(reports,))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()
        raise


_reports: Any = None


def _start_worker(reports: Any) -> None:
    """In a worker: leave Ctrl-C to the parent, and keep the queue of progress reports."""
    global _reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _reports = reports


def _worker_task(group: Sequence[RunConfig], out_dir: str | Path, log_wandb: bool) -> list[Outcome]:
    unsent, last = 0, time.monotonic()

    def progress(run_steps: int) -> None:
        nonlocal unsent, last
        unsent += run_steps
        if time.monotonic() - last >= REPORT_S:
            _reports.put(unsent)
            unsent, last = 0, time.monotonic()

    outcomes = _run_task(group, out_dir, log_wandb, progress)
    _reports.put(unsent)
    return outcomes


def _collect(future: Future[list[Outcome]], group: Sequence[RunConfig], out_dir: str | Path) -> list[Outcome]:
    """A task's outcomes; where its process died, what it had stored counts and the rest has failed."""
    try:
        return future.result()
    except BrokenProcessPool:
        reason = "a worker process was killed; the same command computes what is missing"
    outcomes = []
    for config in group:
        path = run_path(out_dir, config)
        if is_complete(path, config):
            outcomes.append(Outcome(config.run_id, path, read_info(path).status))
        else:
            outcomes.append(Outcome(config.run_id, path, "failed", reason))
    return outcomes
