"""The reduced form of the moments sampler for a group: `moments.reduced_gradient` on stacked parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each, lower_factor
from byolsim.backends.torch.samplers.base import Sampler
from byolsim.backends.torch.samplers.direct import covariance_of, split
from byolsim.backends.torch.world import TorchWorld
from byolsim.config.run import RunConfig
from byolsim.model import samplers
from byolsim.model.moments import ReducedWorld, reduced_coordinates
from byolsim.model.start import Start
from byolsim.model.state import Array
from byolsim.model.world import World

if TYPE_CHECKING:
    from byolsim.backends.torch.training import Group


class Reduced(Sampler):
    """First layers: the encoder's, its momentum and the target's are rows of the coordinates X of `moments`."""

    def __init__(self, config: RunConfig, plain_world: World, world: TorchWorld) -> None:
        super().__init__(config, plain_world, world)
        self.key = samplers.Reduced(config).key
        self.reduced = ReducedWorld(plain_world)
        self.L_x, self.M, self.root = (
            torch.tensor(M, device=world.A.device, dtype=world.A.dtype)
            for M in (self.reduced.L_x, self.reduced.M, self.reduced.root)
        )

    def coordinates(self, start: Start) -> Start:
        """The start with the rows of X, each (k, q + 4k), in place of encoders."""
        B_o, V_B, B_t = np.split(reduced_coordinates(start, self.plain_world), 3)
        return start._replace(B_o=B_o, V_B=V_B, B_t=B_t)

    def lost(self, start: Start) -> Array | None:
        """Of coordinates, with 0 in fresh directions; that of an encoder (k, d) has no directions here: dropped."""
        if start.lost is None or start.lost.shape[1] == self.key.d:
            return None
        return np.hstack([start.lost, np.zeros((self.key.k, self.key.k))])

    def end(self, start: Start) -> Start:
        """Without the fresh directions, which hold 0 between steps."""
        k = self.key.k
        B_o, V_B, B_t = (M[:, :-k] for M in (start.B_o, start.V_B, start.B_t))
        return start._replace(B_o=B_o, V_B=V_B, B_t=B_t, lost=None if start.lost is None else start.lost[:, :-k])

    def basis(self) -> Tensor:
        """The first q coordinates."""
        q, k = self.key.q, self.key.k
        return torch.eye(q + 4 * k, q, device=self.world.A.device, dtype=torch.float64)

    def step(self, group: Group, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = split(row, self.key)
            q, k, n, sigma = self.key.q, self.key.k, self.key.n, self.world.sigma
            (P,), (X_o, X_t) = group.predictor, group.whole_encoders()
            a_o, L_oo, b_t = each(X_o[:, :, :q], self.L_x), X_o[:, :, q : q + k], X_t[:, :, :q]
            covariance = covariance_of(torch.cat([a_o, sigma * L_oo], dim=2), W, n)
            group.set_predictor(t, covariance)
            L_t = self.reduced.ratio * X_t[:, :, q : q + 3 * k]
            L_w = self.reduced.scale * lower_factor(torch.cat([each(b_t, self.root), L_t], dim=2))
            D = torch.cat([P @ a_o - each(b_t, self.M), sigma * P @ L_oo, -L_w], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            rest = sigma / n**0.5 * each(lower_factor(E), N)
            G = torch.cat([each(DS[:, :, :q], self.L_x.mT), sigma * DS[:, :, q : q + k], rest], dim=2)
            group.descend_from(t, 0.5 * E.square().sum(dim=(1, 2)), G, covariance)
            if t % self.config.enc_update_every == 0:
                self._retriangulate(group)

    def _retriangulate(self, group: Group) -> None:
        """`moments.retriangulate` of the rows of X."""
        q, k = self.key.q, self.key.k
        parts = [group.encoder[0], group.V_enc[0], group.target[0]]
        L = lower_factor(torch.cat([part[:, :, q:] for part in parts], dim=1))
        for part, rows in zip(parts, L.chunk(3, dim=1), strict=True):
            part[:, :, q : q + 3 * k] = rows
            part[:, :, q + 3 * k :] = 0.0
        for lost in group.follow.lost[:1]:
            lost[:, :, q + 3 * k :] = 0.0
