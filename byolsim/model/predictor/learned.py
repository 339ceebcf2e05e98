"""P follows its own gradient, as in BYOL and SimSiam."""

from __future__ import annotations

from typing import Any

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.model.predictor.base import PredictorRule
from byolsim.model.state import Array


class Learned(PredictorRule):
    """P as the optimiser leaves it; with `pred_symmetric` its symmetric part (P + P^T) / 2, after each of its steps."""

    def __init__(self, config: RunConfig) -> None:
        self.symmetric = bool(config.pred_symmetric)

    def after_step(self, P: Array, memory: Any) -> tuple[Array, Any]:
        """Symmetrise, where that is asked for."""
        return (np.asarray((P + P.T) / 2) if self.symmetric else P), memory
