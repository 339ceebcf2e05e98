"""Groups of runs over processes: each worker trains a group and writes its files itself.

A finished run is on disk before anybody is told of it.
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
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from byolsim.backends import get_backend
from byolsim.backends.base import GroupTooLarge
from byolsim.config import RunConfig
from byolsim.errors import UserError
from byolsim.record import ClipCounts
from byolsim.simulate import simulate_runs
from byolsim.store import clear_failure, is_complete, read_info, run_path, save
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


def run_task(
    group: Sequence[RunConfig], out_dir: str | Path, log_wandb: bool, progress: Callable[[int], None]
) -> list[Outcome]:
    """Train one group and store its runs; each failure is an outcome."""
    paths = [run_path(out_dir, config) for config in group]
    try:
        records = simulate_runs(group, lambda epochs: progress(epochs * len(group)))
    except GroupTooLarge as error:
        if len(group) == 1:
            return [_failed(group[0], paths[0], error)]
        half = len(group) // 2
        return [
            outcome for part in (group[:half], group[half:]) for outcome in run_task(part, out_dir, log_wandb, progress)
        ]
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


def run_in_processes(
    todo: Sequence[Sequence[RunConfig]],
    workers: int,
    out_dir: str | Path,
    log_wandb: bool,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Train tasks in `workers` spawned processes; as `run_task`, for all of them."""
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
                outcomes += collect(future, futures[future], out_dir)
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

    outcomes = run_task(group, out_dir, log_wandb, progress)
    _reports.put(unsent)
    return outcomes


def collect(future: Future[list[Outcome]], group: Sequence[RunConfig], out_dir: str | Path) -> list[Outcome]:
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
