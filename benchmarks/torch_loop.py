"""The baseline: one run as a user would write it in torch, with autograd and `torch.optim.SGD`."""

from __future__ import annotations

import time

import numpy as np
import torch


def microseconds_per_step(
    A: np.ndarray, lam: np.ndarray, sigma: float, n: int, *, threads: int, steps: int = 300, repeats: int = 5
) -> float:
    """Best of `repeats` timings of `steps` training steps in float64, after a warm-up; draws included."""
    torch.set_num_threads(threads)
    step = _training_step(A, lam, sigma, n)
    for _ in range(20):
        step()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        best = min(best, (time.perf_counter() - start) / steps)
    return 1e6 * best


def _training_step(A: np.ndarray, lam: np.ndarray, sigma: float, n: int):
    torch.manual_seed(0)
    d, r = A.shape
    mixing = torch.from_numpy(A * np.sqrt(lam))
    online = torch.nn.Parameter(torch.randn(r, d, dtype=torch.float64) / d**0.5)
    predictor = torch.nn.Parameter(torch.zeros(r, r, dtype=torch.float64))
    target = online.detach().clone()
    optimiser = torch.optim.SGD(
        [{"params": [predictor], "lr": 1e-3}, {"params": [online], "lr": 1e-3}], lr=1e-3, momentum=0.9
    )

    def step() -> None:
        signal = torch.randn(n, r, dtype=torch.float64) @ mixing.T
        x = signal + sigma * torch.randn(n, d, dtype=torch.float64)
        x_plus = signal + sigma * torch.randn(n, d, dtype=torch.float64)
        prediction = x @ online.T @ predictor.T
        with torch.no_grad():
            z_t = x_plus @ target.T
        loss = 0.5 * ((prediction - z_t) ** 2).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            target.lerp_(online, 1e-3)

    return step
