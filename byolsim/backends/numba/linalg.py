"""Small linear algebra for the kernels: what numba lacks or would allocate for."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.lanes import VECTOR_BYTES, load_at, total, zeros
from byolsim.machine.jit import fma, inlined, kernel


@kernel
def householder_lq(W, L, reflections):
    """L of W = L O by Householder reflections on the rows of W (r, m), which is overwritten; `linalg.lq_factor`.

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
            factor = -O.dtype.type(reflections[0, k]) * dot(O[i], v)
            for j in range(d):
                O[i, j] = fma(factor, v[j], O[i, j])


@kernel
def _reflect(W, k, factor):
    """Reflect the rows below row k, two at a time, so that each pass over the reflector serves both."""
    r, d = W.shape
    v = W[k]
    for i in range(k + 1, r - 1, 2):
        x, y = W[i], W[i + 1]
        product_x, product_y = two_dots(x, y, v)
        product_x *= -factor
        product_y *= -factor
        for j in range(d):
            x[j] = fma(product_x, v[j], x[j])
            y[j] = fma(product_y, v[j], y[j])
    if (r - k) % 2 == 0:
        x = W[r - 1]
        product_x = -factor * dot(x, v)
        for j in range(d):
            x[j] = fma(product_x, v[j], x[j])


@kernel
def leave_span(M, Q, inside, along):
    """M <- M - (M Q) Q^T for a Q (d, q) with orthonormal columns; M as it is if it has none.

    `inside` (k, q) and `along` (k, d) are work space.
    """
    if Q.shape[1] == 0:
        return
    np.dot(M, Q, inside)
    np.dot(inside, Q.T, along)
    subtract(M, along)


@kernel
def share_bartlett(row, factor, W, W_T):
    """W (white, m), lower triangular or trapezoidal, factor times the start of a row of draws; W_T its first rows^T."""
    white, m = W.shape
    for i in range(white):
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
    square[:] = 0.0
    for m in range(r):
        for i in range(r):
            for j in range(r):
                square[i, j] = fma(np.float64(P[m, i]), np.float64(P[m, j]), square[i, j])
    diagonalise(square)
    largest = 0.0
    for i in range(r):
        largest = max(largest, square[i, i])
    return largest


@kernel
def diagonalise(S):
    """Bring a symmetric S (r, r) to diagonal form by cyclic Jacobi rotations: its eigenvalues, in no order."""
    r = S.shape[0]
    for _ in range(30):
        off, diagonal = 0.0, 0.0
        for i in range(r):
            diagonal += S[i, i] ** 2
            for j in range(i):
                off += S[i, j] ** 2
        if off <= 1e-32 * diagonal:
            break
        for p in range(r - 1):
            for q in range(p + 1, r):
                _jacobi_rotation(S, p, q)


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


@inlined
def dot(x, y):
    """x . y of two contiguous vectors, in four sums of whole registers and what is left over one by one."""
    width = VECTOR_BYTES // x.itemsize
    a, b, c, d = zeros(x), zeros(x), zeros(x), zeros(x)
    j = 0
    while j + 4 * width <= x.size:
        a = fma(load_at(x, j), load_at(y, j), a)
        b = fma(load_at(x, j + width), load_at(y, j + width), b)
        c = fma(load_at(x, j + 2 * width), load_at(y, j + 2 * width), c)
        d = fma(load_at(x, j + 3 * width), load_at(y, j + 3 * width), d)
        j += 4 * width
    while j + width <= x.size:
        a = fma(load_at(x, j), load_at(y, j), a)
        j += width
    rest = x.dtype.type(0.0)
    for m in range(j, x.size):
        rest = fma(x[m], y[m], rest)
    return total((a + b) + (c + d)) + rest


@inlined
def two_dots(x, y, v):
    """The products x . v and y . v of contiguous vectors, each in two sums of whole registers."""
    width = VECTOR_BYTES // x.itemsize
    a, b, c, d = zeros(x), zeros(x), zeros(x), zeros(x)
    j = 0
    while j + 2 * width <= v.size:
        u, w = load_at(v, j), load_at(v, j + width)
        a, c = fma(load_at(x, j), u, a), fma(load_at(y, j), u, c)
        b, d = fma(load_at(x, j + width), w, b), fma(load_at(y, j + width), w, d)
        j += 2 * width
    if j + width <= v.size:
        u = load_at(v, j)
        a, c = fma(load_at(x, j), u, a), fma(load_at(y, j), u, c)
        j += width
    rest_x, rest_y = x.dtype.type(0.0), x.dtype.type(0.0)
    for m in range(j, v.size):
        rest_x, rest_y = fma(x[m], v[m], rest_x), fma(y[m], v[m], rest_y)
    return total(a + b) + rest_x, total(c + d) + rest_y


@kernel
def subtract(M, N):
    """M <- M - N."""
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] -= N[i, j]


@kernel
def subtract_and_scale(x, y, factor):
    """x <- factor (x - y) of two vectors."""
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
    """Squared Frobenius norm of M; rows are summed in its dtype and their sums in double precision."""
    square = 0.0
    for i in range(M.shape[0]):
        square += np.float64(dot(M[i], M[i]))
    return square


@kernel
def weighted_sum_squares(M, weights):
    """tr(M diag(weights) M^T)."""
    square = 0.0
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            square += weights[j] * M[i, j] * M[i, j]
    return square
