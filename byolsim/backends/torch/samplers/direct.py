"""The direct form of the moments sampler for a group: `moments.direct_gradient` on stacked parameters.

What a step draws are moments, not samples, so there is no loss to differentiate: G and the closed-form gradients are
formed as the plain form has them.
"""

from __future__ import annotations

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
    """Encoders as they are, (K, r, d)."""

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        super().__init__(config, plain_world, world)
        self.key = samplers.Direct(config).key
        self.white_A = world.A * world.lam.sqrt()

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = split(row, self.key)
            r, sigma, n = self.key.r, self.world.sigma, self.key.n
            (P,), (B_o,), (B_t,) = group.predictor, group.encoder, group.target
            L_b, Q = lower_factorisation(B_o)
            M_o, M_t = each(B_o, self.white_A), each(B_t, self.white_A)
            D = torch.cat([P @ M_o - M_t, sigma * P @ L_b, -sigma * lower_factor(B_t)], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            Y = sigma / n**0.5 * each(lower_factor(E), N)
            on_Q = sigma * DS[:, :, r : 2 * r] - Y @ Q.mT
            G = each(DS[:, :, :r], self.white_A.mT) + on_Q @ Q + Y
            F = torch.cat([M_o, sigma * L_b], dim=2)
            update(group, t, E, F, G, W)


def update(group: Group, t: int, E: Tensor, F: Tensor, G: Tensor, W: Tensor) -> None:
    """The loss, the gradients of `gradients.gradients` without decay, and the rest of the step."""
    (P,), (B_o,) = group.predictor, group.encoder

    def covariance() -> Tensor:
        FW = each(F, W[: F.shape[2]]) / group.config.batch_size**0.5
        return torch.bmm(FW, FW.mT)

    group.update(t, 0.5 * E.square().sum(dim=(1, 2)), [G @ B_o.mT, P.mT @ G], covariance)


def split(row: Tensor, key: MomentsKey) -> tuple[Tensor, Tensor]:
    """`streams.split_moments` on the device."""
    (q, m), (c, columns) = key.shapes
    W, N = row[: q * m].view(q, m).tril(), row[q * m :].view(c, columns)
    fresh = len(key.degrees[1])  # columns with Bartlett's diagonal
    if fresh:
        N = torch.cat([N[:, : columns - key.r], N[:, columns - key.r :].tril()], dim=1)
    return W, N
