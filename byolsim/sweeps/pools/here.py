"""Groups one after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.sweeps.compute import compute_and_store
from byolsim.sweeps.meter import Progress
from byolsim.sweeps.outcome import Outcome
from byolsim.sweeps.pools.base import Pool
from byolsim.sweeps.writer import Writer


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
