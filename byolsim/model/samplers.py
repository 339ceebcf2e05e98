"""What a step draws: one short class a sampler, and the catalogue of them.

Here is what every backend has in common, and what is known before anything is computed: the stream of a run and its
blocks, and how much work a step is. What a step computes from its draw stands in `backends/*/samplers`, under the same
names. `sampler_of` is the only place that asks which sampler a configuration has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.draws.streams import Fill, MinibatchKey, MomentsKey, minibatch_blocks, moment_blocks

Draws = NDArray[np.float64]
"""(steps, numbers of a step); a block of them is overwritten by the next."""

NORMAL_COST = 100.0
"""Operations of products in whose time about one number is drawn and brought into its place.

An order of magnitude for the order of tasks and the sizes of shards, as all of this cost model: `--dry_run` measures.
"""

EMPTY_STEPS = 2**12
"""Steps in a block where nothing is drawn."""


class Sampler(ABC):
    """What a run draws, whatever computes with it.

    Attributes
    ----------
    config : of the run, or of any run of its group: only what a group has in common is read.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @abstractmethod
    def blocks(self, fill: Fill | None = None, after: int = 0) -> Iterator[Draws]:
        """The draws after + 1, ..., after + epochs of the stream, in blocks of whole steps; `fill` as in `streams`."""

    @abstractmethod
    def operations(self) -> float:
        """Floating-point operations of the products of one step of one run, to leading order."""

    @abstractmethod
    def shared_operations(self) -> float:
        """The same of what the group shares in a step: its draws."""


def view_key(config: RunConfig, n: int) -> MinibatchKey:
    """What n pairs of views of a configuration's world are drawn by."""
    q, plain = config.structured, config.correlation is None and not config.d_nuisance
    if config.world_id is None:
        return MinibatchKey(config.seed, n, config.d_obs, q, 0 if plain else q)
    return MinibatchKey(config.seed, n, config.d_obs, q, q, config.world_id, config.d_obs > q)


class Minibatch(Sampler):
    """Every sample is drawn: n latents and 2 n noises."""

    @property
    def key(self) -> MinibatchKey:
        """What the minibatches depend on."""
        return view_key(self.config, self.config.batch_size)

    def blocks(self, fill: Fill | None = None, after: int = 0) -> Iterator[Draws]:
        """See `streams.minibatch_blocks`."""
        return minibatch_blocks(self.key, self.config.epochs, fill, after)

    def operations(self) -> float:
        """B_o X, B_t X+ and D X^T, 2 n d k each; with second moments in place of samples n is d at most.

        An MLP of h hidden units has h rows for k, and needs all samples.
        """
        n, d, h = self.config.batch_size, self.config.d_obs, self.config.hidden or 0
        return 6 * (h or self.config.k) * d * (n if h else min(n, d))

    def shared_operations(self) -> float:
        """The draws; those of both views count as one per entry of X, since what follows is fast."""
        return NORMAL_COST * (self.config.batch_size * self.config.d_obs)


class Population(Sampler):
    """Nothing is drawn: the limit n -> infinity."""

    def blocks(self, fill: Fill | None = None, after: int = 0) -> Iterator[Draws]:
        """Blocks without a number."""
        epochs = self.config.epochs
        for first in range(0, epochs, EMPTY_STEPS):
            yield np.empty((min(EMPTY_STEPS, epochs - first), 0))

    def operations(self) -> float:
        """Products with A alone, 2 d q k each: less than the rest of a step."""
        return 0

    def shared_operations(self) -> float:
        """Nothing."""
        return 0


class Direct(Sampler):
    """W and N of the moments sampler in its direct form; docs/moments.md, section 2."""

    form = "direct"

    @property
    def key(self) -> MomentsKey:
        """What the moments depend on."""
        config = self.config
        return MomentsKey(
            config.seed, config.batch_size, config.d_obs, config.structured, self.form, config.k, config.world_id or ""
        )

    @property
    def width(self) -> int:
        """Columns of an encoder."""
        return self.config.d_obs

    def blocks(self, fill: Fill | None = None, after: int = 0) -> Iterator[Draws]:
        """See `streams.moment_blocks`."""
        return moment_blocks(self.key, self.config.epochs, fill, after)

    def operations(self) -> float:
        """Nine products or reflections of 2 k^2 operations a column of an encoder, and 25 of small matrices.

        Neither grows with n.
        """
        k, q = self.config.k, self.config.structured
        return 18 * k * (k + q) / 2 * self.width + 50 * k * k * (k + 2 * q) / 3

    def shared_operations(self) -> float:
        """The draws: W (q + 2k, q + 2k) and N (k, width), for n >= q + 2k."""
        k, q = self.config.k, self.config.structured
        return NORMAL_COST * ((q + 2 * k) ** 2 + k * self.width)


class Reduced(Direct):
    """W and N of the reduced form; docs/moments.md, section 3."""

    form = "reduced"

    @property
    def width(self) -> int:
        """Coordinates of an encoder between steps, whatever d is."""
        return self.config.structured + 3 * self.config.k


SAMPLERS: dict[str, type[Sampler]] = {
    "minibatch": Minibatch,
    "population": Population,
    "direct": Direct,
    "reduced": Reduced,
}
"""By name: the value of `sampler`, or of `moments_form` where that is `moments`."""


def sampler_name(config: RunConfig) -> str:
    """The name of a configuration's sampler in the catalogues."""
    return config.moments_form or config.sampler


def sampler_of(config: RunConfig) -> Sampler:
    """A configuration's sampler."""
    return SAMPLERS[sampler_name(config)](config)
