"""Nothing is drawn: the limit n -> infinity."""

from __future__ import annotations

from functools import cached_property

from byolsim.backends.plain.samplers.base import Sampler
from byolsim.config.run import RunConfig
from byolsim.model.gradients import (
    feature_covariances,
    population_loss,
    population_residual_gradient,
    population_target_gradient,
)
from byolsim.model.state import Array, Evaluation, State
from byolsim.model.world import World


class Population(Sampler):
    """Expectations over the law of a pair of views: `theory` has the formulas."""

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """M_o, M_t and products of the size of an encoder."""
        return 4 * config.k * config.d_obs

    def draw(self, row: Array) -> None:
        """Nothing."""

    def evaluate(self, state: State, draw: None) -> Evaluation:
        """G, the loss and C_oo of the population; of both orders of the views for the symmetric loss."""
        evaluation = self._evaluate(state, self.cast_world)
        if not self.config.symmetric_loss:
            return evaluation
        return evaluation.and_exchanged(self._evaluate(state, self.exchanged))

    def _evaluate(self, state: State, world: World) -> Evaluation:
        P, B_o, B_t = state.P, state.B_o, state.B_t
        C_oo, _ = feature_covariances(B_o, B_t, world)
        G_plus = None if self.config.stop_grad else population_target_gradient(P, B_o, B_t, world)
        G = population_residual_gradient(P, B_o, B_t, world)
        return Evaluation(G, population_loss(P, B_o, B_t, world), C_oo, G_plus)

    @cached_property
    def exchanged(self) -> World:
        """The world of the exchanged views, in the dtype of training."""
        return self.world.exchanged().cast(self.config.dtype)
