"""What every sampler answers: a group of runs, its arrays, and the kernels that move them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from byolsim.backends.numba import structures
from byolsim.config.run import RunConfig
from byolsim.model.encoder import Start
from byolsim.model.world import World


class Sampler(ABC):
    """A group under one sampler: the packing of its arrays and the calls of its kernels, which lie beside it.

    Attributes
    ----------
    course : estimate, rates, loss and counters of each run.
    """

    course: structures.Course

    @abstractmethod
    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        """The group at epoch 0, where its configurations or `initial` say."""

    @staticmethod
    @abstractmethod
    def numbers(config: RunConfig) -> int:
        """Double-precision numbers that one run holds: draws and work space of a step, weights and world."""

    @staticmethod
    def tiny(config: RunConfig) -> dict[str, Any]:
        """What a run that only compiles must have beside `base.TINY` to use the kernels of this one."""
        return {}

    @abstractmethod
    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """Steps on the rows lo..hi-1 of a block of draws; row s is step first + s.

        `course` gets the loss of the last of them if it is wanted.
        """

    @abstractmethod
    def snapshot(self, row: int, log: structures.Log) -> None:
        """Write every run's order parameters and step values into one row of the log."""
