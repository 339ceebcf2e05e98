"""Gradients of a loss that is open to the target or symmetric, from second moments of both views; any sampler's.

    G = P B_o S_xx - B_t S_px,    G_plus = (1/n) sum delta x+^T = P B_o S_px^T - B_t S_pp,    grad_P = G B_o^T

and half the trace of the residual's second moment as loss. Exchanging the views exchanges S_xx with S_pp and S_px with
its transpose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.linalg import dot, subtract
from byolsim.backends.numba.structures import Real
from byolsim.machine.jit import kernel


class Moments(NamedTuple):
    """Second moments of the views, (c, c), and work space for encoders (k, c)."""

    S_xx: Real
    S_px: Real
    S_xp: Real  # its transpose
    S_pp: Real
    PB: Real  # (k, c) P B_o
    BS: Real  # (k, c)


def moments_space(k: int, columns: int, dtype: np.dtype) -> Moments:
    """Room for them."""
    shapes = [(columns, columns)] * 4 + [(k, columns)] * 2
    return Moments(*(np.zeros(shape, dtype) for shape in shapes))


@kernel
def one_order(P, B_o, B_t, S_xx, S_px, S_xp, S_pp, G, G_plus, grad_P, space):
    """G, G_plus and grad_P of one order of the views; the loss, which rounding does not let fall below 0."""
    PB, BS = space.PB, space.BS
    np.dot(P, B_o, PB)
    np.dot(PB, S_xx, G)
    np.dot(B_t, S_px, BS)
    loss = _inner(G, PB) - 2.0 * _inner(BS, PB)
    subtract(G, BS)
    np.dot(PB, S_xp, G_plus)
    np.dot(B_t, S_pp, BS)
    loss += _inner(BS, B_t)
    subtract(G_plus, BS)
    np.dot(G, B_o.T, grad_P)
    return max(0.5 * loss, 0.0)


@kernel
def _inner(M, N):
    """tr(M N^T), rows in the dtype of training and their sum in double precision."""
    total = 0.0
    for i in range(M.shape[0]):
        total += np.float64(dot(M[i], N[i]))
    return total


@kernel
def mean(M, N):
    """M <- (M + N) / 2."""
    half = M.dtype.type(0.5)
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] = half * (M[i, j] + N[i, j])


@kernel
def take_mean(loss, work):
    """The mean of what both orders of the views give."""
    mean(work.G, loss.G_exchanged)
    mean(loss.G_plus, loss.G_plus_exchanged)
    mean(work.grad_P, loss.grad_P_exchanged)
