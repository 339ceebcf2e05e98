"""Groups of runs over processes of our own: each worker trains a group and writes its files itself.

A finished run is on disk before anybody is told of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

from byolsim.config import RunConfig
from byolsim.errors import UserError, show_warnings_as_lines
from byolsim.interrupts import ignored_interrupt
from byolsim.pools import Pool, PoolBroken, WorkerDied
from byolsim.threads import one_thread_each
from byolsim.work import Outcome, Progress, Writer, compute_and_store

STARTS = 3
NO_START = "worker processes cannot start any more (out of memory?)"
REPORT_S = 0.2
"""Seconds between a worker's reports of progress."""


class Processes(Pool):
    """Spawned worker processes. Each is a pool of its own, so one that dies names the group it died of.

    Raises
    ------
    UserError
        If no process can be started.
    """

    def __init__(self, workers: int, writer: Writer, progress: Progress) -> None:
        self.workers, self.writer, self.progress = workers, writer, progress
        context = multiprocessing.get_context("spawn")
        self.slots: list[Slot] = []
        self.idle: list[Slot] = []
        self.busy: dict[Future[Any], Slot] = {}
        try:
            for _ in range(workers):
                self.slots.append(Slot(context))
            for slot in self.slots:
                slot.ready()
                self.idle.append(slot)
        except BaseException:
            self.end()
            raise

    @property
    def size(self) -> int:
        """One group a process."""
        return self.workers

    def submit(self, group: Sequence[RunConfig]) -> Future[Any]:
        """Give the group to an idle process."""
        slot = self.idle.pop()
        try:
            future = slot.submit(_worker_task, group, self.writer)
        except (BrokenProcessPool, UserError) as error:
            self.idle.append(slot)
            raise PoolBroken(NO_START) from error
        self.busy[future] = slot
        return future

    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """What the process found and stored; a dead process is replaced."""
        slot = self.busy.pop(future)
        try:
            outcomes: list[Outcome] = future.result()
        except BrokenProcessPool:
            try:
                slot.restart()
            except (BrokenProcessPool, UserError) as error:
                raise PoolBroken(NO_START) from error
            raise WorkerDied from None
        finally:
            self.idle.append(slot)
        return outcomes

    def report(self) -> None:
        """Pass on what the processes have sent."""
        for slot in self.slots:
            for run_steps in slot.reports():
                self.progress(run_steps)

    def end(self) -> None:
        """End all processes now."""
        with ignored_interrupt():
            for slot in self.slots:
                slot.kill()
            self.close()

    def close(self) -> None:
        """Wait for the processes, idle or killed, to end."""
        for slot in self.slots:
            slot.pool.shutdown(cancel_futures=True)


class Slot:
    """One worker process: a pool of one, which can be replaced when its process dies.

    It reports through a pipe of its own: a process that is killed while it holds what others wait for stops them too.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.context = context
        self.start()

    def start(self) -> None:
        """Start the process; it ignores Ctrl-C from its first instruction on."""
        self.reader, writer = self.context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(1, mp_context=self.context, initializer=_start_worker, initargs=(writer,))
        with ignored_interrupt(), one_thread_each():
            self.started = self.pool.submit(os.getpid)
        writer.close()
        self.processes = list(self.pool._processes.values())  # there is no public way to them

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
            "worker processes cannot start: a script that calls sweep must be a file and do so under "
            "if __name__ == '__main__':, or pass workers=1"
        )

    def restart(self) -> None:
        """A new process in place of the dead one."""
        self.pool.shutdown(wait=False)
        self.reader.close()
        self.start()
        self.ready()

    def submit(self, *call: Any) -> Future[Any]:
        """Give the process a task; one that died while it was idle is replaced."""
        try:
            return self.pool.submit(*call)
        except BrokenProcessPool:
            self.restart()
            return self.pool.submit(*call)

    def reports(self) -> Iterator[int]:
        """The run-steps that the process has told of since the last call."""
        with contextlib.suppress(EOFError, OSError):  # it is dead
            while self.reader.poll():
                yield self.reader.recv()

    def kill(self) -> None:
        """End the process now."""
        for process in self.processes:
            process.kill()


_reports: Any = None


def _start_worker(reports: Connection[int, int]) -> None:
    """In a worker: leave Ctrl-C to the parent, end when it ends, and keep the pipe of progress reports."""
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


def _worker_task(group: Sequence[RunConfig], writer: Writer) -> list[Outcome]:
    unsent, last = 0, time.monotonic()

    def progress(run_steps: int) -> None:
        nonlocal unsent, last
        unsent += run_steps
        if time.monotonic() - last >= REPORT_S:
            _reports.send(unsent)
            unsent, last = 0, time.monotonic()

    outcomes = compute_and_store(group, writer, progress)
    _reports.send(unsent)
    return outcomes
