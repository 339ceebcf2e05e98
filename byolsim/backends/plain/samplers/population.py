"""Nothing is drawn: the limit n -> infinity."""

from __future__ import annotations

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.model.gradients import feature_covariances, population_loss, population_residual_gradient
from byolsim.model.state import Array, Evaluation, State


class Population(Sampler):
    """Expectations over the law of a pair of views: `theory` has the formulas."""

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """M_o, M_t and products of the size of an encoder."""
        return 4 * config.k * config.d_obs

    def draw(self, row: Array) -> None:
        """Nothing."""

    def evaluate(self, state: State, draw: None) -> Evaluation:
        """G, the loss and C_oo of the population."""
        P, B_o, B_t, world = state.P, state.B_o, state.B_t, self.cast_world
        C_oo, _ = feature_covariances(B_o, B_t, world)
        return Evaluation(
            G=population_residual_gradient(P, B_o, B_t, world), loss=population_loss(P, B_o, B_t, world), C_oo=C_oo
        )
