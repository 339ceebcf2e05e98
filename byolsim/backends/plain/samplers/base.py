"""What every sampler answers; the defaults are those of one that keeps its encoders as they are, (k, d)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.draws.plain_normals import fill_plain_normals
from byolsim.model.linalg import distance
from byolsim.model.order import inside_outside
from byolsim.model.predictor import Seen
from byolsim.model.samplers import sampler_of
from byolsim.model.start import Start
from byolsim.model.state import Array, Evaluation, State
from byolsim.model.step import Rules, Run
from byolsim.model.theory import optimal_predictor
from byolsim.model.wiener import ZERO
from byolsim.model.world import World


class Sampler(ABC):
    """What a step draws, and what it computes from that.

    Attributes
    ----------
    config : of any run of the group; a sampler reads what is common to the group alone.
    world, cast_world : the world in double precision, and in the dtype of training.
    stream : its draws, `byolsim.model.samplers`.
    """

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config, self.world, self.stream = config, world, sampler_of(config)
        self.cast_world = world.cast(config.dtype)

    @staticmethod
    @abstractmethod
    def numbers(config: RunConfig) -> int:
        """Double-precision numbers that a step holds beside the state: an estimate for the check of memory."""

    def draws(self, after: int = 0) -> Iterator[Any]:
        """What the steps draw, from draw after + 1 of the stream on: the same for every run of the group."""
        for block in self.stream.blocks(fill_plain_normals, after):
            for row in block:
                yield self.draw(self.cast(row))

    @abstractmethod
    def draw(self, row: Array) -> Any:
        """What a step draws, from its row of the stream in the dtype of training."""

    @abstractmethod
    def evaluate(self, state: State, draw: Any) -> Evaluation:
        """What a step needs of its draw at a state whose encoders have one layer (`State.whole`)."""

    def seen(self, state: State, C_oo: Callable[[], Array]) -> Seen:
        """What a predictor rule may look at, at a state with whole encoders."""

        def gram() -> Array:
            return state.B_o @ state.B_o.T

        def optimal() -> Array:
            order = self.snapshot(state)
            cutoff = ZERO * float(np.finfo(self.config.dtype).eps)
            return self.cast(optimal_predictor(order["b_o"], order["L_o"], order["b_t"], self.world, cutoff))

        return Seen(state.P, C_oo, gram, optimal)

    def coordinates(self, start: Start) -> Start:
        """A start as the state keeps it: with encoders (k, d)."""
        return start

    def final(self, run: Run, epoch: int, rules: Rules) -> Start | None:
        """Where a run ended, `epoch` steps behind it, in double precision; None if it diverged."""
        if run.diverged_epoch >= 0:
            return None
        state = State(*(M.astype(np.float64) for M in run.state))
        upper = {name: getattr(state, name) for name in ("upper", "V_upper", "upper_t", "lost_upper")}
        return Start(
            *state[:5],
            epoch,
            **(upper if len(state.upper) else {}),
            lost=state.lost if state.lost.any() else None,
            curvature=run.curvature.state,
            memory=rules.predictor.kept(run.memory),
        )

    def settle(self, state: State) -> State:
        """The state in the form that `evaluate` expects, after a step that moved the encoder."""
        return state

    def snapshot(self, state: State) -> dict[str, Any]:
        """The order parameters of a state with whole encoders, in double precision; see `order.OrderParameters`."""
        B_o, B_t = state.B_o.astype(np.float64), state.B_t.astype(np.float64)
        b_o, L_o = inside_outside(B_o, self.world.Q)
        b_t, L_t = inside_outside(B_t, self.world.Q)
        P = state.P.astype(np.float64)
        return {"P": P, "b_o": b_o, "L_o": L_o, "b_t": b_t, "L_t": L_t, "gap": distance(B_o, B_t)}

    def cast(self, M: Array) -> Array:
        """A matrix in the dtype of training."""
        return M.astype(self.config.dtype)
