"""Products and the LQ factorisation for several runs at once, a run a lane (`lanes.py`).

Matrices of lanes are (rows, columns, lanes); a shared matrix is the same for all runs and has no lanes. Products work
on blocks of two rows by five columns, ten sums that stay in registers.
"""

from __future__ import annotations

from byolsim.backends.numba.lanes import any_outside, larger, load, sqrt, store, where_positive, zeros
from byolsim.machine.jit import fma, kernel

FULL, LOWER, UPPER = 0, 1, 2
"""Shape of a shared right factor: entries outside the triangle are 0 and are passed over."""


@kernel
def multiply(A, a, B, b, inner, C, c, columns, factor):
    """C[:, c:] = factor A[:, a:] B[:, b:] with `inner` columns of A, the first rows of B and `columns` columns."""
    rows = C.shape[0]
    for i in range(0, rows - 1, 2):
        j = 0
        while j + 5 <= columns:
            s0, s1, s2, s3, s4 = zeros(C), zeros(C), zeros(C), zeros(C), zeros(C)
            t0, t1, t2, t3, t4 = zeros(C), zeros(C), zeros(C), zeros(C), zeros(C)
            for k in range(inner):
                x, y = load(A, i, a + k), load(A, i + 1, a + k)
                u = load(B, k, b + j)
                s0, t0 = fma(x, u, s0), fma(y, u, t0)
                u = load(B, k, b + j + 1)
                s1, t1 = fma(x, u, s1), fma(y, u, t1)
                u = load(B, k, b + j + 2)
                s2, t2 = fma(x, u, s2), fma(y, u, t2)
                u = load(B, k, b + j + 3)
                s3, t3 = fma(x, u, s3), fma(y, u, t3)
                u = load(B, k, b + j + 4)
                s4, t4 = fma(x, u, s4), fma(y, u, t4)
            store(C, i, c + j, s0 * factor)
            store(C, i, c + j + 1, s1 * factor)
            store(C, i, c + j + 2, s2 * factor)
            store(C, i, c + j + 3, s3 * factor)
            store(C, i, c + j + 4, s4 * factor)
            store(C, i + 1, c + j, t0 * factor)
            store(C, i + 1, c + j + 1, t1 * factor)
            store(C, i + 1, c + j + 2, t2 * factor)
            store(C, i + 1, c + j + 3, t3 * factor)
            store(C, i + 1, c + j + 4, t4 * factor)
            j += 5
        for m in range(j, columns):
            s0, t0 = zeros(C), zeros(C)
            for k in range(inner):
                u = load(B, k, b + m)
                s0, t0 = fma(load(A, i, a + k), u, s0), fma(load(A, i + 1, a + k), u, t0)
            store(C, i, c + m, s0 * factor)
            store(C, i + 1, c + m, t0 * factor)
    if rows % 2 == 1:
        for j in range(columns):
            s0 = zeros(C)
            for k in range(inner):
                s0 = fma(load(A, rows - 1, a + k), load(B, k, b + j), s0)
            store(C, rows - 1, c + j, s0 * factor)


@kernel
def multiply_shared(A, a, S, shape, C, c, factor):
    """C[:, c:] = factor A[:, a:] S with a shared S (inner, columns) that is FULL, LOWER or UPPER."""
    rows, inner, columns = C.shape[0], S.shape[0], S.shape[1]
    for i in range(0, rows - 1, 2):
        j = 0
        while j + 5 <= columns:
            first = min(j, inner) if shape == LOWER else 0
            last = min(j + 5, inner) if shape == UPPER else inner
            s0, s1, s2, s3, s4 = zeros(C), zeros(C), zeros(C), zeros(C), zeros(C)
            t0, t1, t2, t3, t4 = zeros(C), zeros(C), zeros(C), zeros(C), zeros(C)
            for k in range(first, last):
                x, y = load(A, i, a + k), load(A, i + 1, a + k)
                s0, t0 = fma(x, S[k, j], s0), fma(y, S[k, j], t0)
                s1, t1 = fma(x, S[k, j + 1], s1), fma(y, S[k, j + 1], t1)
                s2, t2 = fma(x, S[k, j + 2], s2), fma(y, S[k, j + 2], t2)
                s3, t3 = fma(x, S[k, j + 3], s3), fma(y, S[k, j + 3], t3)
                s4, t4 = fma(x, S[k, j + 4], s4), fma(y, S[k, j + 4], t4)
            store(C, i, c + j, s0 * factor)
            store(C, i, c + j + 1, s1 * factor)
            store(C, i, c + j + 2, s2 * factor)
            store(C, i, c + j + 3, s3 * factor)
            store(C, i, c + j + 4, s4 * factor)
            store(C, i + 1, c + j, t0 * factor)
            store(C, i + 1, c + j + 1, t1 * factor)
            store(C, i + 1, c + j + 2, t2 * factor)
            store(C, i + 1, c + j + 3, t3 * factor)
            store(C, i + 1, c + j + 4, t4 * factor)
            j += 5
        for m in range(j, columns):
            s0, t0 = zeros(C), zeros(C)
            for k in range(inner):
                s0, t0 = fma(load(A, i, a + k), S[k, m], s0), fma(load(A, i + 1, a + k), S[k, m], t0)
            store(C, i, c + m, s0 * factor)
            store(C, i + 1, c + m, t0 * factor)
    if rows % 2 == 1:
        for j in range(columns):
            s0 = zeros(C)
            for k in range(inner):
                s0 = fma(load(A, rows - 1, a + k), S[k, j], s0)
            store(C, rows - 1, c + j, s0 * factor)


