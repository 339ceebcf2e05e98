"""Nothing is drawn: the population loss of linear models, with gradients by autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.model.gradients import noise_power

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Population(Sampler):
    """`gradients.population_loss`."""

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t."""
        world, lam, q = self.world, self.world.lam, self.world.q
        (B_o,), (P,), (B_t,) = group.encoder, group.predictor, group.target
        M_o, M_t = each(B_o, world.A), each(B_t, world.loadings_plus)
        noisy_o, noisy_t = world.outside_hole(B_o), world.outside_hole(B_t)
        signal = ((torch.bmm(P, M_o) - M_t[:, :, :q]).square() * lam).sum(dim=(1, 2))
        online, target = torch.bmm(P, noisy_o).square().sum(dim=(1, 2)), noisy_t.square().sum(dim=(1, 2))
        power = signal + noise_power(online, target, world.sigma, world.noise_plus)
        if M_t.shape[2] > q:
            power = power + (M_t[:, :, q:].square() * world.variances_plus[q:]).sum(dim=(1, 2))

        def covariance() -> Tensor:
            M = M_o.detach()
            return torch.bmm(M * lam, M.mT) + world.sigma**2 * torch.bmm(noisy_o.detach(), B_o.detach().mT)

        group.descend(t, 0.5 * power, covariance)
