"""The seam between backends: `simulate` on a group of runs that share a world and a data stream.

A backend trains; it knows nothing of metric columns, files or commands. What each one can run is data (`ABILITIES`):
what it cannot is refused from there, and docs/options.md shows it as a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byolsim.config.fields import names
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.memory import machine_memory
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.predictor import PREDICTOR_RULES
from byolsim.model.samplers import SAMPLERS, sampler_name, sampler_of
from byolsim.model.start import Start
from byolsim.model.world import World

RUNS_PER_GROUP = 64
"""On a CPU a larger group gains nothing more from shared draws, and loses more if its process dies."""

ROWS_PER_BLOCK = 64
BLOCK_NUMBERS = 2**22
GROUP_NUMBERS = 2**28
"""Bounds on what a process holds: logged epochs and numbers of a block, numbers of a group's state."""

COMPILED_FOR = names(RunConfig, "compiled")
TINY: dict[str, Any] = {"d_latent": 1, "d_obs": 5, "latent_spectrum": "flat:1", "batch_size": 1, "epochs": 1}
"""What decides which kernels a run needs, and the smallest shape that every sampler takes."""


@dataclass(frozen=True)
class Abilities:
    """The values of each hyperparameter that a backend takes; every combination of them that `config` allows.

    Attributes
    ----------
    step_operations : operations of products in whose time a run-step's fixed part is done, for estimates of cost.
    also : the hyperparameters declared an `ability` that it takes where they are not null.
    """

    step_operations: float
    enc: tuple[str, ...] = ("linear",)
    pred: tuple[str, ...] = ("linear",)
    sampler: tuple[str, ...] = tuple(SAMPLERS)
    dtype: tuple[str, ...] = ("float64", "float32")
    device: tuple[str, ...] = ("cpu",)
    pred_rule: tuple[str, ...] = tuple(PREDICTOR_RULES)
    stop_grad: tuple[bool, ...] = (True,)
    also: tuple[str, ...] = ()


EXTRAS = names(RunConfig, "ability")
"""What a backend may take beyond the first model: each of these where it is not null."""

ABILITIES: dict[str, Abilities] = {
    "numpy": Abilities(step_operations=3e6, stop_grad=(True, False), also=EXTRAS),
    "numba": Abilities(step_operations=2e5, stop_grad=(True, False), also=EXTRAS),
    "torch": Abilities(
        step_operations=2e6,
        enc=("linear", "mlp"),
        pred=("linear", "mlp"),
        device=("auto", "cpu", "cuda"),
        stop_grad=(True, False),
        also=EXTRAS,
    ),
}
"""By the name of the backend. Compiled kernels spend as long on 2e5 operations of products as on what every step costs
whatever its size; Python takes ten times that and more."""

OPTIONS = tuple(field.name for field in fields(Abilities) if field.name not in ("step_operations", "also"))
"""The hyperparameters in question, in the order in which they are checked."""


def check_offered(backend: str, config: RunConfig) -> None:
    """`UserError`, one line that names what to change, if this backend does not run the configuration."""
    for option in OPTIONS:
        value = sampler_name(config) if option == "sampler" else getattr(config, option)
        offered = getattr(ABILITIES[backend], option)
        if value in offered:
            continue
        able = " or ".join(repr(name) for name, other in ABILITIES.items() if value in getattr(other, option))
        if not able:
            allowed = ", ".join(map(str, offered))
            raise UserError(f"{option} = {value} is not part of this version: must be one of {allowed}")
        if value == "mlp":
            raise UserError(f"backend = {backend!r} runs linear models only: an MLP needs backend = {able}")
        raise UserError(f"{option} = {value!r} belongs to backend = {able}, not to {backend!r}")
    for option in EXTRAS:
        value = getattr(config, option)
        if value is not None and option not in ABILITIES[backend].also:
            able = " or ".join(repr(name) for name, other in ABILITIES.items() if option in other.also)
            raise UserError(f"{option} = {value!r} belongs to backend = {able}, not to {backend!r}")


