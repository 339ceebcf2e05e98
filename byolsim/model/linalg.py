"""Factors and norms of matrices that keep their digits near collapse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lq_factor(B: Array) -> Array:
    """Lower triangular L (r x r, non-negative diagonal) with B = L O, O O^T = I, for a B of shape (r, d), d >= r.

    Of the unsquared matrix by Householder reflections: a Cholesky factor of B B^T would lose half the digits.
    """
    _, R = np.linalg.qr(B.T)
    return np.asarray(R.T * signs(R))


def lq_factorisation(B: Array) -> tuple[Array, Array]:
    """(L, O) of B = L O for a B (r, d), L as in `lq_factor` and O (r, d) with orthonormal rows."""
    Q, R = np.linalg.qr(B.T)
    return np.asarray(R.T * signs(R)), np.asarray(Q.T * signs(R)[:, None])


def lower_factor(E: Array) -> Array:
    """C (r, min(r, m)), lower triangular or trapezoidal with non-negative diagonal, C C^T = E E^T for E (r, m)."""
    R = np.asarray(np.linalg.qr(E.T, mode="r"))
    return np.asarray(R.T * signs(R))


def signs(R: Array) -> Array:
    """The signs, in the dtype of R, that make the diagonal of a triangular factor non-negative."""
    return np.where(np.diag(R) < 0, -1.0, 1.0).astype(R.dtype)


def norm(M: Array) -> Array:
    """Frobenius norm over the last two axes, scaled so that squares neither overflow nor vanish; 0 of nothing."""
    flat = np.abs(M).reshape(*M.shape[:-2], -1)
    scale = flat.max(axis=-1, keepdims=True, initial=0.0)
    safe = np.where(scale > 0, scale, 1.0)
    return np.asarray(np.sqrt(((flat / safe) ** 2).sum(axis=-1)) * safe[..., 0])


def distance(M: Array, N: Array) -> float:
    """||M - N||_F without underflow: encoders can come closer to each other than the root of the smallest number."""
    difference = np.abs(M - N)
    largest = float(difference.max())
    return largest * float(np.linalg.norm(difference / largest)) if largest > 0 else 0.0
