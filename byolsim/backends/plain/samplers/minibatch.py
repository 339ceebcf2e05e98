"""Every sample of a minibatch is drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.draws.plain_normals import fill_plain_normals
from byolsim.draws.streams import MinibatchKey, minibatch_blocks, split_draws
from byolsim.model.state import Array, Evaluation, State


class Minibatch(Sampler):
    """Means over n samples x = A z + e and x+ = A z + e+, which are the columns of X and X+ (d, n).

    Z_o = B_o X,    D = P Z_o - B_t X+,    G = D X^T / n,    loss = 1/2 ||D||^2 / n,    C_oo = Z_o Z_o^T / n
    """

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """The block of normals and the two views with what they are made of."""
        n, d, r = config.batch_size, config.d_obs, config.d_latent
        return n * (4 * r + 8 * d)

    def draws(self) -> Iterator[tuple[Array, Array]]:
        """(X, X+) of each step."""
        config, world = self.config, self.cast_world
        key = MinibatchKey(config.seed, config.batch_size, world.d, world.r)
        for block in minibatch_blocks(key, config.epochs, fill_plain_normals):
            for row in block:
                z, e, e_plus = split_draws(self.cast(row), key)
                signal = world.A @ (np.sqrt(world.lam)[:, None] * z)
                yield signal + world.sigma * e, signal + world.sigma * e_plus

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """The formulas above."""
        X, X_plus = draw
        n = X.shape[1]
        Z_o = state.B_o @ X
        D = state.P @ Z_o - state.B_t @ X_plus
        return Evaluation(G=D @ X.T / n, loss=0.5 * float((D**2).sum()) / n, C_oo=Z_o @ Z_o.T / n)
