"""The auto schedule of a group: `byolsim.model.schedule` for stacked runs, and the rates in force."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from byolsim.config.run import RunConfig
from byolsim.model import start as model_start
from byolsim.model.schedule import AVERAGE_RATE, FIRST_ITERATIONS, FLOOR_FRACTION, FLOOR_MINIMUM, LIMIT_FRACTION
from byolsim.model.world import World


class Curvature:
    """`schedule.CurvatureEstimate` for K runs at once, in double precision."""

    def __init__(self, K: int, k: int, power_iters: int, device: torch.device) -> None:
        self.power_iters = power_iters
        self.ticks = 0
        self.average = torch.zeros(K, k, k, device=device, dtype=torch.float64)
        self.vector = torch.full((K, k, 1), 1 / np.sqrt(k), device=device, dtype=torch.float64)
        self.H = torch.full((K,), torch.nan, device=device, dtype=torch.float64)
        self.floor = torch.zeros(K, device=device, dtype=torch.float64)

    def recall(self, known: model_start.Curvature) -> None:
        """Go on, in every run, from what one of them knew."""
        self.ticks = int(known.ticks)
        self.H.fill_(float(known.H))
        self.floor.fill_(float(known.H_floor))
        self.average[:] = torch.tensor(known.average)
        self.vector[:] = torch.tensor(known.vector)[:, None]

    def state(self, run: int) -> model_start.Curvature:
        """What a run knows."""
        parts = (self.H, self.floor, self.average, self.vector)
        H, floor, average, vector = (M[run].cpu().numpy().copy() for M in parts)
        return model_start.Curvature(H, floor, np.asarray(float(self.ticks)), average, vector[:, 0])

    def tick(self, C: Tensor) -> None:
        """Take one feature covariance of each run (K, k, k) into the average and iterate."""
        self.ticks += 1
        self.average = (1 - AVERAGE_RATE) * self.average + AVERAGE_RATE * C.double()
        corrected = self.average / (1 - (1 - AVERAGE_RATE) ** self.ticks)
        for _ in range(FIRST_ITERATIONS if self.ticks == 1 else self.power_iters):
            image = torch.bmm(corrected, self.vector)
            size = image.norm(dim=1, keepdim=True)
            self.vector = torch.where(size > 0, image / size, self.vector)
        self.H = (self.vector * torch.bmm(corrected, self.vector)).sum(dim=(1, 2))
        if self.ticks == 1:
            self.floor = (FLOOR_FRACTION * self.H).clamp(min=FLOOR_MINIMUM)


class Rates:
    """`schedule.AutoRates` for K runs at once: the rates in force (K,) and how often a bound was active."""

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        def column(name: str) -> Tensor:
            values = [getattr(config, name) for config in group]
            return torch.tensor([np.nan if v is None else v for v in values], device=device, dtype=torch.float64)

        self.fixed_alpha, self.fixed_beta = column("lr_pred"), column("lr_enc")
        self.alpha, self.beta = self.fixed_alpha, self.fixed_beta
        self.mu_P, self.mu_B, self.eta, self.tau = (
            column(name) for name in ("mom_pred", "mom_enc", "weight_decay", "tau")
        )
        self.c_alpha, self.c_beta = column("auto_alpha_c"), column("auto_beta_c")
        self.lambda_max_x = world.lambda_max_x
        self.any_alpha = any(config.lr_pred is None for config in group)
        self.any_beta = any(config.lr_enc is None for config in group)
        self.active = torch.zeros(len(group), 3, device=device, dtype=torch.bool)
        self.clips = torch.zeros(len(group), 3, device=device, dtype=torch.int64)

    def tick(self, curvature: Curvature) -> None:
        """Follow a new estimate H_t: all but the bound of beta, which moves with P."""
        H = torch.maximum(curvature.H, curvature.floor)
        scheduled = (self.c_alpha > 0) | (self.c_beta > 0)
        rate, self.free_beta = self.c_alpha * self.tau / H, self.c_beta * self.tau / H
        limit = LIMIT_FRACTION * 2 * (1 + self.mu_P) / (H + self.eta)
        self.alpha = torch.where(self.c_alpha > 0, torch.minimum(rate, limit), self.fixed_alpha)
        self.beta = torch.where(self.c_beta > 0, self.free_beta, self.fixed_beta)
        self.active[:, 0] = (self.c_alpha > 0) & (rate > limit)
        self.active[:, 2] = scheduled & (curvature.floor > curvature.H)

    def step(self, P: Tensor | None, alive: Tensor) -> None:
        """Bound beta by the predictor before this step, None for a model with an MLP; count what is active."""
        if P is not None and self.any_beta:
            limit = LIMIT_FRACTION * 2 * (1 + self.mu_B) / (self.lambda_max_x * self._norm_squared(P) + self.eta)
            self.beta = torch.where(self.c_beta > 0, torch.minimum(self.free_beta, limit), self.fixed_beta)
            self.active[:, 1] = (self.c_beta > 0) & (self.free_beta > limit)
        if self.any_alpha or self.any_beta:
            self.clips += self.active & alive[:, None]

    def _norm_squared(self, P: Tensor) -> Tensor:
        """||P||_2^2, or on the CPU its bound ||P||_F^2 where that is enough to see that no rate is cut.

        On CUDA by squaring, since an exact singular value would make every step wait for the device.
        """
        P = P.detach().double()
        if P.device.type == "cuda":
            return norm_squared_by_squaring(P)
        bound = P.square().sum(dim=(1, 2))
        top = LIMIT_FRACTION * 2 * (1 + self.mu_B)
        cut = (self.free_beta * (self.lambda_max_x * bound + self.eta) > top) & bound.isfinite()
        if bool(cut.any()):
            bound = bound.clone()
            bound[cut] = torch.linalg.matrix_norm(P[cut], 2).square()
        return bound


def norm_squared_by_squaring(P: Tensor) -> Tensor:
    """||P||_2^2 of stacked P (K, k, k): N = P^T P / tr squared 14 times weighs the top eigenvector, tr(N P^T P)."""
    G = torch.bmm(P.mT, P)
    N = _unit_trace(G)
    for _ in range(14):
        N = _unit_trace(torch.bmm(N, N))
    return (N * G).sum(dim=(1, 2))


def _unit_trace(G: Tensor) -> Tensor:
    trace = G.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    return torch.where(trace > 0, G / trace, 0.0)
