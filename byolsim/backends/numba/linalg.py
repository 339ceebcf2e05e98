"""Small linear algebra for the kernels: what numba lacks or would allocate for."""

from __future__ import annotations

import numpy as np

from byolsim.machine.jit import kernel


@kernel
def householder_lq(W, L, reflections):
    """L of W = L O by Householder reflections on the rows of W (r, m), which is overwritten; `order.lq_factor`.

    L is (r, min(r, m)), lower triangular or trapezoidal with non-negative diagonal. Row k of W becomes the vector v of
    the reflection I - f v v^T, and `reflections` (2, r) takes f and the sign of the diagonal before it was turned:
    `orthonormal_rows` makes O of them. A row is scaled for itself where its squares would vanish or overflow, so that
    rows of any size beside one another keep their digits. A reflector is kept with zeros before its diagonal: all
    loops then run over whole rows, which vectorise best.
    """
    r, c = L.shape
    L[:] = 0.0
    for k in range(c):
        W[k, :k] = 0.0
        divisor = safe_scale(W[k])
        square = np.float64(dot(W[k], W[k]))
        head = np.float64(W[k, k])
        diagonal = -np.sqrt(square) if head > 0 else np.sqrt(square)
        L[k, k] = np.sqrt(square) * divisor
        reflections[0, k], reflections[1, k] = 0.0, -1.0 if diagonal < 0 else 1.0
        if square > 0.0:
            # The reflector v = row - diagonal e_k, with ||v||^2 = 2 diagonal (diagonal - head).
            W[k, k] = head - diagonal
            reflections[0, k] = 1.0 / (diagonal * (diagonal - head))
            _reflect(W, k, W.dtype.type(reflections[0, k]))
        for i in range(k + 1, r):
            L[i, k] = reflections[1, k] * W[i, k]


@kernel
def orthonormal_rows(W, reflections, O):
    """O (r, d) of W = L O, from what `householder_lq` left in W and `reflections`."""
    r, d = W.shape
    O[:] = 0.0
    for k in range(r - 1, -1, -1):
        O[k, k] = reflections[1, k]
        v = W[k]
        for i in range(k, r):
            factor = O.dtype.type(reflections[0, k]) * dot(O[i], v)
            for j in range(d):
                O[i, j] -= factor * v[j]


@kernel
def _reflect(W, k, factor):
    """Reflect the rows below row k, two at a time, so that each pass over the reflector serves both."""
    r, d = W.shape
    v = W[k]
    for i in range(k + 1, r - 1, 2):
        x, y = W[i], W[i + 1]
        product_x, product_y = W.dtype.type(0.0), W.dtype.type(0.0)
        for j in range(d):
            product_x += x[j] * v[j]
            product_y += y[j] * v[j]
        product_x *= factor
        product_y *= factor
        for j in range(d):
            x[j] -= product_x * v[j]
            y[j] -= product_y * v[j]
    if (r - k) % 2 == 0:
        x = W[r - 1]
        product_x = factor * dot(x, v)
        for j in range(d):
            x[j] -= product_x * v[j]


@kernel
def share_bartlett(row, factor, W, W_T):
    """W (q, m), lower triangular or trapezoidal, as factor times the start of a row of draws; W_T its first rows^T."""
    q, m = W.shape
    for i in range(q):
        for j in range(min(i + 1, m)):
            W[i, j] = factor * row[i * m + j]
    for i in range(W_T.shape[1]):
        for j in range(min(i + 1, m)):
            W_T[j, i] = W[i, j]


@kernel
def distance(M, N, work):
    """||M - N||_F of two contiguous matrices without underflow; `work` has their shape."""
    difference, x, y = work.reshape(-1), M.reshape(-1), N.reshape(-1)
    for i in range(x.size):
        difference[i] = x[i] - y[i]
    divisor = safe_scale(difference)
    return divisor * np.sqrt(np.float64(dot(difference, difference)))


@kernel
def safe_scale(x):
    """Divide a vector by its largest entry where its squares would leave the range of the type; the divisor, or 1."""
    small, large = (1e-20, 1e20) if x.itemsize == 4 else (1e-200, 1e200)
    if small < np.float64(dot(x, x)) < large:
        return 1.0
    largest = 0.0
    for i in range(x.size):
        largest = max(largest, abs(np.float64(x[i])))
    if largest == 0.0:
        return 1.0
    for i in range(x.size):
        x[i] /= largest  # not times 1 / largest, which overflows for a subnormal
    return largest


@kernel
def spectral_norm_squared(P, square):
    """||P||_2^2, the largest eigenvalue of P^T P by cyclic Jacobi rotations in the work space `square` (r, r)."""
    r = P.shape[0]
    for i in range(r):
        for j in range(r):
            total = 0.0
            for m in range(r):
                total += np.float64(P[m, i]) * np.float64(P[m, j])
            square[i, j] = total
    for _ in range(30):
        off, diagonal = 0.0, 0.0
        for i in range(r):
            diagonal += square[i, i] ** 2
            for j in range(i):
                off += square[i, j] ** 2
        if off <= 1e-32 * diagonal:
            break
        for p in range(r - 1):
            for q in range(p + 1, r):
                _jacobi_rotation(square, p, q)
    largest = 0.0
    for i in range(r):
        largest = max(largest, square[i, i])
    return largest


@kernel
def _jacobi_rotation(S, p, q):
    if S[p, q] == 0.0:
        return
    ratio = (S[q, q] - S[p, p]) / (2.0 * S[p, q])
    tangent = 1.0 / (abs(ratio) + np.sqrt(ratio * ratio + 1.0))
    if ratio < 0:
        tangent = -tangent
    c = 1.0 / np.sqrt(tangent * tangent + 1.0)
    s = tangent * c
    for i in range(S.shape[0]):
        a, b = S[i, p], S[i, q]
        S[i, p], S[i, q] = c * a - s * b, s * a + c * b
    for i in range(S.shape[0]):
        a, b = S[p, i], S[q, i]
        S[p, i], S[q, i] = c * a - s * b, s * a + c * b


@kernel
def dot(x, y):
    """X . y of two vectors."""
    total = x.dtype.type(0.0)
    for j in range(x.size):
        total += x[j] * y[j]
    return total


@kernel
def subtract(M, N):
    """M <- M - N."""
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] -= N[i, j]


@kernel
def subtract_and_scale(x, y, factor):
    """X <- factor (x - y) of two vectors."""
    for i in range(x.size):
        x[i] = factor * (x[i] - y[i])


@kernel
def scale(M, factor):
    """M <- factor M."""
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] *= factor


@kernel
def scale_columns(M, factors):
    """M <- M diag(factors)."""
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] *= factors[j]


@kernel
def sum_squares(M):
    """Squared Frobenius norm of M."""
    total = 0.0
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            total += M[i, j] * M[i, j]
    return total


@kernel
def weighted_sum_squares(M, weights):
    """tr(M diag(weights) M^T)."""
    total = 0.0
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            total += weights[j] * M[i, j] * M[i, j]
    return total
