"""No predictor: P = I."""

from __future__ import annotations

import torch
from torch import Tensor

from byolsim.backends.torch.rules.base import PredictorRule, Seen


class Identity(PredictorRule):
    """`predictor.Identity`."""

    learns = False

    def start(self, seen: Seen) -> Tensor:
        """I, which stays."""
        return torch.eye(seen.P.shape[1], dtype=seen.P.dtype, device=seen.P.device).expand_as(seen.P)
