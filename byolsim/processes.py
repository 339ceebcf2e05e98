"""Groups of runs over processes: each worker trains a group and writes its files itself.

A finished run is on disk before anybody is told of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from byolsim.backends.base import GroupTooLarge
from byolsim.config import RunConfig
from byolsim.errors import UserError, show_warnings_as_lines
from byolsim.interrupts import ignored_interrupt
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_runs, warm_up
from byolsim.store import clear_failure, is_complete, read_info, run_path, save
from byolsim.tracking import log_run

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
STARTS = 3
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
    records: list[RunRecord] | None = None
    try:
        records = simulate_runs(group, lambda epochs: progress(epochs * len(group)))
    except GroupTooLarge as error:
        if len(group) == 1:
            return [_failed(group[0], paths[0], error)]
    except Exception as error:  # whatever it is, it costs this group alone
        return [_failed(config, path, error) for config, path in zip(group, paths, strict=True)]
    if records is None:  # outside of the handler, which holds on to the memory of the group that was too large
        half = len(group) // 2
        parts = (group[:half], group[half:])
        return [outcome for part in parts for outcome in run_task(part, out_dir, log_wandb, progress)]
    outcomes = []
    for record, path in zip(records, paths, strict=True):
        try:
            save(record, path)
        except Exception as error:
            outcomes.append(_failed(record.config, path, error))
            continue
        clear_failure(out_dir, record.config)
        if log_wandb:
            log_run(record)
        outcomes.append(Outcome(record.config.run_id, path, record.status, clips=record.clips))
    return outcomes


def _failed(config: RunConfig, path: Path, error: BaseException) -> Outcome:
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Outcome(config.run_id, path, "failed", (reason.splitlines() or [""])[0])


def run_in_processes(
    todo: Sequence[Sequence[RunConfig]],
    workers: int,
    out_dir: str | Path,
    log_wandb: bool,
    progress: Callable[[int], None],
) -> list[Outcome]:
    """Train tasks in `workers` spawned processes; as `run_task`, for all of them.

    Each process is a pool of its own, so one that dies names the task it died of: what that task had stored counts,
    and the rest is tried again in halves, until a run that kills its process twice by itself has failed.

    Raises
    ------
    UserError
        If no process can be started.
    """
    for group in todo:
        warm_up(group[0])
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    waiting = deque(_Task(tuple(group)) for group in todo)
    outcomes: list[Outcome] = []
    with _one_thread_each(), _slots(context, workers, reports) as slots:
        busy: dict[Future[list[Outcome]], tuple[_Slot, _Task]] = {}
        idle = list(slots)
        while waiting or busy:
            while waiting and idle:
                slot, task = idle.pop(), waiting.popleft()
                busy[slot.submit(_worker_task, task.group, out_dir, log_wandb)] = (slot, task)
            finished, _ = wait(busy, timeout=REPORT_S, return_when=FIRST_COMPLETED)
            while not reports.empty():
                progress(reports.get())
            for future in finished:
                slot, task = busy.pop(future)
                try:
                    outcomes += future.result()
                except BrokenProcessPool:
                    more, again = after_death(task, out_dir)
                    outcomes += more
                    waiting.extendleft(again)
                    slot.restart()
                idle.append(slot)
        while not reports.empty():
            progress(reports.get())
    return outcomes


@dataclass(frozen=True)
class _Task:
    """A group, and whether a process already died of it."""

    group: tuple[RunConfig, ...]
    retried: bool = False


def after_death(task: _Task, out_dir: str | Path) -> tuple[list[Outcome], list[_Task]]:
    """What the task of a dead process had stored, and what is to be tried again."""
    stored, rest = [], []
    for config in task.group:
        path = run_path(out_dir, config)
        if is_complete(path, config):
            stored.append(Outcome(config.run_id, path, read_info(path).status))
        else:
            rest.append(config)
    if len(rest) == 1 and task.retried:
        reason = "its worker process was killed, twice (out of memory?)"
        return [*stored, Outcome(rest[0].run_id, run_path(out_dir, rest[0]), "failed", reason)], []
    half = -(-len(rest) // 2)
    return stored, [_Task(tuple(part), retried=True) for part in (rest[:half], rest[half:]) if part]


class _Slot:
    """One worker process: a pool of one, which can be replaced when its process dies."""

    def __init__(self, context: SpawnContext, reports: Any) -> None:
        self.context, self.reports = context, reports
        self.start()

    def start(self) -> None:
        """Start the process; it ignores Ctrl-C from its first instruction on."""
        self.pool = ProcessPoolExecutor(1, mp_context=self.context, initializer=_start_worker, initargs=(self.reports,))
        others = multiprocessing.active_children()
        with ignored_interrupt():
            self.started = self.pool.submit(os.getpid)
        self.processes = [child for child in multiprocessing.active_children() if child not in others]

    def ready(self) -> None:
        """Wait until the process answers; one that dies before is started again."""
        for _ in range(STARTS):
            try:
                self.started.result()
                return
            except BrokenProcessPool:
                self.pool.shutdown(wait=False)
                self.start()
        raise UserError(
            "worker processes cannot start: a script that calls sweep must do so under "
            "if __name__ == '__main__':, or pass workers=1"
        )

    def restart(self) -> None:
        """A new process in place of the dead one."""
        self.pool.shutdown(wait=False)
        self.start()
        self.ready()

    def submit(self, *call: Any) -> Future[list[Outcome]]:
        """Give the process a task; one that died while it was idle is replaced."""
        try:
            return self.pool.submit(*call)
        except BrokenProcessPool:
            self.restart()
            return self.pool.submit(*call)

    def kill(self) -> None:
        """End the process now."""
        for process in self.processes:
            process.kill()
        self.pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _slots(context: SpawnContext, workers: int, reports: Any) -> Iterator[list[_Slot]]:
    """Workers that end at once when the block is left by an exception, Ctrl-C among them."""
    slots = [_Slot(context, reports) for _ in range(workers)]
    try:
        for slot in slots:
            slot.ready()
        yield slots
        for slot in slots:
            slot.pool.shutdown()
    except BaseException:
        with ignored_interrupt():
            for slot in slots:
                slot.kill()
        raise


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


_reports: Any = None


def _start_worker(reports: Any) -> None:
    """In a worker: leave Ctrl-C to the parent, end when it ends, and keep the queue of progress reports."""
    global _reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _reports = reports
    show_warnings_as_lines()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
