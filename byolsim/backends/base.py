"""The seam between backends: `simulate` on a group of runs that share a world and a data stream.

A backend trains; it knows nothing of metric columns, files or commands.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.world import World

RUNS_PER_GROUP = 64
"""On a CPU a larger group gains nothing more from shared draws, and loses more if its process dies."""

ROWS_PER_BLOCK = 64
BLOCK_NUMBERS = 2**22
GROUP_NUMBERS = 2**28
"""Bounds on what a process holds: logged epochs and numbers of a block, numbers of a group's state."""


@dataclass(frozen=True)
class LogBlock:
    """L consecutive logged epochs of the K runs of a group.

    Attributes
    ----------
    epochs : (L,) the logged epochs.
    order : the order parameters, stacked (K, L, r, r); what was measured on a sample for models with an MLP.
    loss : (K, L) the minibatch loss that the step computed; NaN at epoch 0.
    Hmax : (K, L) the curvature estimate H_t; NaN at epoch 0.
    lr_pred_t, lr_enc_t : (K, L) the rates that the step used; at epoch 0 the fixed rate, NaN under the schedule.
    valid : (K, L) False from the epoch on at which a run diverged.
    diverged_epoch : (K,) the epoch at which a run diverged so far, or -1.
    clips : (K, 3) steps so far at which the bound of alpha, the bound of beta and the floor of H_t were active.
    """

    epochs: NDArray[np.int64]
    order: OrderParameters | SampledFeatures
    loss: NDArray[np.float64]
    Hmax: NDArray[np.float64]
    lr_pred_t: NDArray[np.float64]
    lr_enc_t: NDArray[np.float64]
    valid: NDArray[np.bool_]
    diverged_epoch: NDArray[np.int64]
    clips: NDArray[np.int64]


def rows_per_block(K: int, r: int) -> int:
    """Logged epochs that a backend hands over at once: five r x r matrices a run and epoch."""
    return max(1, min(ROWS_PER_BLOCK, BLOCK_NUMBERS // (5 * K * r * r)))


def second_moments_pay(n: int, d: int, r: int) -> bool:
    """Whether a minibatch step is cheaper on the second moments of the samples than on the samples.

    A run needs 6 n d r operations on the samples. On S_xx and S_px it needs 4 d^2 r, and the group 4 n d^2 to form
    them, a share of n d^2 / 5 in a group of 20. A function of the shape alone, so that a run's bits do not depend on
    its group.
    """
    return n * (6 * r - d / 5) > 4 * d * r


def check_offered(config: RunConfig) -> None:
    """`UserError` for what no backend of this version offers."""
    for option, value, offered in (
        ("sampler", config.sampler, ("minibatch", "moments", "population")),
        ("pred_rule", config.pred_rule, ("learned",)),
        ("stop_grad", config.stop_grad, (True,)),
    ):
        if value not in offered:
            allowed = ", ".join(map(str, offered))
            raise UserError(f"{option} = {value} is not part of this version: must be one of {allowed}")


def check_memory(config: RunConfig, numbers: int) -> None:
    """`UserError` if one run needs more double-precision numbers than this machine's memory holds."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = 2**36  # a system that does not say
    if 8 * numbers > memory:
        raise UserError(
            f"batch_size = {config.batch_size}, d_obs = {config.d_obs} and d_latent = {config.d_latent} need "
            f"{8 * numbers / 2**30:.0f} GiB: must be at most {memory / 2**30:.0f} GiB, the memory of this machine"
        )


def is_logged(config: RunConfig, epoch: int) -> bool:
    """Whether a row is logged after this epoch."""
    return epoch % config.log_every == 0 or epoch == config.epochs


class GroupTooLarge(Exception):
    """The device's memory does not hold the group: its halves may fit."""


class Backend(ABC):
    """One way to train. Stateless: everything about a run is in its configuration."""

    name: str

    @abstractmethod
    def resolve(self, config: RunConfig) -> RunConfig:
        """The configuration with a concrete device; `UserError` where this backend cannot run it."""

    def group_limit(self, config: RunConfig) -> int:
        """Largest useful group: more runs would gain nothing from shared draws, or not fit into memory."""
        return max(1, min(RUNS_PER_GROUP, GROUP_NUMBERS // (5 * config.d_latent * config.d_obs)))

    @abstractmethod
    def warm(self, config: RunConfig) -> None:
        """Compile what runs of the kind of this tiny configuration need; later processes find it in the cache."""

    @abstractmethod
    def simulate(self, world: World, group: Sequence[RunConfig], progress: Callable[[int], None]) -> Iterator[LogBlock]:
        """Train the runs of one group and yield their logged epochs, in order.

        `group` holds configurations that differ in the fields declared `per_run` alone. `progress` is told, now and
        then, how many more epochs the group has done. A run's numbers do not depend on the other members of its group.
        Raises `GroupTooLarge` where the device's memory does not hold the group.
        """
