"""The world on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each
from byolsim.model.world import World


@dataclass(frozen=True)
class TorchWorld:
    """The world on the device, in the dtype of training; the names are those of `World`.

    Attributes
    ----------
    A, lam : (d, q) and (q,).
    loadings_plus, variances_plus : (d, q + c) and (q + c,); A and lam themselves where both views have them.
    hole : (d, q) or None.
    """

    A: Tensor
    lam: Tensor
    loadings_plus: Tensor
    variances_plus: Tensor
    sigma: float
    noise_plus: float
    hole: Tensor | None
    lambda_max_x: float

    @classmethod
    def of(cls, world: World, device: torch.device, dtype: torch.dtype) -> TorchWorld:
        """Copy a world to the device."""
        A, lam = (torch.tensor(M, device=device, dtype=dtype) for M in (world.A, world.lam))
        return cls(
            A=A,
            lam=lam,
            loadings_plus=A if world.A_plus is None else torch.tensor(world.A_plus, device=device, dtype=dtype),
            variances_plus=lam if world.lam_plus is None else torch.tensor(world.lam_plus, device=device, dtype=dtype),
            sigma=world.sigma,
            noise_plus=world.noise_plus,
            hole=None if world.hole is None else torch.tensor(world.hole, device=device, dtype=dtype),
            lambda_max_x=world.lambda_max_x,
        )

    @property
    def q(self) -> int:
        """Dimension of the structured subspace."""
        return int(self.A.shape[1])

    def views(self, row: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """x and x+ (d, n) of `World` from one row of `streams.minibatch_blocks`, of which noise may be no part."""
        drawn = len(self.variances_plus) * n
        latents = self.variances_plus.sqrt()[:, None] * row[:drawn].view(-1, n)
        x = self.A @ latents[: self.q]
        x_plus = x if self.loadings_plus is self.A else self.loadings_plus @ latents
        if len(row) == drawn:
            return x, x_plus
        e, e_plus = row[drawn:].view(2, -1, n)
        if self.hole is not None:
            e, e_plus = (noise - self.hole @ (self.hole.mT @ noise) for noise in (e, e_plus))
        return x + self.sigma * e, x_plus + self.noise_plus * e_plus

    def outside_hole(self, B: Tensor) -> Tensor:
        """`gradients.outside_hole` of stacked encoders (K, k, d)."""
        if self.hole is None:
            return B
        return B - each(each(B, self.hole), self.hole.mT)
