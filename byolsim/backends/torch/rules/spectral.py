"""The predictors are set from the spectra of the features: DirectPred, DirectCopy, DirectSet."""

from __future__ import annotations

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import finite_or_zero, power
from byolsim.backends.torch.rules.base import PredictorRule, Seen
from byolsim.config.run import RunConfig
from byolsim.model.predictor import spectral
from byolsim.model.state import Array
from byolsim.model.world import World


class Spectral(PredictorRule):
    """`predictor.Spectral` for K runs.

    Attributes
    ----------
    F : (K, k, k) of the last step; None while it has seen nothing.
    """

    learns = False

    def __init__(self, config: RunConfig, world: World, basis: Tensor) -> None:
        super().__init__(config, world, basis)
        self.constants = spectral.Spectral(config)
        self.F: Tensor | None = None

    def goes_on(self, P: Tensor, kept: Array | None) -> None:
        """With F, where it is known; P stays."""
        if kept is not None:
            self.F = torch.tensor(kept, dtype=P.dtype, device=P.device).expand_as(P)

    def kept(self, run: int) -> Array | None:
        """F, where it is an average that has seen something."""
        return None if self.F is None or not self.constants.of_features else self.F[run].double().cpu().numpy().copy()

    def before_step(self, t: int, seen: Seen) -> Tensor | None:
        """Take C_oo into F, and set P."""
        if self.constants.of_features:
            C = seen.C_oo()
            self.F = C if self.F is None else self.F + self.constants.rate * (C - self.F)
        else:
            B_o, _ = seen.encoders()
            self.F = torch.bmm(B_o, B_o.mT)
        return self.predictor(self.F) if (t - 1) % self.constants.every == 0 else None

    def predictor(self, F: Tensor) -> Tensor:
        """P of stacked symmetric F (K, k, k); that of F = 0 where F is no number, as in a run that has diverged."""
        rule = self.constants
        s, U = torch.linalg.eigh(finite_or_zero(F))
        s = s.clamp(min=0)  # what rounding put below 0
        largest = s[:, -1:]
        if rule.norm == "max":
            p = power(torch.where(largest > 0, s / largest, 0.0), rule.power) + rule.eps
        else:
            p = power(s, rule.power) + rule.eps * largest
        return torch.bmm(U * p[:, None, :], U.mT)
