"""Random worlds, of options and of second moments, that several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.model.world import World

Array = NDArray[np.float64]

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "gaussian": {"mixing": "gaussian"},
    "clean": {"sigma_n": 0.0},
    "one-sided": {"sigma_n_target": 0.0},
    "noisier-target": {"sigma_n_target": 1.5, "mixing": "gaussian"},
    "correlated": {"correlation": "0.9,-0.5,0"},
    "nuisance": {"d_nuisance": 2, "nuisance_spectrum": "flat:3"},
    "all": {
        "mixing": "gaussian", "correlation": "linear:-1:0.7", "sigma_n_target": 0.2, "d_nuisance": 3,
        "nuisance_spectrum": "4,2,1",
    },
    "square": {"d_obs": 3, "correlation": "flat:0.5"},
    "square-with-nuisance": {"d_obs": 5, "d_nuisance": 2},
}  # fmt: skip
"""Worlds of three latents, one a kind."""


def world_of(name: str, **more: Any) -> World:
    """One of `OPTIONS`."""
    return World.from_config(RunConfig(**({"d_latent": 3, "d_obs": 9, "seed": 5} | OPTIONS[name] | more)))


def random_moments(q: int, seed: int, symmetric: bool = False, rank: int | None = None) -> tuple[Array, Array, Array]:
    """S_xx, S_px, S_pp of a pair of views of q dimensions, or of a joint rank below 2 q."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(2 * q, rank or 2 * q + 1))
    if symmetric:  # exchangeable: (x, x+) and (x+, x) have one law
        F = np.hstack([F, np.vstack([F[q:], F[:q]])])
    S = F @ F.T / F.shape[1]
    return S[:q, :q], S[q:, :q], S[q:, q:]


def basis(d: int, q: int, seed: int = 0) -> Array:
    """(d, q) orthonormal columns."""
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, q)))[0])


def world_file(folder: Path, name: str = "w.npz", q: int = 3, d: int | None = None, seed: int = 1) -> str:
    """A file of a random world, in the coordinates of the views or, with d > q, inside a subspace."""
    outside: dict[str, Any] = {} if d is None else {"Q": basis(d, q, seed), "sigma": 0.5, "sigma_plus": 0.25}
    return str(World.from_moments(*random_moments(q, seed), **outside).save(folder / name))
