"""The predictors of least population loss at the encoders of each step."""

from __future__ import annotations

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each, finite_or_zero, inside_outside
from byolsim.backends.torch.rules.base import PredictorRule, Seen
from byolsim.config.run import RunConfig
from byolsim.model.wiener import ZERO
from byolsim.model.world import World


class Optimal(PredictorRule):
    """`predictor.Optimal`: P = [Y, 0] F^+ with C_oo = F F^T, as `theory.optimal_predictor` has it."""

    learns = False

    def __init__(self, config: RunConfig, world: World, basis: Tensor) -> None:
        super().__init__(config, world, basis)
        self.every = config.pred_every or 1
        self.sigma, self.noise_inside, self.Q = world.sigma, world.noise_inside, basis
        self.cutoff = ZERO * float(torch.finfo(getattr(torch, config.dtype)).eps)
        root_lam = torch.tensor(world.lam, device=basis.device).sqrt()
        self.white, self.white_plus = (
            torch.tensor(M, device=basis.device) * root_lam for M in (world.R, world.R_plus[:, : world.q])
        )

    def start(self, seen: Seen) -> Tensor:
        """The optimum at the initial encoders."""
        return self.optimum(seen)

    def before_step(self, t: int, seen: Seen) -> Tensor | None:
        """The optimum at t = 1, 1 + every, ...; the last one in between."""
        return self.optimum(seen) if (t - 1) % self.every == 0 else None

    def optimum(self, seen: Seen) -> Tensor:
        """C_to C_oo^+ (K, k, k) of the population; of a run that has diverged, whose encoders are no numbers, 0."""
        B_o, B_t = (finite_or_zero(B.double()) for B in seen.encoders())
        b_o, L_o = inside_outside(B_o, self.Q)
        noise = torch.cat([b_o, L_o], dim=2) if self.noise_inside else L_o
        F = torch.cat([each(b_o, self.white), self.sigma * noise], dim=2)
        Y = each(each(B_t, self.Q), self.white_plus)
        P: Tensor = Y @ torch.linalg.pinv(F, rtol=self.cutoff)[:, : Y.shape[2]]
        return P
