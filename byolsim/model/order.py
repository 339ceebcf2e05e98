"""Order parameters: the few small matrices that every metric is a function of.

With A = Q R, an encoder B (k x d) splits into its part inside the structured subspace, b = B Q (k x q), and the part
outside it, B (I - Q Q^T), of which only the k x k lower triangular LQ factor L matters. Then

    M = B A = b R,    B B^T = b b^T + L L^T = [b, L] [b, L]^T.

Factors are kept instead of Gram matrices, which lose half the digits near collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from byolsim.model.linalg import lq_factor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OrderParameters:
    """The state of K runs at L logged epochs; each matrix is stacked as (K, L, ., .).

    Attributes
    ----------
    P : (k, k) the predictor.
    b_o, b_t : (k, q) the parts of B_o and B_t inside the structured subspace, B Q.
    L_o, L_t : (k, k) lower triangular LQ factors, with non-negative diagonal, of the parts outside it.
    gap : (K, L) norm(B_o - B_t)_F.
    """

    P: Array
    b_o: Array
    L_o: Array
    b_t: Array
    L_t: Array
    gap: Array


@dataclass(frozen=True)
class SampledFeatures:
    """The state of K runs with an MLP at L logged epochs, measured on a fixed evaluation sample of N views.

    Rows of features over the root of N have the LQ factorisation Z_o / sqrt(N) = F O, so that C_oo = F F^T and
    C_to = (Z_t O^T / sqrt(N)) F^T without a squared matrix.

    Attributes
    ----------
    P : (K, L, k, k) the predictor, or None where it is an MLP.
    F : (K, L, k, k) lower triangular factor of the online features, C_oo = F F^T.
    F_pred : (K, L, k, k) that of the predictions.
    cross : (K, L, k, k) Z_t O^T / sqrt(N).
    b_o, L_o : (K, L, k, q) and (K, L, k, k) inside and outside part of the best linear fit,
        B = E[f(x) x^T] E[x x^T]^-1, on the sample.
    loss : (K, L) the loss on the sample.
    target_power : (K, L) tr C_tt, the mean of norm(z_t)^2 on the sample.
    gap : (K, L) the distance of all parameters of the online and the target encoder.
    """

    P: Array | None
    F: Array
    F_pred: Array
    cross: Array
    b_o: Array
    L_o: Array
    loss: Array
    target_power: Array
    gap: Array


def inside_outside(B: Array, Q: Array) -> tuple[Array, Array]:
    """The pair (b, L) of one encoder B (k, d): b = B Q and the LQ factor of B - b Q^T."""
    b = B @ Q
    return b, lq_factor(B - b @ Q.T)
