"""Groups of runs over processes of our own: each worker trains a group and writes its files itself.

A finished run is on disk before anybody is told of it. Each process has a pipe of its own and shares nothing else, no
lock and no semaphore: one that is killed stops nobody, and all of them killed at once leave nothing behind.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.errors import UserError, show_warnings_as_lines
from byolsim.machine.interrupts import ignored_interrupt
from byolsim.machine.threads import one_thread_each
from byolsim.sweeps.compute import compute_and_store
from byolsim.sweeps.meter import Progress, unfailing
from byolsim.sweeps.outcome import Outcome, one_line
from byolsim.sweeps.pools.base import Choice, Pool, PoolBroken, WorkerDied
from byolsim.sweeps.writer import Writer

STARTS = 3
NO_START = "worker processes cannot start any more (out of memory?)"
REPORT_S = 0.2
"""Seconds between a worker's reports of progress."""


class Processes(Pool):
    """Spawned worker processes, each with a thread of this process that waits for it.

    Raises
    ------
    UserError
        If no process can be started.
    """

    def __init__(self, workers: int, writer: Writer) -> None:
        self.workers, self.writer = workers, writer
        context = multiprocessing.get_context("spawn")
        self.threads = ThreadPoolExecutor(workers)
        self.slots: list[Slot] = []
        self.idle: list[Slot] = []
        self.busy: dict[Future[Any], tuple[Slot, Progress]] = {}
        try:
            for _ in range(workers):
                self.slots.append(Slot(context))
            for slot in self.slots:
                slot.ready()
                self.idle.append(slot)
        except OSError as error:
            self.end()
            raise UserError(
                f"{workers} worker processes cannot start ({error.strerror or error}): fewer workers, or a higher "
                "limit on open files and processes (ulimit -n, -u)"
            ) from error
        except BaseException:
            self.end()
            raise

    @property
    def size(self) -> int:
        """One group a process."""
        return self.workers

    def submit(self, group: Sequence[RunConfig], told: Progress) -> Future[Any]:
        """Give the group to an idle process."""
        slot = self.idle.pop()
        try:
            if not slot.process.is_alive():
                slot.restart()
        except (OSError, UserError) as error:
            self.idle.append(slot)
            raise PoolBroken(NO_START) from error
        future = self.threads.submit(slot.do, group, self.writer)
        self.busy[future] = slot, told
        return future

    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """What the process found and stored; a dead process is replaced."""
        slot, _ = self.busy.pop(future)
        slot.reports.clear()
        try:
            outcomes: list[Outcome] = future.result()
        except WorkerDied:
            try:
                slot.restart()
            except (OSError, UserError) as error:
                raise PoolBroken(NO_START) from error
            raise
        finally:
            self.idle.append(slot)
        return outcomes

    def report(self) -> None:
        """Pass on what the processes have sent."""
        for slot, told in self.busy.values():
            while slot.reports:
                told(slot.reports.popleft())

    def end(self) -> None:
        """End all processes now."""
        with ignored_interrupt():
            for slot in self.slots:
                with contextlib.suppress(AttributeError):  # it was never started
                    slot.process.kill()
            self.close()

    def close(self) -> None:
        """Wait for the processes, idle or killed, to end."""
        for slot in self.slots:
            slot.let_go()
        for slot in self.slots:
            slot.close()
        self.threads.shutdown()


class Slot:
    """The place of one worker process, which can be replaced when it dies.

    Attributes
    ----------
    reports : run-steps that the process has told of, in the order in which they came.
    """

    def __init__(self, context: SpawnContext) -> None:
        self.context = context
        self.reports: deque[int] = deque()
        self.start()

    def start(self) -> None:
        """Start the process; it ignores Ctrl-C from its first instruction on."""
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_work, args=(theirs,), daemon=True)
        try:
            with ignored_interrupt(), one_thread_each():
                self.process.start()
        finally:
            theirs.close()

    def ready(self) -> None:
        """Wait until the process answers; one that dies before is started again."""
        for _ in range(STARTS):
            try:
                self.connection.recv()
                return
            except (EOFError, ConnectionError):
                self.connection.close()
                self.start()
        raise UserError(
            "worker processes cannot start: a script that calls sweep must be a file and do so under "
            "if __name__ == '__main__':, or pass workers=1"
        )

    def restart(self) -> None:
        """A new process in place of the dead one."""
        self.process.join()
        self.connection.close()
        self.start()
        self.ready()

    def do(self, group: Sequence[RunConfig], writer: Writer) -> list[Outcome]:
        """Have the process compute and store a group; `WorkerDied` if it ended meanwhile."""
        try:
            self.connection.send((group, writer))
            while isinstance(answer := self.connection.recv(), int):
                self.reports.append(answer)
        except (EOFError, OSError):
            raise WorkerDied from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        outcomes: list[Outcome] = answer
        return outcomes

    def let_go(self) -> None:
        """Let an idle process come to its end."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def close(self) -> None:
        """Wait for the process to end."""
        with contextlib.suppress(ValueError, AssertionError):  # it was never started
            self.process.join()
        self.connection.close()


def _work(pipe: Connection[Any, Any]) -> None:
    """In a worker: leave Ctrl-C to the parent, end when it ends, and do groups until there are no more.

    The answers are numbers of run-steps and, at the end of a group, its outcomes or what went wrong.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    show_warnings_as_lines()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(None)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while (task := pipe.recv()) is not None:
            group, writer = task
            pipe.send(_done(group, writer, pipe))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _done(group: Sequence[RunConfig], writer: Writer, pipe: Connection[Any, Any]) -> list[Outcome] | str:
    unsent, last = 0, time.monotonic()

    def progress(run_steps: int) -> None:
        nonlocal unsent, last
        unsent += run_steps
        if time.monotonic() - last >= REPORT_S:
            pipe.send(unsent)
            unsent, last = 0, time.monotonic()

    try:
        return compute_and_store(group, writer, unfailing(progress))
    except Exception as error:  # it costs this group alone
        return one_line(error)


CHOICE = Choice(lambda scheduler, workers: contextlib.nullcontext(), lambda: None)
