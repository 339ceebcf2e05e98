"""No predictor: P = I."""

from __future__ import annotations

import torch
from torch import Tensor

from byolsim.backends.torch.rules.base import PredictorRule, Seen
from byolsim.model.state import Array


class Identity(PredictorRule):
    """`predictor.Identity`."""

    learns = False

    def start(self, seen: Seen) -> Tensor:
        """I, which stays."""
        return self.goes_on(seen.P, None)

    def goes_on(self, P: Tensor, kept: Array | None) -> Tensor:
        """I too."""
        return torch.eye(P.shape[1], dtype=P.dtype, device=P.device).expand_as(P)
