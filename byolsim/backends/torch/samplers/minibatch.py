"""Every sample of a minibatch is drawn; gradients by autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.layers import apply
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.config.run import RunConfig

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Minibatch(Sampler):
    """1/2 mean over the batch of ||predictor(encoder(x)) - target(x+)||^2, of linear models and MLPs."""

    @staticmethod
    def views(config: RunConfig) -> int:
        """All."""
        return config.batch_size

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.minibatch_blocks`."""
        n = self.config.batch_size
        x, x_plus = (view.expand(group.K, -1, -1) for view in self.world.views(row, n))
        z_o = apply(group.encoder, x, group.activation)
        with torch.no_grad():
            z_t = apply(group.target, x_plus, group.activation)
        loss = 0.5 * (apply(group.predictor, z_o, group.activation) - z_t).square().sum(dim=(1, 2)) / n
        z = z_o.detach()
        group.descend(t, loss, lambda: torch.bmm(z, z.mT) / n)
