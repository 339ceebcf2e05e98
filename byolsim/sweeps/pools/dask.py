"""Dask: an executor on a local cluster of processes, or on a scheduler that runs somewhere (extra `dask`)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from byolsim.errors import UserError
from byolsim.machine.cores import available_cores
from byolsim.machine.interrupts import ignored_interrupt
from byolsim.machine.threads import one_thread_each
from byolsim.sweeps.pools.base import Choice, PoolBroken, PoolLost
from byolsim.sweeps.pools.executor import Through, broken
from byolsim.sweeps.writer import Writer

CONNECT_S = 5
CLOSE_S = 2

ASK_EVERY_S = 5.0
ANSWER_S = 60.0
"""Seconds between questions to a scheduler, and after which one that does not answer counts as lost."""

SILENT = logging.CRITICAL + 1


class Dask(Through):
    """An executor of Dask's. Its workers come and go, and one that dies fails each task that it was given."""

    def __init__(self, executor: Executor, limit: int | None, writer: Writer, workers_write: bool = False) -> None:
        super().__init__(executor, limit, writer, workers_write)
        self.asked = time.monotonic()

    @staticmethod
    def knows(executor: Executor) -> bool:
        """Whether an executor is one of Dask's: behind it there is a client."""
        return getattr(executor, "_client", None) is not None

    @staticmethod
    def workers_of(executor: Executor, limit: int | None = None) -> int:
        """One group a worker that is there now, never more: or its death would cost them all; `limit` at most."""
        client: Any = executor._client  # type: ignore[attr-defined]
        workers = client.sync(client.scheduler.ncores, callback_timeout=ANSWER_S)
        return max(1, min(len(workers), limit or sys.maxsize))

    @property
    def size(self) -> int:
        """As many as there are workers now, or the limit."""
        try:
            return self.workers_of(self.executor, self.limit)
        except TimeoutError as error:
            raise PoolLost(_silent()) from error
        except Exception as error:  # the scheduler is gone
            raise PoolBroken(broken(error)) from error

    def report(self) -> None:
        """Ask the scheduler now and then for a sign of life: one that is frozen leaves every future as it is."""
        if time.monotonic() - self.asked < ASK_EVERY_S:
            return
        try:
            self.workers_of(self.executor)
        except TimeoutError as error:
            raise PoolLost(_silent()) from error
        except Exception:
            return  # it is gone, and says so of every future
        finally:
            self.asked = time.monotonic()

    def is_death(self, error: Exception) -> bool:
        """By the name of the class, which is not imported: its workers are replaced."""
        return type(error).__name__ == "KilledWorker"


def _silent() -> str:
    return f"the scheduler has given no sign of life for {ANSWER_S:g} seconds; what is stored is kept"


@contextmanager
def dask_executor(scheduler: str | None, workers: int) -> Iterator[Executor]:
    """An executor on the scheduler at an address, or on a new local cluster of so many processes of one thread each.

    Dask's own messages are not shown. The block is left without waiting for what runs: a local cluster is ended, a
    scheduler that was there before is told to forget what it was given.

    Raises
    ------
    UserError
        If Dask is not installed, the local cluster cannot start, or there is no scheduler at that address.
    """
    try:
        distributed: Any = import_module("distributed")
    except ModuleNotFoundError:
        raise UserError("executor 'dask' needs Dask, which is not installed: pip install 'byolsim[dask]'") from None
    with distributed.utils.silence_logging_cmgr(SILENT), _client(distributed, scheduler, workers) as client:
        executor: Executor = client.get_executor(pure=False, retries=0)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


@contextmanager
def _client(distributed: Any, scheduler: str | None, workers: int) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        if scheduler is not None:
            _check_scheduler(distributed, scheduler)
        address = scheduler if scheduler is not None else stack.enter_context(_local_cluster(distributed, workers))
        try:
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(_no_answer(scheduler, error)) from None
        if scheduler is not None and not client.nthreads():
            warnings.warn(f"scheduler {scheduler} has no workers yet: the sweep waits for them", stacklevel=2)
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=CLOSE_S)


def _check_scheduler(distributed: Any, address: str) -> None:
    """`UserError` unless a scheduler says who it is: a client waits for ever for one that accepts and is silent."""
    import asyncio  # loaded with Dask: a sweep without it starts sooner

    async def identity() -> Any:
        async with distributed.core.rpc(address, timeout=CONNECT_S) as scheduler:
            return await scheduler.identity()

    try:
        kind = asyncio.run(asyncio.wait_for(identity(), CONNECT_S)).get("type")
    except TimeoutError:
        raise UserError(_no_answer(address, f"nothing is heard for {CONNECT_S:g} s")) from None
    except Exception as error:  # an address that is none, a refused connection, another protocol
        raise UserError(_no_answer(address, error)) from None
    if kind != "Scheduler":
        raise UserError(_no_answer(address, f"a {kind} does"))


def _no_answer(scheduler: str | None, why: object) -> str:
    reason = " ".join(str(why).split()) or type(why).__name__
    return f"scheduler {scheduler!r} does not answer ({reason}): must be the address of a running Dask scheduler"


@contextmanager
def _local_cluster(distributed: Any, workers: int) -> Iterator[Any]:
    """Processes of our own under Dask's scheduler. One that dies fails its task at once, which is tried again here."""
    with one_thread_each(), ignored_interrupt():
        try:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                scheduler_kwargs={"allowed_failures": 0},
                silence_logs=SILENT,
                preload=["byolsim.sweeps.pools.dask"],
            )
        except (OSError, RuntimeError, TimeoutError) as error:
            raise UserError(f"executor 'dask': the local cluster cannot start ({error})") from None
    try:
        yield cluster
    finally:
        with ignored_interrupt(), contextlib.suppress(Exception):
            _kill_workers(cluster)
            cluster.close(timeout=CLOSE_S)


def _kill_workers(cluster: Any) -> None:
    """End the processes now: Dask itself would wait for what they compute."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with contextlib.suppress(OSError, TypeError):  # gone, or not there yet
            os.kill(nanny.pid, signal.SIGKILL)


CHOICE = Choice(dask_executor, available_cores)


def dask_setup(worker: Any) -> None:
    """In a worker of a local cluster, which Dask calls this in: leave Ctrl-C to the parent."""
    with contextlib.suppress(ValueError):  # not in the main thread: the nanny's preload
        signal.signal(signal.SIGINT, signal.SIG_IGN)
