"""How an encoder and a predictor lie to the canonical directions, and the lists of one number a mode or dimension.

With V = [v_1, v_2, ...] the canonical directions of the world and w_1, w_2, ... its gains (`World.directions`), the
encoder in the coordinates in which x is white is

    B_o Sigma_x^(1/2) = [b_o S_xx^(1/2) V, sigma L_o] = [f_1, ..., f_q, sigma L_o],    C_oo = F F^T,    F = U S W^T,

f_j what it makes of mode j. A value without a meaning at a state is NaN, a null in the file; docs/model.md, section 6,
lists the values, docs/conventions.md says where they are null.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.model.linalg import norm
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.world import World

Array = NDArray[np.float64]

MOST_MODES = 64
"""Canonical modes that lists tell of, from the first."""

TIE = 1e-9
"""Moduli of gains that are closer than this multiple of the largest are equal: between them no direction is the first.
"""

SPECTRA = {
    "P_eig_re": "eigenvalues of P by descending modulus: real parts",
    "P_eig_im": "eigenvalues of P: imaginary parts",
    "C_oo_eig": "eigenvalues of C_oo, descending",
    "BB_eig": "eigenvalues of B_o B_o^T, descending",
    "mode_energy": "||f_j||^2, variance of the features from canonical mode j",
    "mode_gain": "f_j^T P f_j / ||f_j||^2, gain of the predictor on mode j",
}
"""Every list with its short title; f_j = B_o Sigma_x^(1/2) v_j."""


def spectrum_sizes(config: RunConfig) -> dict[str, int]:
    """Numbers in each list of a run that logs them, nothing for one that does not."""
    if not config.log_spectra:
        return {}
    k, modes = config.k, min(config.structured, MOST_MODES)
    return {name: modes if name.startswith("mode_") else k for name in SPECTRA}


def sorted_eigenvalues(P: Array) -> NDArray[np.complex128]:
    """(..., k) eigenvalues of P (..., k, k) by descending modulus; of those of one modulus by descending real part.

    Of a conjugate pair the one with positive imaginary part is first.
    """
    values = np.linalg.eigvals(P).astype(np.complex128)
    order = np.lexsort((-values.imag, -values.real, -np.abs(values)), axis=-1)
    return np.asarray(np.take_along_axis(values, order, axis=-1))


@dataclass(frozen=True)
class Modes:
    """Linear models at (K, L) states, in the canonical directions of their world.

    Attributes
    ----------
    order, world : the states and the world.
    U, S : (K, L, k, k) and (K, L, k) left singular vectors and singular values of F, these in units of `scale` (K, L).
    in_rank : (K, L, k) which of the singular values count in the rank of B_o Sigma_x^(1/2).
    """

    order: OrderParameters
    world: World
    U: Array
    S: Array
    scale: Array
    in_rank: NDArray[np.bool_]

    @cached_property
    def eigenvalues(self) -> NDArray[np.complex128]:
        """(K, L, k) the sorted eigenvalues of P."""
        return sorted_eigenvalues(self.order.P)

    @cached_property
    def inside(self) -> Array:
        """(K, L, k, q) f_1, ..., f_q as columns."""
        return np.asarray(self.order.b_o @ (self.world.S_root @ self.world.directions))

    @property
    def gains(self) -> Array | None:
        """(k,) w_1, ..., w_k, 0 beyond q; None where W is not symmetric."""
        if not self.world.is_symmetric:
            return None
        k, q = self.order.P.shape[-1], self.world.q
        return np.concatenate([self.world.gains[:k], np.zeros(max(0, k - q))])

    def columns(self) -> dict[str, Array]:
        """`P_asymmetry`, `commutator`, `span_err` and `gain_err`, each (K, L)."""
        nothing, gains = np.full(self.scale.shape, np.nan), self.gains
        apart = nothing if gains is None else norm(np.abs(self.eigenvalues - gains)[..., None, :])
        span = None if gains is None else self._span(gains)
        return {
            **symmetry(self.order.P, self.U, self.S),
            "span_err": nothing if span is None else self._span_error(span),
            "gain_err": apart,
        }

    def _span(self, gains: Array) -> int | None:
        """Coordinates of B_o Sigma_x^(1/2) that span V_k, from the first; None where V_k is not determined.

        V_k is all of R^d for k = d; beyond q all gains are 0, and no k < d directions are the first of them.
        """
        k, q, d = len(gains), self.world.q, self.world.d
        if k == d:
            return q + k
        if k > q:
            return None
        after = abs(self.world.gains[k]) if k < q else 0.0
        return k if abs(gains[-1]) - after > TIE * abs(gains[0]) else None

    def _span_error(self, span: int) -> Array:
        """Frobenius norm of the difference of the projectors on the row span of B_o Sigma_x^(1/2) and on V_k.

        From sines, (k - rank) + 2 norm(rows outside V_k)^2 with orthonormal rows S^-1 U^T B_o Sigma_x^(1/2): the
        difference of the projectors itself would lose half the digits near 0.
        """
        k, unit = self.S.shape[-1], self.scale[..., None, None]
        outside = np.concatenate([self.inside, self.world.sigma * self.order.L_o], axis=-1)[..., span:] / unit
        rows = np.swapaxes(self.U, -1, -2) @ outside / np.where(self.in_rank, self.S, np.inf)[..., None]
        rank = self.in_rank.sum(axis=-1)
        return np.where(rank > 0, np.hypot(np.sqrt(k - rank), np.sqrt(2.0) * norm(rows)), np.nan)

    def lists(self, sizes: Array) -> dict[str, Array]:
        """All of `SPECTRA`, each (K, L, number); `sizes` (K, L, k) are the singular values of [b_o, L_o]."""
        F = self.inside[..., :MOST_MODES]
        lengths = norm(np.swapaxes(F, -1, -2)[..., None, :])
        unit = F / lengths[..., None, :]
        return {
            "P_eig_re": self.eigenvalues.real,
            "P_eig_im": self.eigenvalues.imag,
            "C_oo_eig": (self.S * self.scale[..., None]) ** 2,
            "BB_eig": sizes**2,
            "mode_energy": lengths**2,
            "mode_gain": (unit * (self.order.P @ unit)).sum(axis=-2),
        }


def symmetry(P: Array, U: Array, S: Array) -> dict[str, Array]:
    """`P_asymmetry` and `commutator`, each (K, L), of P and C_oo = U S^2 U^T in any unit; NaN where either is 0.

    In the eigenvectors of C_oo the entries of P C_oo - C_oo P are P_ij (s_j - s_i) (s_j + s_i), without a difference of
    products; both norms are relative, so that collapse does not end them.
    """
    P_t, size, unit = np.swapaxes(P, -1, -2), norm(P), S / S[..., :1]
    inside = np.swapaxes(U, -1, -2) @ (P / size[..., None, None]) @ U
    rows, columns = unit[..., :, None], unit[..., None, :]
    C = norm((unit**2)[..., None, :])
    return {
        "P_asymmetry": norm(P - P_t) / size,
        "commutator": norm(inside * ((columns - rows) * (columns + rows))) / C,
    }


def sampled_lists(features: SampledFeatures, world: World, S: Array, scale: Array) -> dict[str, Array]:
    """The same lists for models with an MLP: `C_oo_eig` of the sample, P's eigenvalues where it is a matrix."""
    K, L, k = S.shape
    nothing = np.full((K, L, k), np.nan)
    eigenvalues = nothing + 1j * nothing if features.P is None else sorted_eigenvalues(features.P)
    modes = np.full((K, L, min(world.q, MOST_MODES)), np.nan)
    return {
        "P_eig_re": eigenvalues.real,
        "P_eig_im": eigenvalues.imag,
        "C_oo_eig": (S * scale[..., None]) ** 2,
        "BB_eig": nothing,
        "mode_energy": modes,
        "mode_gain": modes,
    }
