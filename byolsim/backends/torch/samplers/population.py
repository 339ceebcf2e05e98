"""Nothing is drawn: the population loss of linear models, with gradients by autograd."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.backends.torch.samplers.minibatch import mean
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model.gradients import noise_power
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Population(Sampler):
    """`gradients.population_loss`; the symmetric loss is its mean over both orders of the views."""

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        super().__init__(config, plain_world, world)
        self.worlds = [world]
        if config.symmetric_loss:
            self.worlds.append(TorchWorld.of(plain_world.exchanged(), world.A.device, world.A.dtype))

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t."""
        B_o, B_t = group.whole_encoders()
        online = [(each(B_o, world.A), world.outside_hole(B_o)) for world in self.worlds]

        @cache
        def covariance() -> Tensor:
            B = B_o.detach()
            return mean(
                [
                    torch.bmm(M.detach() * world.lam, M.detach().mT) + world.sigma**2 * torch.bmm(noisy.detach(), B.mT)
                    for world, (M, noisy) in zip(self.worlds, online, strict=True)
                ]
            )

        group.set_predictor(t, covariance)
        losses = [
            0.5 * power(world, B_t, *(group.predict(M) for M in parts))
            for world, parts in zip(self.worlds, online, strict=True)
        ]
        group.descend(t, mean(losses), covariance)


def power(world: TorchWorld, B_t: Tensor, PM: Tensor, PB: Tensor) -> Tensor:
    """E||P B_o x - B_t x+||^2 (K,) from PM = P B_o A (K, k, q) and PB = P B_o Pi (K, k, d)."""
    q, M_t, noisy_t = world.q, each(B_t, world.loadings_plus), world.outside_hole(B_t)
    signal = ((PM - M_t[:, :, :q]).square() * world.lam).sum(dim=(1, 2))
    online, target = PB.square().sum(dim=(1, 2)), noisy_t.square().sum(dim=(1, 2))
    total: Tensor = signal + noise_power(online, target, world.sigma, world.noise_plus)
    if M_t.shape[2] > q:
        total = total + (M_t[:, :, q:].square() * world.variances_plus[q:]).sum(dim=(1, 2))
    return total
