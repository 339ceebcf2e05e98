"""The moments sampler in its direct form: second moments are drawn in place of samples."""

from __future__ import annotations

from collections.abc import Iterator

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.draws.plain_normals import fill_plain_normals
from byolsim.draws.streams import MomentsKey, moment_blocks, split_moments
from byolsim.model.moments import direct_gradient
from byolsim.model.state import Array, Evaluation, State
from byolsim.model.world import World


class Direct(Sampler):
    """W and N of each step, from which `moments.direct_gradient` forms G in the exact law of a minibatch."""

    def __init__(self, config: RunConfig, world: World) -> None:
        super().__init__(config, world)
        self.key = MomentsKey(config.seed, config.batch_size, world.d, world.r, str(config.moments_form))

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A block of W and N, and products of the size of an encoder."""
        r, d = config.d_latent, config.d_obs
        return 20 * r * d + 100 * r * r

    def draws(self) -> Iterator[tuple[Array, Array]]:
        """(W, N) of each step."""
        for block in moment_blocks(self.key, self.config.epochs, fill_plain_normals):
            for row in block:
                yield split_moments(self.cast(row), self.key)

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """G, the loss and C_oo of the minibatch that the draw stands for."""
        W, N = draw
        return direct_gradient(state.P, state.B_o, state.B_t, self.cast_world, W, N, self.key.n)
