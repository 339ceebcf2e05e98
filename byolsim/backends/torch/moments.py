"""The moments sampler for a group: `byolsim.model.moments` on stacked parameters.

What a step draws are moments, not samples, so there is no loss to differentiate: G and the closed-form gradients are
formed as the plain form has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from byolsim.backends.torch.linalg import each, lower_factor, lower_factorisation
from byolsim.backends.torch.training import Group
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MomentsKey
from byolsim.model.encoder import initial_weights
from byolsim.model.moments import ReducedWorld, reduced_coordinates
from byolsim.model.world import World


class DirectGroup(Group):
    """K runs under the direct form; `moments.direct_gradient`."""

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        super().__init__(group, world, device)
        self.key = moments_key(self.config)
        self.white_A = self.world.A * self.world.lam.sqrt()

    def step(self, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = _split(row, self.key)
            r, sigma, n = self.key.r, self.world.sigma, self.key.n
            (P,), (B_o,), (B_t,) = self.predictor, self.encoder, self.target
            L_b, Q = lower_factorisation(B_o)
            M_o, M_t = each(B_o, self.white_A), each(B_t, self.white_A)
            D = torch.cat([P @ M_o - M_t, sigma * P @ L_b, -sigma * lower_factor(B_t)], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            Y = sigma / n**0.5 * each(lower_factor(E), N)
            on_Q = sigma * DS[:, :, r : 2 * r] - Y @ Q.mT
            G = each(DS[:, :, :r], self.white_A.mT) + on_Q @ Q + Y
            F = torch.cat([M_o, sigma * L_b], dim=2)
            self._finish(t, E, F, G, W)

    def _finish(self, t: int, E: Tensor, F: Tensor, G: Tensor, W: Tensor) -> None:
        """The gradients of `gradients.gradients` without decay, and the update."""
        (P,), (B_o,) = self.predictor, self.encoder

        def covariance() -> Tensor:
            FW = each(F, W[: F.shape[2]]) / self.key.n**0.5
            return torch.bmm(FW, FW.mT)

        self.update(t, 0.5 * E.square().sum(dim=(1, 2)), [G @ B_o.mT, P.mT @ G], covariance)


class ReducedGroup(DirectGroup):
    """K runs under the reduced form: the encoder, its momentum and the target are rows of X (`moments`)."""

    def __init__(self, group: Sequence[RunConfig], world: World, device: torch.device) -> None:
        super().__init__(group, world, device)
        reduced = ReducedWorld(world)
        self.L_x, self.K_L_x, self.root_K = (
            torch.tensor(M, device=device, dtype=self.dtype)
            for M in (reduced.L_x, reduced.K @ reduced.L_x, reduced.root_K)
        )

    def initial_weights(self, run: RunConfig, world: World) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The encoder in coordinates (r, 5r), and the predictor."""
        B_o, P = initial_weights(run, world)
        return [reduced_coordinates(B_o, world)[: world.r]], [P]

    def step(self, t: int, row: Tensor) -> None:
        """Step t on one row of `streams.moment_blocks`."""
        with torch.no_grad():
            W, N = _split(row, self.key)
            r, sigma, n = self.key.r, self.world.sigma, self.key.n
            (P,), (X_o,), (X_t,) = self.predictor, self.encoder, self.target
            a_o, L_oo, b_t = each(X_o[:, :, :r], self.L_x), X_o[:, :, r : 2 * r], X_t[:, :, :r]
            T = lower_factor(torch.cat([each(b_t, self.root_K), X_t[:, :, r : 4 * r]], dim=2))
            D = torch.cat([P @ a_o - each(b_t, self.K_L_x), sigma * P @ L_oo, -sigma * T], dim=2)
            E = each(D, W) / n**0.5
            DS = each(E, W.mT) / n**0.5
            rest = sigma / n**0.5 * each(lower_factor(E), N)
            G = torch.cat([each(DS[:, :, :r], self.L_x.mT), sigma * DS[:, :, r : 2 * r], rest], dim=2)
            self._finish(t, E, torch.cat([a_o, sigma * L_oo], dim=2), G, W)
            if t % self.config.enc_update_every == 0:
                self._retriangulate()

    def _retriangulate(self) -> None:
        """`moments.retriangulate` of the rows of X."""
        r = self.key.r
        parts = [self.encoder[0], self.V_enc[0], self.target[0]]
        L = lower_factor(torch.cat([part[:, :, r:] for part in parts], dim=1))
        for k, part in enumerate(parts):
            part[:, :, r : 4 * r] = L[:, k * r : (k + 1) * r]
            part[:, :, 4 * r :] = 0.0


def moments_key(config: RunConfig) -> MomentsKey:
    """The stream of a run's moments."""
    return MomentsKey(config.seed, config.batch_size, config.d_obs, config.d_latent, str(config.moments_form))


def _split(row: Tensor, key: MomentsKey) -> tuple[Tensor, Tensor]:
    """`streams.split_moments` on the device."""
    (q, m), (c, columns) = key.shapes
    W, N = row[: q * m].view(q, m).tril(), row[q * m :].view(c, columns)
    if key.form == "reduced":
        N = torch.cat([N[:, : 2 * key.r], N[:, 2 * key.r :].tril()], dim=1)
    return W, N