@dataclass(frozen=True)
class LogBlock:
    """L consecutive logged epochs of the K runs of a group.

    Attributes
    ----------
    epochs : (L,) the logged epochs.
    order : the order parameters, stacked (K, L, ., .); what was measured on a sample for models with an MLP.
    steps : column name -> (K, L), what a step reports of itself, `model.metrics.step_metrics`.
    valid : (K, L) False from the epoch on at which a run diverged.
    diverged_epoch : (K,) the epoch at which a run diverged so far, or -1.
    clips : (K, 3) steps so far at which the bound of alpha, the bound of beta and the floor of H_t were active.
    final : where each run ended, None for one that diverged; in the last block, if it was asked for.
    """

    epochs: NDArray[np.int64]
    order: OrderParameters | SampledFeatures
    steps: Mapping[str, NDArray[np.float64]]
    valid: NDArray[np.bool_]
    diverged_epoch: NDArray[np.int64]
    clips: NDArray[np.int64]
    final: Sequence[Start | None] | None = None


def rows_per_block(K: int, config: RunConfig) -> int:
    """Logged epochs of K runs that a backend hands over at once: P, b_o, L_o, b_t and L_t a run and epoch."""
    k, q = config.k, config.structured
    return max(1, min(ROWS_PER_BLOCK, BLOCK_NUMBERS // (K * k * (3 * k + 2 * q))))


def check_memory(config: RunConfig, numbers: int) -> None:
    """`UserError` if one run needs more double-precision numbers than this machine's memory holds."""
    memory = machine_memory()
    if 8 * numbers > memory:
        raise UserError(
            f"batch_size = {config.batch_size}, d_obs = {config.d_obs} and "
            f"d_{'embed' if config.d_embed else 'latent'} = {config.k} need "
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

    def resolve(self, config: RunConfig) -> RunConfig:
        """The configuration with a concrete device; `UserError` where this backend cannot run it."""
        check_offered(self.name, config)
        check_memory(config, self.numbers(config))
        return config

    @abstractmethod
    def numbers(self, config: RunConfig) -> int:
        """Double-precision numbers that one run needs at least, for the check of memory."""

    def group_limit(self, config: RunConfig) -> int:
        """Largest useful group: more runs would gain nothing from shared draws, or not fit into memory."""
        return max(1, min(RUNS_PER_GROUP, GROUP_NUMBERS // (5 * config.k * config.d_obs)))

    def tiny(self, config: RunConfig) -> RunConfig:
        """The smallest run that needs what this one needs compiled; equal for configurations that need the same."""
        kept = {name: getattr(config, name) for name in COMPILED_FOR}
        return RunConfig(**kept, **TINY)

    @abstractmethod
    def warm(self, tiny: RunConfig) -> None:
        """Compile what runs of the kind of this tiny one need; later processes find it in the cache."""

    @abstractmethod
    def simulate(
        self,
        world: World,
        group: Sequence[RunConfig],
        progress: Callable[[int], None],
        initial: Start | None = None,
        keep_final: bool = False,
    ) -> Iterator[LogBlock]:
        """Train the runs of one group and yield their logged epochs, in order.

        `group` holds configurations that differ in the fields declared `per_run` alone. `progress` is told, now and
        then, how many more epochs the group has done. `initial` is where all of its runs start, if not where their
        configurations say; their clocks and draws then go on from its epoch. `keep_final` asks for where they end.
        A run's numbers do not depend on the other members of its group.
        Raises `GroupTooLarge` where the device's memory does not hold the group.
        """


def group_operations(group: Sequence[RunConfig]) -> float:
    """An estimate of a group's cost in operations of products: what each run computes, and the draws once."""
    config, sampler = group[0], sampler_of(group[0])
    fixed = ABILITIES[config.backend].step_operations
    return float(config.epochs) * (len(group) * (fixed + sampler.operations()) + sampler.shared_operations())
