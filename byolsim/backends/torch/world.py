"""The world on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from byolsim.model.world import World


@dataclass(frozen=True)
class TorchWorld:
    """The world on the device, in the dtype of training."""

    A: Tensor
    lam: Tensor
    sigma: float
    lambda_max_x: float

    @classmethod
    def of(cls, world: World, device: torch.device, dtype: torch.dtype) -> TorchWorld:
        """Copy a world to the device."""
        return cls(
            A=torch.tensor(world.A, device=device, dtype=dtype),
            lam=torch.tensor(world.lam, device=device, dtype=dtype),
            sigma=world.sigma,
            lambda_max_x=world.lambda_max_x,
        )

    def views(self, row: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """x = A z + e and x+ = A z + e+ (d, n) from one row of `streams.minibatch_blocks`."""
        d, r = self.A.shape
        signal = self.A @ (self.lam.sqrt()[:, None] * row[: r * n].view(r, n))
        e, e_plus = row[r * n : (r + d) * n].view(d, n), row[(r + d) * n :].view(d, n)
        return signal + self.sigma * e, signal + self.sigma * e_plus
