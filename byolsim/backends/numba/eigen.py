"""Eigenvalues and singular values with their vectors, by Jacobi rotations without allocation, in double precision."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import dot
from byolsim.machine.jit import fma, inlined, kernel

SWEEPS = 30
"""At most; convergence is quadratic, and ten are many."""


@kernel
def eigenvectors(S, V):
    """Bring a symmetric S (k, k) to diagonal form, S = V^T diag V; V has an eigenvector in each row, in no order.

    Cyclic Jacobi rotations: Golub and Van Loan, Matrix Computations, section 8.5.
    """
    k = S.shape[0]
    for i in range(k):
        for j in range(k):
            V[i, j] = 1.0 if i == j else 0.0
    for _ in range(SWEEPS):
        off, diagonal = 0.0, 0.0
        for i in range(k):
            diagonal += S[i, i] ** 2
            for j in range(i):
                off += S[i, j] ** 2
        if off <= 1e-32 * diagonal:
            break
        for p in range(k - 1):
            for q in range(p + 1, k):
                if S[p, q] != 0.0:
                    c, s = _rotation(S[p, p], S[q, q], S[p, q])
                    for i in range(k):
                        a, b = S[i, p], S[i, q]
                        S[i, p], S[i, q] = fma(c, a, -s * b), fma(s, a, c * b)
                    _rotate_rows(S, p, q, c, s)
                    _rotate_rows(V, p, q, c, s)


@kernel
def from_eigenvectors(p, V, P):
    """P = V^T diag(p) V, symmetric to the last bit."""
    k = p.size
    for i in range(k):
        for j in range(i + 1):
            entry = 0.0
            for m in range(k):
                entry = fma(p[m] * V[m, i], V[m, j], entry)
            P[i, j] = entry
            P[j, i] = P[i, j]


@kernel
def orthogonal_rows(G, J):
    """Turn the rows of G (k, k) until they are orthogonal, G <- J G with an orthogonal J.

    Its singular values are then the norms of the rows, each to its own digits: one-sided Jacobi. Hestenes, Inversion of
    Matrices by Biorthogonalization, 1958.
    """
    k = G.shape[0]
    for i in range(k):
        for j in range(k):
            J[i, j] = 1.0 if i == j else 0.0
    for _ in range(SWEEPS):
        turned = False
        for p in range(k - 1):
            for q in range(p + 1, k):
                a, b, overlap = dot(G[p], G[p]), dot(G[q], G[q]), dot(G[p], G[q])
                if abs(overlap) > 1e-15 * np.sqrt(a) * np.sqrt(b):
                    turned = True
                    c, s = _rotation(a, b, overlap)
                    _rotate_rows(G, p, q, c, s)
                    _rotate_rows(J, p, q, c, s)
        if not turned:
            break


@inlined
def _rotation(a, b, overlap):
    """(c, s) of the rotation that makes [[a, overlap], [overlap, b]] diagonal; overlap is not 0."""
    ratio = (b - a) / (2.0 * overlap)
    tangent = 1.0 / (abs(ratio) + np.sqrt(ratio * ratio + 1.0))
    if ratio < 0:
        tangent = -tangent
    c = 1.0 / np.sqrt(tangent * tangent + 1.0)
    return c, tangent * c


@inlined
def _rotate_rows(M, p, q, c, s):
    """Rows p and q <- c p - s q and s p + c q."""
    x, y = M[p], M[q]
    for i in range(x.size):
        a, b = x[i], y[i]
        x[i], y[i] = fma(c, a, -s * b), fma(s, a, c * b)
