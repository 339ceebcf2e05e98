"""Every sample of a minibatch is drawn."""

from __future__ import annotations

import numpy as np

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.draws.streams import split_draws
from byolsim.model import samplers
from byolsim.model.gradients import outside_hole
from byolsim.model.state import Array, Evaluation, State


class Minibatch(Sampler):
    """Means over n samples of x and x+, which are the columns of X and X+ (d, n); in a plain world A z + e, A z + e+.

    Z_o = B_o X,    D = P Z_o - B_t X+,    G = D X^T / n,    loss = 1/2 ||D||^2 / n,    C_oo = Z_o Z_o^T / n
    """

    stream: samplers.Minibatch

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """The block of normals and the two views with what they are made of."""
        n, d, k, q = config.batch_size, config.d_obs, config.k, config.structured
        return n * (2 * (k + q) + 8 * d)

    def draw(self, row: Array) -> tuple[Array, Array]:
        """(X, X+)."""
        world = self.cast_world
        g, e, e_plus = split_draws(row, self.stream.key)
        latents = np.sqrt(world.variances_plus)[:, None] * g
        X, X_plus = world.A @ latents[: world.q], world.loadings_plus @ latents
        if not len(e):
            return X, X_plus
        return X + world.sigma * outside_hole(e.T, world).T, X_plus + world.noise_plus * outside_hole(e_plus.T, world).T

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """The formulas above; of both orders of the views for the symmetric loss."""
        X, X_plus = draw
        evaluation = self._evaluate(state, X, X_plus)
        if not self.config.symmetric_loss:
            return evaluation
        return evaluation.and_exchanged(self._evaluate(state, X_plus, X))

    def _evaluate(self, state: State, X: Array, X_plus: Array) -> Evaluation:
        n = X.shape[1]
        Z_o = state.B_o @ X
        D = state.P @ Z_o - state.B_t @ X_plus
        G_plus = None if self.config.stop_grad else D @ X_plus.T / n
        return Evaluation(D @ X.T / n, 0.5 * float((D**2).sum()) / n, Z_o @ Z_o.T / n, G_plus)
