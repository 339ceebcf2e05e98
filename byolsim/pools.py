"""Where the groups of a sweep are computed: in this process, or through any `concurrent.futures.Executor`.

`processes.Processes` is the third place: worker processes of our own.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from types import TracebackType
from typing import Any

from byolsim import __version__
from byolsim.config import RunConfig
from byolsim.errors import UserError
from byolsim.record import RunRecord
from byolsim.work import Failure, Outcome, Progress, Writer, compute, compute_and_store, one_line


class WorkerDied(Exception):
    """The process that computed a group ended; the pool goes on."""


class PoolBroken(Exception):
    """The pool takes no more groups."""


class Pool(ABC):
    """A way to turn groups into outcomes, some of them at a time.

    As a context manager: what still runs is waited for when the block is left, and ended when an exception leaves it.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Groups in hand at a time, at most; `PoolBroken` if that can no longer be told."""

    @abstractmethod
    def submit(self, group: Sequence[RunConfig]) -> Future[Any]:
        """Take a group in hand; `PoolBroken` if that is no longer possible."""

    @abstractmethod
    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """What became of a group whose future is done; `WorkerDied`, or `PoolBroken`, or what else went wrong."""

    def report(self) -> None:
        """Pass on what running groups have told of their progress."""
        return

    def end(self) -> None:
        """End the groups in hand as soon as that is possible."""
        return

    def close(self) -> None:
        """Let go of everything, once no group is in hand."""
        return

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.end()


class Here(Pool):
    """In this process: a group is done when `submit` returns."""

    size = 1

    def __init__(self, writer: Writer, progress: Progress) -> None:
        self.writer, self.progress = writer, progress

    def submit(self, group: Sequence[RunConfig]) -> Future[Any]:
        """Compute and store the group."""
        future: Future[list[Outcome]] = Future()
        future.set_result(compute_and_store(group, self.writer, self.progress))
        return future

    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """What was found."""
        outcomes: list[Outcome] = future.result()
        return outcomes


class Through(Pool):
    """Any executor, which stays its owner's: it is not shut down.

    The records come back and are written here; with `workers_write` the workers write them, into a folder that they
    share with this process.
    """

    def __init__(
        self, executor: Executor, limit: int | None, writer: Writer, progress: Progress, workers_write: bool = False
    ) -> None:
        self.executor, self.limit, self.writer, self.progress = executor, limit, writer, progress
        self.workers_write = workers_write
        self.futures: set[Future[Any]] = set()

    @property
    def size(self) -> int:
        """As many as the executor has workers now, or the limit."""
        try:
            return executor_size(self.executor, self.limit)
        except Exception as error:  # Dask's scheduler is gone
            raise PoolBroken(f"the executor broke ({one_line(error)})") from error

    def submit(self, group: Sequence[RunConfig]) -> Future[Any]:
        """Hand the group to the executor."""
        ids = [config.run_id for config in group]
        call = (_compute_and_store, group, ids, self.writer) if self.workers_write else (_compute, group, ids)
        try:
            future: Future[Any] = self.executor.submit(*call)
        except Exception as error:
            raise PoolBroken(f"the executor takes no more work ({one_line(error)})") from error
        self.futures.add(future)
        return future

    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """Write the records that came back, or take the outcomes of what the worker wrote."""
        self.futures.discard(future)
        try:
            results = future.result()
        except (BrokenExecutor, CancelledError) as error:
            raise PoolBroken(f"the executor broke ({one_line(error)})") from error
        except Exception as error:
            # Dask's word for it, named here and not imported: its workers are replaced.
            if type(error).__name__ == "KilledWorker":
                raise WorkerDied from error
            raise
        outcomes: list[Outcome] = results if self.workers_write else self.writer.store(results)
        self.progress(sum(config.epochs for config in group))
        return outcomes

    def end(self) -> None:
        """Cancel what waits; an executor has no way to end what runs."""
        for future in self.futures:
            future.cancel()


def executor_size(executor: Executor, limit: int | None = None) -> int:
    """Groups that an executor is given at a time: `limit`, or one a worker where the workers can be counted.

    Dask's workers come and go, and one that dies fails each task that it was given: it never has more than one.
    """
    client = getattr(executor, "_client", None)
    if client is not None:
        return max(1, min(len(client.nthreads()), limit or sys.maxsize))
    return limit or getattr(executor, "_max_workers", None) or available_cores()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compute(group: Sequence[RunConfig], ids: Sequence[str]) -> list[RunRecord | Failure]:
    _check_version(group, ids)
    return [result for results in compute(group, _untold) for result in results]


def _compute_and_store(group: Sequence[RunConfig], ids: Sequence[str], writer: Writer) -> list[Outcome]:
    _check_version(group, ids)
    return compute_and_store(group, writer, _untold)


def _check_version(group: Sequence[RunConfig], ids: Sequence[str]) -> None:
    """A worker elsewhere must give a configuration the id, so the numbers, that the sender gives it."""
    if [config.run_id for config in group] != list(ids):
        raise UserError(f"the worker has byolsim {__version__}, which is not the version of the process that sent work")


def _untold(run_steps: int) -> None:
    """No executor has a way back for progress."""
