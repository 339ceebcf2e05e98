"""The predictor of least population loss at the encoders of each step: infinitely fast learning of P."""

from __future__ import annotations

from typing import Any

from byolsim.config.run import RunConfig
from byolsim.model.predictor.base import PredictorRule, Seen
from byolsim.model.state import Array


class Optimal(PredictorRule):
    """P = C_to C_oo^+ of the population at the encoders before every `pred_every`-th step.

    Tang et al., Understanding Self-Predictive Learning for Reinforcement Learning, ICML 2023; docs/derivation.md,
    section 13.
    """

    learns = False

    def __init__(self, config: RunConfig) -> None:
        self.every = config.pred_every or 1

    def start(self, seen: Seen) -> tuple[Array, Any]:
        """The optimum at the initial encoders."""
        return seen.optimal(), None

    def before_step(self, t: int, seen: Seen, memory: Any) -> tuple[Array, Any]:
        """The optimum at t = 1, 1 + every, ...; the last one in between."""
        return (seen.optimal() if (t - 1) % self.every == 0 else seen.P), None
