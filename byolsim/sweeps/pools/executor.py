"""Groups through any `concurrent.futures.Executor`, whose workers may be on other machines."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.code import code_id
from byolsim.machine.cores import available_cores
from byolsim.record import RunRecord
from byolsim.sweeps.compute import checked, compute, compute_and_store
from byolsim.sweeps.meter import Progress
from byolsim.sweeps.outcome import Failure, Outcome, one_line
from byolsim.sweeps.pools.base import Pool, PoolBroken, WorkerDied
from byolsim.sweeps.writer import Writer


class Through(Pool):
    """Any executor, which stays its owner's: it is not shut down.

    The records come back and are written here; with `workers_write` the workers write them, into a folder that they
    share with this process.
    """

    def __init__(self, executor: Executor, limit: int | None, writer: Writer, workers_write: bool = False) -> None:
        self.executor, self.limit, self.writer = executor, limit, writer
        self.workers_write = workers_write
        self.futures: set[Future[Any]] = set()

    @staticmethod
    def workers_of(executor: Executor, limit: int | None = None) -> int:
        """Groups that an executor is given at a time: `limit`, or one a worker where the workers can be counted."""
        return limit or getattr(executor, "_max_workers", None) or available_cores()

    @property
    def size(self) -> int:
        """As many as the executor has workers now, or the limit."""
        return self.workers_of(self.executor, self.limit)

    def is_death(self, error: Exception) -> bool:
        """Whether the error of a group says that its worker ended and was replaced; as far as a pool knows, never."""
        return False

    def submit(self, group: Sequence[RunConfig], told: Progress) -> Future[Any]:
        """Hand the group to the executor, which has no way back for progress."""
        ids = [config.run_id for config in group]
        call: tuple[Any, ...] = (_compute, group, ids, code_id(), self.writer.save_state)
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
            raise PoolBroken(broken(error)) from error
        except UserError as error:  # the worker's code is not this one: nor would it be for the next group
            raise PoolBroken(str(error)) from error
        except Exception as error:
            if self.is_death(error):
                raise WorkerDied from error
            raise
        return self.writer.written(group, results) if self.workers_write else self.writer.store(checked(group, results))

    def end(self) -> None:
        """Cancel what waits; an executor has no way to end what runs."""
        for future in self.futures:
            future.cancel()


def broken(error: BaseException) -> str:
    """Why a sweep stops whose executor broke."""
    return f"the executor broke ({one_line(error)})"


def _compute(group: Sequence[RunConfig], ids: Sequence[str], code: str, keep_final: bool) -> list[RunRecord | Failure]:
    _check_code(group, ids, code)
    parts = compute(group, _untold, elsewhere=True, keep_final=keep_final)
    return [result for results in parts for result in results]


def _compute_and_store(group: Sequence[RunConfig], ids: Sequence[str], code: str, writer: Writer) -> list[Outcome]:
    _check_code(group, ids, code)
    return compute_and_store(group, writer, _untold, elsewhere=True)


def _check_code(group: Sequence[RunConfig], ids: Sequence[str], code: str) -> None:
    """A worker elsewhere must run the code of the sender, or its numbers may be others under the same id."""
    if code_id() != code or [config.run_id for config in group] != list(ids):
        raise UserError(f"a worker has {code_id()}, not the {code} of the process that sent work: install the same one")


def _untold(run_steps: int) -> None:
    """No executor has a way back for progress."""
