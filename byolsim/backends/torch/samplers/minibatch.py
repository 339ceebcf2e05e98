"""Every sample of a minibatch is drawn; gradients by autograd."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byolsim.backends.torch.samplers.base import Sampler
from byolsim.config.run import RunConfig

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Minibatch(Sampler):
    """1/2 mean over the batch of ||predictor(encoder(x)) - target(x+)||^2, of linear models and MLPs.

    The symmetric loss is the mean of this and of that with the views exchanged.
    """

    @staticmethod
    def views(config: RunConfig) -> int:
        """All, twice for the symmetric loss."""
        return config.batch_size * (2 if config.symmetric_loss else 1)

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.minibatch_blocks`."""
        n = self.config.batch_size
        x, x_plus = (view.expand(group.K, -1, -1) for view in self.world.views(row, n))
        pairs = [(x, x_plus), (x_plus, x)] if self.config.symmetric_loss else [(x, x_plus)]
        online = [group.encode(view) for view, _ in pairs]

        @cache
        def covariance() -> Tensor:
            return mean([torch.bmm(z.detach(), z.detach().mT) / n for z in online])

        group.set_predictor(t, covariance)
        targets = [group.encode_target(view) for _, view in pairs]
        losses = [
            0.5 * (group.predict(z) - z_t).square().sum(dim=(1, 2)) / n for z, z_t in zip(online, targets, strict=True)
        ]
        group.descend(t, mean(losses), covariance)


def mean(terms: list[Tensor]) -> Tensor:
    """Of one or both orders of the views."""
    return terms[0] if len(terms) == 1 else (terms[0] + terms[1]) / 2
