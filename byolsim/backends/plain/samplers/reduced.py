"""The moments sampler in its reduced form: encoders are kept in q + 4k coordinates, whatever d is."""

from __future__ import annotations

from typing import Any

import numpy as np

from byolsim.backends.plain.samplers.direct import Direct
from byolsim.config.run import RunConfig
from byolsim.model.linalg import distance, lq_factor
from byolsim.model.moments import ReducedWorld, reduced_coordinates, reduced_gradient, retriangulate
from byolsim.model.start import Start
from byolsim.model.state import Array, Evaluation, State
from byolsim.model.step import Rules, Run
from byolsim.model.world import World


class Reduced(Direct):
    """The state's B_o, V_B and B_t are the rows of the coordinates X = [B_o; V_B; B_t] (3k, q + 4k) of `moments`.

    q columns lie inside the structured subspace, 3k in directions outside of it that are never formed, lower triangular
    in the order of the rows, and k in the fresh directions of a step, which `settle` takes into the others.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        super().__init__(config, world)
        self.reduced = ReducedWorld(world, np.dtype(config.dtype))

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """W, N and coordinates; the encoder has its d columns while its coordinates are taken."""
        k, q, d = config.k, config.structured, config.d_obs
        return 8 * k * d + 50 * k * (k + 2 * q)

    def evaluate(self, state: State, draw: tuple[Array, Array]) -> Evaluation:
        """G in coordinates (k, q + 4k), the loss and C_oo."""
        W, N = draw
        return reduced_gradient(state.P, _rows(state), self.reduced, W, N, self.config.batch_size)

    def coordinates(self, start: Start) -> Start:
        """The start with the rows of X in place of encoders."""
        B_o, V_B, B_t = np.split(reduced_coordinates(start, self.world), 3)
        k, lost = len(start.P), start.lost
        if lost is not None:  # of an encoder (k, d) it would belong to directions that are not formed: it is dropped
            lost = np.hstack([lost, np.zeros((k, k))]) if start.B_o.shape[1] < self.world.d else None
        return start._replace(B_o=B_o, V_B=V_B, B_t=B_t, lost=lost)

    def final(self, run: Run, epoch: int, rules: Rules) -> Start | None:
        """The coordinates without the fresh directions, which hold 0 between steps."""
        end, k = super().final(run, epoch, rules), len(run.state.P)
        if end is None:
            return None
        B_o, V_B, B_t = (M[:, :-k] for M in (end.B_o, end.V_B, end.B_t))
        return end._replace(B_o=B_o, V_B=V_B, B_t=B_t, lost=None if end.lost is None else end.lost[:, :-k])

    def settle(self, state: State) -> State:
        """X brought back to triangular form; fresh directions start from 0, and have lost nothing.

        `lost` is not turned with the other outside columns: a step turns them by little, and it is below a rounding.
        """
        k = len(state.P)
        B_o, V_B, B_t = np.split(retriangulate(_rows(state), k), 3)
        lost = state.lost.copy()
        lost[:, -k:] = 0
        return state._replace(B_o=B_o, V_B=V_B, B_t=B_t, lost=lost)

    def snapshot(self, state: State) -> dict[str, Any]:
        """Read off the coordinates; outside parts of the target and of an encoder of layers are made triangular."""
        k, q = len(state.P), self.world.q
        P, X_o, X_t = (M.astype(np.float64) for M in (state.P, state.B_o, state.B_t))
        L_o = X_o[:, q : q + k] if self.config.depth == 1 else lq_factor(X_o[:, q : q + k])
        order = {"P": P, "b_o": X_o[:, :q], "L_o": L_o, "b_t": X_t[:, :q], "L_t": lq_factor(X_t[:, q:])}
        return order | {"gap": distance(X_o, X_t)}


def _rows(state: State) -> Array:
    """X (3k, q + 4k)."""
    return np.vstack([state.B_o, state.V_B, state.B_t])
