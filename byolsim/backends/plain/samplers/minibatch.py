"""Every sample of a minibatch is drawn."""

from __future__ import annotations

import numpy as np

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.draws.streams import split_draws
from byolsim.model import samplers
from byolsim.model.state import Array, Evaluation, State


class Minibatch(Sampler):
    """Means over n samples x = A z + e and x+ = A z + e+, which are the columns of X and X+ (d, n).

    Z_o = B_o X,    D = P Z_o - B_t X+,    G = D X^T / n,    loss = 1/2 ||D||^2 / n,    C_oo = Z_o Z_o^T / n
    """

    stream: samplers.Minibatch

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """The block of normals and the two views with what they are made of."""
        n, d, r = config.batch_size, config.d_obs, config.d_latent
        return n * (4 * r + 8 * d)

    def draw(self, row: Array) -> tuple[Array, Array]:
        """(X, X+)."""
        world = self.cast_world
        z, e, e_plus = split_draws(row, self.stream.key)
        signal = world.A @ (np.sqrt(world.lam)[:, None] * z)
        return signal + world.sigma * e, signal + world.sigma * e_plus

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """The formulas above."""
        X, X_plus = draw
        n = X.shape[1]
        Z_o = state.B_o @ X
        D = state.P @ Z_o - state.B_t @ X_plus
        return Evaluation(G=D @ X.T / n, loss=0.5 * float((D**2).sum()) / n, C_oo=Z_o @ Z_o.T / n)
