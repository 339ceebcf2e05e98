"""The Wiener predictor P* = C_to C_oo^+ from unsquared factors, and whether it is known.

docs/derivation.md, section 7, derives how far rounding lets P* be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from byolsim.model.linalg import norm

Array = NDArray[np.float64]

ZERO = 64.0
"""Singular values below this many roundings (eps of the training's dtype) of the largest are zero: a dead mode stays
there, since the rounding of the others does not let it fall further. P* and W_excess leave them out."""

ROUNDING = 8.0
"""Relative error of a state, in eps of its dtype: that of the stored parameters and of the arithmetic here."""

ACCURACY = {"float64": 1e-6, "float32": 1e-2}
"""Relative error of P*, by the training's dtype, above which the columns that divide by C_oo are null."""

LARGEST = 1e290
"""Entries of P* beyond this leave too little room for arithmetic: P* then has no value."""


@dataclass(frozen=True)
class Wiener:
    """F = scale U S V^T (each (K, L) state on its own scale) and what follows from it.

    Attributes
    ----------
    U, S, scale : (K, L, k, k), (K, L, k) and (K, L): left singular vectors, singular values and their unit.
    T : (K, L, k, k) Y V, the target's part along each right singular vector, 0 where the singular value is.
    P_star : (K, L, k, k) T (scale S)^+ U^T, 0 where it is not known.
    known : (K, L) whether P* is known within `ACCURACY`.
    """

    U: Array
    S: Array
    scale: Array
    T: Array
    P_star: Array
    known: NDArray[np.bool_]

    @property
    def H(self) -> Array:
        """(K, L) the largest eigenvalue of C_oo."""
        return np.asarray((self.S[..., 0] * self.scale) ** 2)


def factored(F: Array, Y: Array, size: Array, dtype: str) -> Wiener:
    """P* = C_to C_oo^+ from C_oo = F F^T and C_to = [Y, 0] F^T, and whether it is known.

    `size` is the norm of the target that x predicts, of which the columns of Y are those that F can reach. A state
    whose factors are known up to errors of eps norm moves P* by at most

        eps (s_1 / s_k) [norm(P*) + size / s_1 + rest / s_k],    rest^2 = size^2 - norm(T)^2,

    s_k the smallest singular value that is not zero (perturbation of least squares; docs/derivation.md, section 7).
    """
    q, eps = Y.shape[-1], float(np.finfo(dtype).eps)
    # Relative to the largest entry: 1 / S of a subnormal S would be infinite.
    scale = np.abs(F).max(axis=(-2, -1))
    unit = np.where(scale > 0, scale, 1.0)
    U, S, Vt = np.linalg.svd(F / unit[..., None, None], full_matrices=False)
    keep = (ZERO * eps * S[..., :1] < S) & (S > 0)
    S_inv = np.where(keep, 1.0 / np.where(keep, S, 1.0), 0.0)
    T = Y @ np.swapaxes(Vt[..., :q], -1, -2)
    rest = np.sqrt(np.maximum(1.0 - (norm(T) / size) ** 2, 0.0)) * size
    T = T * keep[..., None, :]
    P_star = (T / unit[..., None, None] * S_inv[..., None, :]) @ np.swapaxes(U, -1, -2)
    length, inverse, size = norm(P_star), S_inv.max(axis=-1), size / unit
    error = ROUNDING * eps * inverse * (S[..., 0] * (length + rest / unit * inverse) + size)
    # B_o so small beside B_t that P* leaves the range of a float: no value, as at B_o = 0.
    lost = ~(np.abs(P_star).max(axis=(-2, -1)) < LARGEST) | (S[..., 0] == 0)
    known = ~lost & ((error <= ACCURACY[dtype] * length) | (size == 0))
    return Wiener(U, S, unit, T, np.where(known[..., None, None], P_star, 0.0), known)
