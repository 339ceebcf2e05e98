"""What the auto schedule of a group knows and bounds its rates by: `byolsim.model.schedule` for stacked runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.linalg import finite_or_zero
from byolsim.model import start as model_start
from byolsim.model.schedule import AVERAGE_RATE, FIRST_ITERATIONS, FLOOR_FRACTION, FLOOR_MINIMUM
from byolsim.model.theory import MEAN_SQUARE_HALVINGS


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

    def eigenvalues(self) -> Tensor:
        """Those of the average (K, k), ascending, at least 0; 0 for a run that has diverged."""
        corrected = self.average / (1 - (1 - AVERAGE_RATE) ** self.ticks)
        spectrum: Tensor = torch.linalg.eigvalsh(finite_or_zero(corrected))
        return spectrum.clamp(min=0)


def mean_square_limit(c: Tensor, n: int, mu: Tensor) -> Tensor:
    """`theory.mean_square_limit` (K,) of eigenvalues c (K, k), at least 0, and momenta mu (K,)."""
    largest, g = c.amax(dim=1), (1 - mu) / (1 + mu) + 1 / n
    low, high = torch.zeros_like(mu), 2 * (1 - mu) / (largest * g)
    for _ in range(MEAN_SQUARE_HALVINGS):
        alpha = 0.5 * (low + high)
        phi = alpha / n * (c / (2 * (1 - mu)[:, None] - (alpha * g)[:, None] * c)).sum(dim=1)
        low, high = torch.where(phi < 1, alpha, low), torch.where(phi < 1, high, alpha)
    return torch.where(largest > 0, low, torch.inf)


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
