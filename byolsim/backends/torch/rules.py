"""How the predictor is set and how the target follows, for a group: `byolsim.model.predictor` and `model.target`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from byolsim.backends.torch.layers import Layers
from byolsim.config.run import RunConfig


class PredictorRule(Protocol):
    """One way to set the predictors of a group; it keeps its memory."""

    def after_step(self, predictor: Layers) -> Tensor | None:
        """Set the predictors, each layer (K, out, in), after their gradient step, in place.

        Their squared norms (K,) in double precision, or None where they are as they were.
        """


class Learned:
    """`predictor.Learned`."""

    def after_step(self, predictor: Layers) -> None:
        """Leave them."""


PREDICTOR_RULES: dict[str, Callable[[Sequence[RunConfig], Layers], PredictorRule]] = {
    "learned": lambda group, predictor: Learned()
}
"""By the value of `pred_rule`, from the runs and their predictors at epoch 0."""


class EMA:
    """`target.EMA`; tau is (K, 1, 1)."""

    def __init__(self, tau: Tensor) -> None:
        self.tau = tau

    def after_step(self, target: Layers, encoder: Layers) -> None:
        """Move the target, with the new encoder."""
        for slow, fast in zip(target, encoder, strict=True):
            slow.lerp_(fast, self.tau)
