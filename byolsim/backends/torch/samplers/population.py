"""Nothing is drawn: the population loss of linear models, with gradients by autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.samplers.base import Sampler

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Population(Sampler):
    """`gradients.population_loss`."""

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t."""
        A, lam, variance = self.world.A, self.world.lam, self.world.sigma**2
        (B_o,), (P,), (B_t,) = group.encoder, group.predictor, group.target
        A_each = A.expand(group.K, -1, -1)
        M_o, M_t = torch.bmm(B_o, A_each), torch.bmm(B_t, A_each)
        signal = ((torch.bmm(P, M_o) - M_t).square() * lam).sum(dim=(1, 2))
        noise = torch.bmm(P, B_o).square().sum(dim=(1, 2)) + B_t.square().sum(dim=(1, 2))

        def covariance() -> Tensor:
            B, M = B_o.detach(), M_o.detach()
            return torch.bmm(M * lam, M.mT) + variance * torch.bmm(B, B.mT)

        group.descend(t, 0.5 * (signal + variance * noise), covariance)
