"""Where the groups of a sweep are computed: in this process, or through any `concurrent.futures.Executor`.

`processes.Processes` is the third place: worker processes of our own.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from types import TracebackType
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.code import code_id
from byolsim.machine.cores import available_cores
from byolsim.record import RunRecord
from byolsim.sweeps.outcome import Failure, Outcome, Progress, Writer, checked, compute, compute_and_store, one_line

ASK_EVERY_S = 5.0
ANSWER_S = 60.0
"""Seconds between questions to a scheduler, and after which one that does not answer counts as lost."""


class WorkerDied(Exception):
    """The process that computed a group ended; the pool goes on."""


class PoolBroken(Exception):
    """The pool takes no more groups."""


class PoolLost(PoolBroken):
    """Nothing will come back of the groups in hand either."""


class Pool(ABC):
    """A way to turn groups into outcomes, some of them at a time.

    As a context manager: what still runs is waited for when the block is left, and ended when an exception leaves it.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Groups in hand at a time, at most; `PoolBroken` if that can no longer be told."""

    @abstractmethod
    def submit(self, group: Sequence[RunConfig], told: Progress) -> Future[Any]:
        """Take a group in hand, which tells of its run-steps; `PoolBroken` if that is no longer possible."""

    @abstractmethod
    def outcomes(self, group: Sequence[RunConfig], future: Future[Any]) -> list[Outcome]:
        """What became of a group whose future is done; `WorkerDied`, or `PoolBroken`, or what else went wrong."""

    def report(self) -> None:
        """Pass on what running groups have told of their progress; `PoolLost` where none will ever come back."""
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

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def submit(self, group: Sequence[RunConfig], told: Progress) -> Future[Any]:
        """Compute and store the group."""
        future: Future[list[Outcome]] = Future()
        future.set_result(compute_and_store(group, self.writer, told))
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

    def __init__(self, executor: Executor, limit: int | None, writer: Writer, workers_write: bool = False) -> None:
        self.executor, self.limit, self.writer = executor, limit, writer
        self.workers_write = workers_write
        self.futures: set[Future[Any]] = set()
        self.asked = time.monotonic()

    @property
    def size(self) -> int:
        """As many as the executor has workers now, or the limit."""
        try:
            return executor_size(self.executor, self.limit)
        except TimeoutError as error:
            raise PoolLost(_silent()) from error
        except Exception as error:  # Dask's scheduler is gone
            raise PoolBroken(f"the executor broke ({one_line(error)})") from error

    def report(self) -> None:
        """Ask Dask's scheduler now and then for a sign of life: one that is frozen leaves every future as it is."""
        if dask_client(self.executor) is None or time.monotonic() - self.asked < ASK_EVERY_S:
            return
        try:
            executor_size(self.executor)
        except TimeoutError as error:
            raise PoolLost(_silent()) from error
        except Exception:
            return  # it is gone, and says so of every future
        finally:
            self.asked = time.monotonic()

    def submit(self, group: Sequence[RunConfig], told: Progress) -> Future[Any]:
        """Hand the group to the executor, which has no way back for progress."""
        ids = [config.run_id for config in group]
        call: tuple[Any, ...] = (_compute, group, ids, code_id())
        if self.workers_write:
            call = (_compute_and_store, group, ids, code_id(), self.writer)
        try:
            future: Future[Any] = self.executor.submit(call[0], *call[1:])
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
        except UserError as error:  # the worker's code is not this one: nor would it be for the next group
            raise PoolBroken(str(error)) from error
        except Exception as error:
            # Dask's word for it, named here and not imported: its workers are replaced.
            if type(error).__name__ == "KilledWorker":
                raise WorkerDied from error
            raise
        return self.writer.written(group, results) if self.workers_write else self.writer.store(checked(group, results))

    def end(self) -> None:
        """Cancel what waits; an executor has no way to end what runs."""
        for future in self.futures:
            future.cancel()


def executor_size(executor: Executor, limit: int | None = None) -> int:
    """Groups that an executor is given at a time: `limit`, or one a worker where the workers can be counted.

    Dask's workers come and go, and one that dies fails each task that it was given: it never has more than one.
    """
    client = dask_client(executor)
    if client is not None:
        workers = client.sync(client.scheduler.ncores, callback_timeout=ANSWER_S)
        return max(1, min(len(workers), limit or sys.maxsize))
    return limit or getattr(executor, "_max_workers", None) or available_cores()


def dask_client(executor: Executor) -> Any:
    """The client behind one of Dask's executors, None for any other."""
    return getattr(executor, "_client", None)


def _silent() -> str:
    return f"the scheduler has given no sign of life for {ANSWER_S:g} seconds; what is stored is kept"


def _compute(group: Sequence[RunConfig], ids: Sequence[str], code: str) -> list[RunRecord | Failure]:
    _check_code(group, ids, code)
    return [result for results in compute(group, _untold) for result in results]


def _compute_and_store(group: Sequence[RunConfig], ids: Sequence[str], code: str, writer: Writer) -> list[Outcome]:
    _check_code(group, ids, code)
    return compute_and_store(group, writer, _untold)


def _check_code(group: Sequence[RunConfig], ids: Sequence[str], code: str) -> None:
    """A worker elsewhere must run the code of the sender, or its numbers may be others under the same id."""
    if code_id() != code or [config.run_id for config in group] != list(ids):
        raise UserError(f"a worker has {code_id()}, not the {code} of the process that sent work: install the same one")


def _untold(run_steps: int) -> None:
    """No executor has a way back for progress."""
