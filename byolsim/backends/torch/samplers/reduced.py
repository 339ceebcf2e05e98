"""The reduced form of the moments sampler for a group: `moments.reduced_gradient` on stacked parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each, lower_factor
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.backends.torch.samplers.direct import split, update
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model import samplers
from byolsim.model.encoder import initial_weights
from byolsim.model.moments import ReducedWorld, reduced_coordinates
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Reduced(Sampler):
    """The encoder, its momentum and the target are rows of the coordinates X (3r, 5r) of `moments`."""

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        super().__init__(config, plain_world, world)
        self.key = samplers.Reduced(config).key
        reduced = ReducedWorld(plain_world)
        self.L_x, self.K_L_x, self.root_K = (
            torch.tensor(M, device=world.A.device, dtype=world.A.dtype)
            for M in (reduced.L_x, reduced.K @ reduced.L_x, reduced.root_K)
        )

    def initial_layers(self, run: RunConfig) -> tuple[list[Any], list[Any]]:
        """The encoder in coordinates (r, 5r), and the predictor."""
        B_o, P = initial_weights(run, self.plain_world)
        return [reduced_coordinates(B_o, self.plain_world)[: self.plain_world.r]], [P]

    def basis(self) -> Tensor:
        """The first r coordinates."""
        r = self.plain_world.r
        return torch.eye(5 * r, r, device=self.world.A.device, dtype=torch.float64)

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = split(row, self.key)
            r, sigma, n = self.key.r, self.world.sigma, self.key.n
            (P,), (X_o,), (X_t,) = group.predictor, group.encoder, group.target
            a_o, L_oo, b_t = each(X_o[:, :, :r], self.L_x), X_o[:, :, r : 2 * r], X_t[:, :, :r]
            L_w = lower_factor(torch.cat([each(b_t, self.root_K), X_t[:, :, r : 4 * r]], dim=2))
            D = torch.cat([P @ a_o - each(b_t, self.K_L_x), sigma * P @ L_oo, -sigma * L_w], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            rest = sigma / n**0.5 * each(lower_factor(E), N)
            G = torch.cat([each(DS[:, :, :r], self.L_x.mT), sigma * DS[:, :, r : 2 * r], rest], dim=2)
            update(group, t, E, torch.cat([a_o, sigma * L_oo], dim=2), G, W)
            if t % self.config.enc_update_every == 0:
                self._retriangulate(group)

    def _retriangulate(self, group: Group) -> None:
        """`moments.retriangulate` of the rows of X."""
        r = self.key.r
        parts = [group.encoder[0], group.V_enc[0], group.target[0]]
        L = lower_factor(torch.cat([part[:, :, r:] for part in parts], dim=1))
        for k, part in enumerate(parts):
            part[:, :, r : 4 * r] = L[:, k * r : (k + 1) * r]
            part[:, :, 4 * r :] = 0.0
        for lost in group.follow.lost:
            lost[:, :, 4 * r :] = 0.0
