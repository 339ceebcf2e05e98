"""The moments sampler in its reduced form: encoders are kept in 5r coordinates, whatever d is."""

from __future__ import annotations

from typing import Any

import numpy as np

from byolsim.backends.plain.samplers.direct import Direct
from byolsim.config.run import RunConfig
from byolsim.model.linalg import distance, lq_factor
from byolsim.model.moments import ReducedWorld, reduced_coordinates, reduced_gradient, retriangulate
from byolsim.model.state import Array, Evaluation, State
from byolsim.model.world import World


class Reduced(Direct):
    """The state's B_o, V_B and B_t are the rows of the coordinates X = [B_o; V_B; B_t] (3r, 5r) of `moments`.

    r columns lie inside the column space of A, 3r in directions outside of it that are never formed, lower triangular
    in the order of the rows, and r in the fresh directions of a step, which `settle` takes into the others.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        super().__init__(config, world)
        self.reduced = ReducedWorld(world, np.dtype(config.dtype))

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """W, N and coordinates; the encoder has its d columns while its coordinates are taken."""
        r, d = config.d_latent, config.d_obs
        return 8 * r * d + 150 * r * r

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """G in coordinates (r, 5r), the loss and C_oo."""
        W, N = draw
        return reduced_gradient(state.P, _rows(state), self.reduced, W, N, self.config.batch_size)

    def coordinates(self, B_o: Array) -> Array:
        """The rows of X that belong to B_o."""
        return reduced_coordinates(B_o, self.world)[: self.world.r]

    def settle(self, state: State) -> State:
        """X brought back to triangular form; fresh directions start from 0, and have lost nothing.

        `lost` is not turned with the other outside columns: a step turns them by little, and it is below a rounding.
        """
        B_o, V_B, B_t = np.split(retriangulate(_rows(state)), 3)
        lost = state.lost.copy()
        lost[:, 4 * self.world.r :] = 0
        return state._replace(B_o=B_o, V_B=V_B, B_t=B_t, lost=lost)

    def snapshot(self, state: State) -> dict[str, Any]:
        """Read off the coordinates; the outside part of the target, r rows of 3r columns, is made triangular."""
        r = self.world.r
        P, X_o, X_t = (M.astype(np.float64) for M in (state.P, state.B_o, state.B_t))
        order = {"P": P, "b_o": X_o[:, :r], "L_o": X_o[:, r : 2 * r], "b_t": X_t[:, :r], "L_t": lq_factor(X_t[:, r:])}
        return order | {"gap": distance(X_o, X_t)}


def _rows(state: State) -> Array:
    """X (3r, 5r)."""
    return np.vstack([state.B_o, state.V_B, state.B_t])
