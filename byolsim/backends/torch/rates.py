"""The rates in force in a group: fixed or automatic, below their limits, times what time makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.schedule import Curvature, mean_square_limit, norm_squared_by_squaring
from byolsim.config.run import RunConfig
from byolsim.model.schedule import LIMIT_FRACTION, NOISE_FRACTION, largest_variance, rate_factor
from byolsim.model.world import World


class Rates:
    """`schedule.AutoRates` for K runs at once, with the factors of `Clock`; all of it (K,), in double precision.

    Attributes
    ----------
    alpha, beta, tau : in force.
    cut_alpha, free_beta : alpha below its limit and beta without one, before the factor of time.
    clips : (K, 3) how often a bound was active.
    """

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        def column(name: str) -> Tensor:
            values = [getattr(config, name) for config in group]
            return torch.tensor([np.nan if v is None else v for v in values], device=device, dtype=torch.float64)

        self.fixed_alpha, self.fixed_beta = column("lr_pred"), column("lr_enc")
        self.alpha = self.cut_alpha = self.fixed_alpha
        self.beta = self.free_beta = self.fixed_beta
        self.mu_P, self.mu_B, self.eta_P, self.eta_B, self.tau = (
            column(name) for name in ("mom_pred", "mom_enc", "eta_P", "eta_B", "tau")
        )
        self.c_alpha, self.c_beta = column("auto_alpha_c"), column("auto_beta_c")
        self.lambda_max_x, self.n = largest_variance(group[0], world), group[0].batch_size
        self.straight, self.one_encoder = group[0].pred_jacobian == "straight", not group[0].stop_grad
        self.any_alpha = any(config.lr_pred is None for config in group)
        self.any_beta = any(config.lr_enc is None for config in group)
        noisy = [bool(config.auto_noise_limit) for config in group]
        self.noisy = torch.tensor(noisy, device=device) if any(noisy) else None
        self.clock = Clock(group, self.tau)
        self.H = self.limit = torch.full_like(self.tau, torch.nan)
        self.active = torch.zeros(len(group), 3, device=device, dtype=torch.bool)
        self.clips = torch.zeros(len(group), 3, device=device, dtype=torch.int64)

    def tick(self, curvature: Curvature) -> None:
        """Follow a new estimate H_t: all but the bound of beta, which moves with P."""
        self.H = torch.maximum(curvature.H, curvature.floor)
        self.limit = LIMIT_FRACTION * 2 * (1 + self.mu_P) / (self.H + self.eta_P)
        if self.noisy is not None:
            noise = NOISE_FRACTION * mean_square_limit(curvature.eigenvalues(), self.n, self.mu_P)
            self.limit = torch.where(self.noisy, torch.minimum(self.limit, noise), self.limit)
        self.active[:, 2] = ((self.c_alpha > 0) | (self.c_beta > 0)) & (curvature.floor > curvature.H)
        self._follow()

    def _follow(self) -> None:
        """c tau_t / H for the runs that ask for it."""
        rate = self.c_alpha * self.tau / self.H
        self.cut_alpha = torch.where(self.c_alpha > 0, torch.minimum(rate, self.limit), self.fixed_alpha)
        self.active[:, 0] = (self.c_alpha > 0) & (rate > self.limit)
        self.free_beta = torch.where(self.c_beta > 0, self.c_beta * self.tau / self.H, self.fixed_beta)

    def step(self, t: int, through: Tensor | None, above: Tensor | None, alive: Tensor) -> None:
        """The rates of step t; beta is bounded by what its layer acts through, and what is active is counted.

        That is P W_L ... W_2 before the step, or None for a model with an MLP, and W_L ... W_2, or None for one layer.
        """
        if self.clock.moves_tau:
            self.tau = self.clock.tau(t)
            if self.any_alpha or self.any_beta:
                self._follow()
        self.alpha, self.beta = self.cut_alpha, self.free_beta
        if through is not None and self.any_beta:
            limit = LIMIT_FRACTION * 2 * (1 + self.mu_B) / (self.lambda_max_x * self._gain(through, above) + self.eta_B)
            self.active[:, 1] = (self.c_beta > 0) & (self.free_beta > limit)
            self.beta = torch.where(self.active[:, 1], limit, self.free_beta)
        if self.any_alpha or self.any_beta:
            self.clips += self.active & alive[:, None]
        if self.clock.moves_rates:
            factor = self.clock.factor(t)
            self.alpha, self.beta = factor * self.alpha, factor * self.beta

    def _gain(self, through: Tensor, above: Tensor | None) -> Tensor:
        """The squared gain of `schedule.AutoRates.beta`, or on the CPU a bound where that shows that no rate is cut.

        On CUDA norms are found by squaring, since an exact singular value would make every step wait for the device.
        """
        PU, U = through.detach().double(), None if above is None else above.detach().double()
        if PU.device.type == "cuda":
            return self._gain_of(norm_squared_by_squaring(PU), None if U is None else norm_squared_by_squaring(U))
        gain = self._gain_of(PU.square().sum(dim=(1, 2)), None if U is None else U.square().sum(dim=(1, 2)))
        top = LIMIT_FRACTION * 2 * (1 + self.mu_B)
        cut = (self.free_beta * (self.lambda_max_x * gain + self.eta_B) > top) & gain.isfinite()
        if bool(cut.any()):
            gain = gain.clone()
            exact_U = None if U is None else torch.linalg.matrix_norm(U[cut], 2).square()
            gain[cut] = self._gain_of(torch.linalg.matrix_norm(PU[cut], 2).square(), exact_U)
        return gain

    def _gain_of(self, square_PU: Tensor, square_U: Tensor | None) -> Tensor:
        """From squared norms (K,) of P W_L ... W_2 and of W_L ... W_2; None where that is I."""
        if not (self.straight or self.one_encoder):
            return square_PU
        u = torch.ones_like(square_PU) if square_U is None else square_U.sqrt()
        both = square_PU.sqrt() + (u if self.one_encoder else 0)
        return u * both * (2 if self.one_encoder else 1) if self.straight else both.square()


class Clock:
    """`schedule.rate_factor` and `schedule.ema_rate` of K runs, whose T is one.

    They are functions of t, so cosines are taken on the host, one for each kind of run: the device is not waited for,
    and a run has the numbers of the plain form in every group.

    Attributes
    ----------
    moves_rates, moves_tau : whether there is any other than the constant.
    """

    def __init__(self, group: Sequence[RunConfig], tau: Tensor) -> None:
        kinds = [(config.warmup, config.lr_schedule) for config in group]
        self.kinds = [
            (group[kinds.index(kind)], torch.tensor([other == kind for other in kinds], device=tau.device))
            for kind in dict.fromkeys(kinds)
        ]
        self.moves_rates = set(kinds) != {(None, None)}
        follows = [config.ema_schedule is not None for config in group]
        self.moves_tau = any(follows)
        self.follows = torch.tensor(follows, device=tau.device)
        self.first_tau, self.epochs = tau, group[0].epochs

    def factor(self, t: int) -> Tensor:
        """What multiplies both rates at step t."""
        factors = torch.ones_like(self.first_tau)
        for config, runs in self.kinds:
            factors = torch.where(runs, rate_factor(t, config), factors)
        return factors

    def tau(self, t: int) -> Tensor:
        """tau_t: tau, or tau (1 + cos(pi t / T)) / 2."""
        falling = self.first_tau * (1 + math.cos(math.pi * t / self.epochs)) / 2
        return torch.where(self.follows, falling, self.first_tau)
