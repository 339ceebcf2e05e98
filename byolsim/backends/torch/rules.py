"""How the predictor is set and how the target follows, for a group: `byolsim.model.predictor` and `model.target`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
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
    """`target.EMA`, from the nearer of the target and the encoder, so that tau = 1 copies; tau is (K, 1, 1).

    In single precision `lost` keeps what rounding took from the target, for the next step.
    """

    def __init__(self, tau: Tensor, target: Layers) -> None:
        self.tau = tau
        self.lost = [torch.zeros_like(W) for W in target if W.dtype == torch.float32]

    def after_step(self, target: Layers, encoder: Layers) -> None:
        """Move the target, with the new encoder."""
        if not self.lost:
            for slow, fast in zip(target, encoder, strict=True):
                slow.lerp_(fast, self.tau)
            return
        near = self.tau < 0.5
        weight = torch.where(near, self.tau, self.tau - 1)
        for slow, fast, lost in zip(target, encoder, self.lost, strict=True):
            step = torch.sub(fast, slow).mul_(weight).sub_(lost)
            start = torch.where(near, slow, fast)
            torch.add(start, step, out=slow)
            torch.sub(slow, start, out=lost).sub_(step)
