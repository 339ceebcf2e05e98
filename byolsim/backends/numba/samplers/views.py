"""The two views of a minibatch: samples are the columns of X and X+, (d, n)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.linalg import subtract
from byolsim.backends.numba.structures import Real
from byolsim.machine.jit import fma, kernel


class Views(NamedTuple):
    """The minibatch that the group shares."""

    Z: Real  # (q + c, n) latents
    Z_common: Real  # (q, n) those of x, the first rows of Z
    X: Real  # (d, n)
    X_plus: Real  # (d, n)
    noise: Real  # (d, n) isotropic noise of a view where it has a hole, (d, 0) in all other worlds
    inside: Real  # (q, n) its part in the hole, or (q, 0)
    along: Real  # (d, n) the same in all rows, or (d, 0)


@kernel
def form_views(row, world, views):
    """The samples of both views from one row of `streams.minibatch_blocks`.

    x = A Lambda^(1/2) z + sigma e and x+ likewise with e+, the signal being formed once; `_form_any_views` elsewhere.
    """
    if not world.is_plain:
        _form_any_views(row, world, views)
        return
    r, n = views.Z.shape
    d = views.X.shape[0]
    for i in range(r):
        for j in range(n):
            views.Z[i, j] = world.root_lam[i] * row[i * n + j]
    np.dot(world.A, views.Z, views.X)
    sigma = views.X.dtype.type(world.sigma)
    e, e_plus = row[r * n : (r + d) * n], row[(r + d) * n :]
    _add_noise(views.X.reshape(-1), sigma, e_plus, views.X_plus.reshape(-1))
    _add_noise(views.X.reshape(-1), sigma, e, views.X.reshape(-1))


@kernel
def _form_any_views(row, world, views):
    """x = A Lambda^(1/2) g_(1..q) + sigma Pi e and x+ = A_plus Lambda_plus^(1/2) g + sigma_plus Pi e+."""
    latents, n = views.Z.shape
    d = views.X.shape[0]
    for i in range(latents):
        for j in range(n):
            views.Z[i, j] = world.root_lam_plus[i] * row[i * n + j]
    np.dot(world.A, views.Z_common, views.X)
    np.dot(world.A_plus, views.Z, views.X_plus)
    if row.size > latents * n:  # no noise is drawn where there is none
        _add_isotropic(views.X, world.sigma, row[latents * n : (latents + d) * n], world, views)
        _add_isotropic(views.X_plus, world.sigma_plus, row[(latents + d) * n :], world, views)


@kernel
def _add_isotropic(X, sigma, normals, world, views):
    """X <- X + sigma Pi E for the standard normals E (d, n)."""
    flat, real = X.reshape(-1), X.dtype.type
    if world.hole.shape[1] == 0:
        _add_noise(flat, real(sigma), normals, flat)
        return
    noise = views.noise.reshape(-1)
    for i in range(noise.size):
        noise[i] = normals[i]
    np.dot(world.hole.T, views.noise, views.inside)
    np.dot(world.hole, views.inside, views.along)
    subtract(views.noise, views.along)
    for i in range(noise.size):
        flat[i] = fma(real(sigma), noise[i], flat[i])


@kernel
def _add_noise(signal, sigma, normals, view):
    """view <- signal + sigma normals."""
    for i in range(signal.size):
        view[i] = fma(sigma, signal.dtype.type(normals[i]), signal[i])