@kernel
def transpose(A, a, B):
    """B = A[:, a:a + rows of B]^T."""
    for i in range(B.shape[0]):
        for j in range(B.shape[1]):
            store(B, i, j, load(A, j, a + i))


@kernel
def lane_sum_squares(M, first, last):
    """Squared Frobenius norm of M[:, first:last] in each lane."""
    total = zeros(M)
    for i in range(M.shape[0]):
        total = total + _row_squares(M, i, first, last)
    return total


@kernel
def lane_lq(M, first, last):
    """Replace W = M[:, first:last] by L, lower triangular or trapezoidal with non-negative diagonal, W = L O.

    `linalg.lq_factor` of each lane, by Householder reflections, two at a time: a row below is then read and written
    once for both. Reflectors follow Golub and Van Loan, Matrix Computations, section 5.1.3, where the diagonal comes
    out non-negative without a cancellation.
    """
    reflections = min(M.shape[0], last - first)
    for k in range(0, reflections - 1, 2):
        c = first + k
        f, d = _reflector(M, k, c, last)
        _reflect_row(M, k, c, last, f, k + 1)
        g, e = _reflector(M, k + 1, c + 1, last)
        _reflect_pair(M, k, c, last, f, g)
        _finish_row(M, k, c, last, d)
        _finish_row(M, k + 1, c + 1, last, e)
    if reflections % 2 == 1:
        k = reflections - 1
        f, d = _reflector(M, k, first + k, last)
        for i in range(k + 1, M.shape[0]):
            _reflect_row(M, k, first + k, last, f, i)
        _finish_row(M, k, first + k, last, d)


@kernel
def _reflector(M, k, c, last):
    """Make row k, from column c on, the vector v of I - f v v^T that turns it into (d, 0, ..., 0); (f, d), d >= 0.

    Lanes whose squares would leave the range of the type are scaled first, this row for itself, so that rows of any
    size beside one another keep their digits. Where the row then points along its first direction to far below
    rounding, f is 0: its reciprocal might not be finite.
    """
    small, large, nothing = (1e-20, 1e20, 1e-37) if M.itemsize == 4 else (1e-200, 1e200, 1e-290)
    divisor, one = zeros(M) + 1.0, zeros(M) + 1.0
    head, tail = load(M, k, c), _row_squares(M, k, c + 1, last)
    square = fma(head, head, tail)
    if any_outside(square, small, large):
        largest = zeros(M)
        for j in range(c, last):
            largest = larger(largest, load(M, k, j))
        largest = where_positive(largest, largest, one)
        divisor = where_positive(small - square, largest, where_positive(square - large, largest, one))
        for j in range(c, last):
            store(M, k, j, load(M, k, j) / divisor)
        head, tail = load(M, k, c), _row_squares(M, k, c + 1, last)
    d = sqrt(fma(head, head, tail))
    v = where_positive(head, 0.0 - tail / (head + d), head - d)
    store(M, k, c, v)
    half = 0.0 - d * v
    return where_positive(half - nothing, 1.0 / half, zeros(M)), d * divisor


@kernel
def _row_squares(M, k, first, last):
    """Sum of squares of M[k, first:last]."""
    s, t = zeros(M), zeros(M)
    for j in range(first, last - 1, 2):
        x, y = load(M, k, j), load(M, k, j + 1)
        s, t = fma(x, x, s), fma(y, y, t)
    if (last - first) % 2 == 1:
        x = load(M, k, last - 1)
        s = fma(x, x, s)
    return s + t


@kernel
def _reflect_row(M, k, c, last, f, i):
    """Reflect row i by the reflector in row k."""
    p = zeros(M)
    for j in range(c, last):
        p = fma(load(M, k, j), load(M, i, j), p)
    p = 0.0 - p * f
    for j in range(c, last):
        store(M, i, j, fma(p, load(M, k, j), load(M, i, j)))


@kernel
def _reflect_pair(M, k, c, last, f, g):
    """Reflect all rows below row k + 1 by the reflector in row k (from column c) and then by that in row k + 1."""
    overlap = zeros(M)
    for j in range(c + 1, last):
        overlap = fma(load(M, k, j), load(M, k + 1, j), overlap)
    rows, minus_f, minus_g = M.shape[0], 0.0 - f, 0.0 - g
    for i in range(k + 2, rows - 1, 2):
        v = load(M, k, c)
        x, y = load(M, i, c), load(M, i + 1, c)
        p, r = v * x, v * y
        q, s = zeros(M), zeros(M)
        for j in range(c + 1, last):
            v, w = load(M, k, j), load(M, k + 1, j)
            x, y = load(M, i, j), load(M, i + 1, j)
            p, q = fma(v, x, p), fma(w, x, q)
            r, s = fma(v, y, r), fma(w, y, s)
        p, r = p * minus_f, r * minus_f
        q, s = fma(p, overlap, q) * minus_g, fma(r, overlap, s) * minus_g
        v = load(M, k, c)
        store(M, i, c, fma(p, v, load(M, i, c)))
        store(M, i + 1, c, fma(r, v, load(M, i + 1, c)))
        for j in range(c + 1, last):
            v, w = load(M, k, j), load(M, k + 1, j)
            store(M, i, j, fma(q, w, fma(p, v, load(M, i, j))))
            store(M, i + 1, j, fma(s, w, fma(r, v, load(M, i + 1, j))))
    if (rows - k) % 2 == 1:
        _reflect_row(M, k, c, last, f, rows - 1)
        _reflect_row(M, k + 1, c + 1, last, g, rows - 1)


@kernel
def _finish_row(M, k, c, last, d):
    """Put (d, 0, ..., 0) in place of the reflector of row k."""
    store(M, k, c, d)
    for j in range(c + 1, last):
        store(M, k, j, zeros(M))
