"""The moments sampler in its direct form: second moments are drawn in place of samples."""

from __future__ import annotations

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.draws.streams import split_moments
from byolsim.model import samplers
from byolsim.model.moments import direct_gradient
from byolsim.model.state import Array, Evaluation, State


class Direct(Sampler):
    """W and N of each step, from which `moments.direct_gradient` forms G in the exact law of a minibatch."""

    stream: samplers.Direct

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A block of W and N, and products of the size of an encoder."""
        k, q, d = config.k, config.structured, config.d_obs
        return (18 * k + 2 * q) * d + 34 * k * (k + 2 * q)

    def draw(self, row: Array) -> tuple[Array, Array]:
        """(W, N)."""
        return split_moments(row, self.stream.key)

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """G, the loss and C_oo of the minibatch that the draw stands for."""
        W, N = draw
        return direct_gradient(state.P, state.B_o, state.B_t, self.cast_world, W, N, self.config.batch_size)
