"""What the laws of rules, depth and schedules share: runs in the population, and how far steps lag behind the flow."""

from __future__ import annotations

from typing import Any

import numpy as np

from byolsim.backends import get_backend
from byolsim.backends.base import LogBlock
from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.world import World

Array = np.ndarray
FLOW: dict[str, Any] = {"backend": "numpy", "sampler": "population", "mom_pred": 0.0, "mom_enc": 0.0, "tau": 1.0}
"""Momentum 0, and a target that is the encoder: both are given where a law is about something else."""


def run(config: RunConfig, world: World | None = None, initial: Start | None = None) -> LogBlock:
    """The logged order parameters of one run (at most 64 rows), in a world of its own or in any other one."""
    world = World.from_config(config) if world is None else world
    (block,) = get_backend(config.backend).simulate(world, [config], lambda epochs: None, initial)
    return block


def modes(spectrum: str, k: int, **options: Any) -> RunConfig:
    """Decoupled modes of an orthonormal world, from `init` modes."""
    shape = {"d_latent": k, "d_obs": k + 2, "latent_spectrum": spectrum, "init": "modes"}
    return RunConfig(**(FLOW | shape | options))


def start_at(B_o: Array, P: Array | None = None) -> Start:
    """A start without momentum whose target is the encoder."""
    P = np.eye(len(B_o)) if P is None else P
    return Start(P, np.zeros_like(P), B_o, np.zeros_like(B_o), B_o)


def sizes(block: LogBlock) -> Array:
    """norm(B_o)_F at each logged epoch."""
    return np.linalg.norm(encoders(block), axis=(1, 2))


def encoders(block: LogBlock) -> Array:
    """(rows, k, q + k) [b, L], which is B_o in an orthonormal basis of the observations."""
    return np.concatenate([block.order.b_o[0], block.order.L_o[0]], axis=-1)


def mode_gains(block: LogBlock, world: World, target: bool = False) -> Array:
    """(rows, k) b_j of B_o = diag(b_j) V_k^T, from the start `modes`; rounding alone couples the modes."""
    b = (block.order.b_t if target else block.order.b_o)[0] @ world.directions
    k = b.shape[1]
    diagonal = np.einsum("tjj->tj", b[:, :, :k])
    assert np.abs(b[:, :, :k] - diagonal[:, :, None] * np.eye(k)).max() < 1e-9
    return diagonal


def lag(lr: float, speed: Array, start: Array) -> Array:
    """How much flow time a solution by steps of size lr is behind, to first order: (lr / 2) log(speed / start).

    To get from u_0 to u by u' = f(u) the steps take sum lr = integral of (1 / f + lr f' / (2 f) + O(lr^2)) du, since
    in the time lr the flow goes lr f (1 + lr f' / 2), and a step lr f.
    """
    return lr / 2 * np.log(speed / start)
