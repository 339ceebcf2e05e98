"""The seam between a sweep and what computes its groups: a `Pool`, and a `Choice` for each value of `--executor`.

`here` is this process, `processes` are worker processes of our own, `executor` is any `concurrent.futures.Executor`
and `dask` one of Dask's. `catalogue` finds the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.sweeps.meter import Progress
from byolsim.sweeps.outcome import Outcome


@dataclass(frozen=True)
class Choice:
    """One value of `--executor`: the `CHOICE` of the module of that name.

    Attributes
    ----------
    open : gets the address of a scheduler, if one was given, and a number of workers; a context in which there is an
        executor, or None for processes of our own.
    workers : how many a grid is cut for where the user says nothing, or None: as many as its cost is worth.
    """

    open: Callable[[str | None, int], AbstractContextManager[Executor | None]]
    workers: Callable[[], int | None]


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
