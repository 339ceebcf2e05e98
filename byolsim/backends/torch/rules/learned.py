"""P follows its own gradient."""

from __future__ import annotations

from torch import Tensor

from byolsim.backends.torch.rules.base import PredictorRule


class Learned(PredictorRule):
    """`predictor.Learned`; with `pred_symmetric` the symmetric part is left."""

    def after_step(self, P: Tensor) -> Tensor | None:
        """(P + P^T) / 2, where that is asked for."""
        return (P + P.mT) / 2 if self.config.pred_symmetric else None
