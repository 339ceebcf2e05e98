"""The direct form of the moments sampler for a group: `moments.direct_gradient` on stacked parameters.

What a step draws are moments, not samples, so there is no loss to differentiate: G and the closed-form gradients are
formed as the plain form has them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each, lower_factor, lower_factorisation
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MomentsKey
from byolsim.model import samplers
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Direct(Sampler):
    """Encoders as they are, (K, k, d)."""

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        super().__init__(config, plain_world, world)
        self.key = samplers.Direct(config).key
        self.white_A = world.A * world.lam.sqrt()
        self.white_A_plus = self.white_A
        if world.loadings_plus is not world.A:
            self.white_A_plus = world.loadings_plus * world.variances_plus.sqrt()

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = split(row, self.key)
            q, k, n, world = self.key.q, self.key.k, self.key.n, self.world
            (P,), (B_o, B_t) = group.predictor, group.whole_encoders()
            L_b, rows = lower_factorisation(world.outside_hole(B_o))
            M_o, M_t = each(B_o, self.white_A), each(B_t, self.white_A_plus)
            covariance = covariance_of(torch.cat([M_o, world.sigma * L_b], dim=2), W, n)
            group.set_predictor(t, covariance)
            L_w = world.noise_plus * lower_factor(world.outside_hole(B_t))
            if M_t.shape[2] > q:
                L_w = lower_factor(torch.cat([M_t[:, :, q:], L_w], dim=2))
            D = torch.cat([P @ M_o - M_t[:, :, :q], world.sigma * P @ L_b, -L_w], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            Y = world.sigma / n**0.5 * each(lower_factor(E), N)
            signal = each(DS[:, :, :q], self.white_A.mT)
            along = (world.sigma * DS[:, :, q : q + k] - Y @ rows.mT) @ rows
            G = signal + along + Y if world.hole is None else signal + world.outside_hole(along + Y)
            group.descend_from(t, 0.5 * E.square().sum(dim=(1, 2)), G, covariance)


def covariance_of(F: Tensor, W: Tensor, n: int) -> Callable[[], Tensor]:
    """The features' covariance F W W^T F^T / n of a step, for features that are F times the first white numbers."""

    @cache
    def covariance() -> Tensor:
        FW = each(F, W[: F.shape[2]]) / n**0.5
        return torch.bmm(FW, FW.mT)

    return covariance


def split(row: Tensor, key: MomentsKey) -> tuple[Tensor, Tensor]:
    """`streams.split_moments` on the device."""
    (white, m), (c, columns) = key.shapes
    W, N = row[: white * m].view(white, m).tril(), row[white * m :].view(c, columns)
    fresh = len(key.degrees[1])  # columns with Bartlett's diagonal
    if fresh:
        N = torch.cat([N[:, : columns - key.k], N[:, columns - key.k :].tril()], dim=1)
    return W, N
