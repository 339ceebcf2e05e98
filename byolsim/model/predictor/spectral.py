"""The predictor is set from the spectrum of the features: DirectPred, DirectCopy, DirectSet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.model.predictor.base import PredictorRule, Seen
from byolsim.model.state import Array

CONSTANTS = {"directpred": (0.5, 0.1), "directcopy": (1.0, 0.0), "spectral": (0.5, 0.0)}
"""(power a, eps) of the rules."""

RATE = 0.3
"""Rate of the moving average of F. (That of Tian, Chen and Ganguli is 0.7: their rho = 0.3 weighs the old average.)"""


class Average(NamedTuple):
    """F, and whether it has seen anything."""

    F: Array
    filled: bool


class Spectral(PredictorRule):
    """P = U diag(p) U^T from F = U diag(s) U^T, set anew before every `pred_every`-th step.

    With M = max_k s_k,

        p_j = s_j^a + eps M        (pred_norm none)        p_j = (s_j / M)^a + eps        (pred_norm max)

    F is an exponential moving average of the minibatches' C_oo at each step, F <- (1 - rate) F + rate C_oo, which
    starts at the first C_oo; or B_o B_o^T itself (`pred_corr` BBT). At F = 0 P is 0 (none) or eps I (max).

    directpred is a = 1/2 (Tian, Chen and Ganguli, Understanding Self-Supervised Learning Dynamics without Contrastive
    Pairs, ICML 2021, section 4; its equation has eps max_k s_k for s_k^(1/2) as unit, its authors' code normalises by
    the maximum: `pred_norm`). directcopy is a = 1 (Wang, Chen, Du and Tian, Towards Demystifying Representation
    Learning with Non-contrastive Self-supervision, 2021). Fixed points: docs/derivation.md, section 14.
    """

    learns = False

    def __init__(self, config: RunConfig) -> None:
        power, eps = CONSTANTS[config.pred_rule]
        self.power = power if config.pred_power is None else config.pred_power
        self.eps = eps if config.pred_eps is None else config.pred_eps
        self.norm = config.pred_norm or "none"
        self.of_features = config.pred_corr != "BBT"
        self.rate = RATE if config.pred_corr_rate is None else config.pred_corr_rate
        self.every = config.pred_every or 1

    def start(self, seen: Seen) -> tuple[Array, Average]:
        """P as it is; F has seen nothing."""
        return seen.P, Average(np.zeros_like(seen.P), False)

    def goes_on(self, P: Array, kept: Array | None) -> tuple[Array, Average]:
        """With F, where it is known."""
        return P, Average(np.zeros_like(P), False) if kept is None else Average(kept.astype(P.dtype), True)

    def kept(self, memory: Average) -> Array | None:
        """F, where it is an average that has seen something."""
        return memory.F.astype(np.float64) if memory.filled and self.of_features else None

    def before_step(self, t: int, seen: Seen, memory: Average) -> tuple[Array, Average]:
        """Take C_oo into F, and set P."""
        if self.of_features:
            C = seen.C_oo()
            F = memory.F + C.dtype.type(self.rate) * (C - memory.F) if memory.filled else C
        else:
            F = seen.BBT()
        P = self.predictor(F) if (t - 1) % self.every == 0 else seen.P
        return P, Average(F, True)

    def predictor(self, F: Array) -> Array:
        """P of a symmetric F (k, k)."""
        s, U = np.linalg.eigh(F)
        s = np.maximum(s, 0)  # what rounding put below 0
        largest = s[-1]
        if self.norm == "max":
            p = (s / largest if largest > 0 else s) ** self.power + self.eps
            p = p if largest > 0 else np.full_like(s, self.eps)
        else:
            p = s**self.power + self.eps * largest
        return np.asarray((U * p) @ U.T, dtype=F.dtype)
