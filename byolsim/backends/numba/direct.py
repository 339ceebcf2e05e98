"""The direct form of the moments sampler: G from its moments, for encoders kept as they are (docs/moments.md)."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.kernels import update
from byolsim.backends.numba.linalg import householder_lq, orthonormal_rows, share_bartlett, sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS
from byolsim.machine.jit import kernel


@kernel
def direct_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, scratch):
    """Steps on the rows lo..hi-1 of a block of `streams.moment_blocks`; `moments.direct_gradient`, then SPEC 3."""
    now, diverged = course.now, course.diverged
    for s in range(lo, hi):
        _share(draws[s], world, scratch)
        t = first + s
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            _residual(k, world, state, scratch)
            if want_loss and s == hi - 1:
                now[k, LOSS] = 0.5 * np.float64(sum_squares(scratch.E))
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                np.dot(scratch.F, scratch.W[: scratch.F.shape[1]], scratch.FW)
                np.dot(scratch.FW, scratch.FW.T, scratch.C)
                curvature_tick(k, hyper, course, scratch)
            _gradient(world, scratch)
            np.dot(scratch.G, state.B_o[k].T, scratch.grad_P)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def _share(row, world, scratch):
    """W / sqrt(n) with its transpose, and sigma N / sqrt(n), from a row of draws."""
    q, m = scratch.W.shape
    c, d = scratch.N.shape
    root = 1.0 / np.sqrt(scratch.n)
    share_bartlett(row, root, scratch.W, scratch.W_T)
    factor = root * world.sigma
    for i in range(c):
        for j in range(d):
            scratch.N[i, j] = factor * row[q * m + i * d + j]


@kernel
def _residual(k, world, state, scratch):
    """D = [P M_o - M_t, sigma P L_b, -sigma L_t], E = D W / sqrt(n) and F = [M_o, sigma L_b], M = B A Lambda^(1/2)."""
    r = state.P.shape[1]
    sigma = scratch.D.dtype.type(world.sigma)
    np.dot(state.B_o[k], scratch.A, scratch.M_o)
    np.dot(state.B_t[k], scratch.A, scratch.M_t)
    scratch.B[:] = state.B_t[k]
    householder_lq(scratch.B, scratch.L_t, scratch.reflections)
    scratch.B[:] = state.B_o[k]
    householder_lq(scratch.B, scratch.L_b, scratch.reflections)
    orthonormal_rows(scratch.B, scratch.reflections, scratch.Q)
    np.dot(state.P[k], scratch.M_o, scratch.small)
    np.dot(state.P[k], scratch.L_b, scratch.C)
    for i in range(r):
        for j in range(r):
            scratch.D[i, j] = scratch.small[i, j] - scratch.M_t[i, j]
            scratch.D[i, r + j] = sigma * scratch.C[i, j]
            scratch.D[i, 2 * r + j] = -sigma * scratch.L_t[i, j]
            scratch.F[i, j] = scratch.M_o[i, j]
            scratch.F[i, r + j] = sigma * scratch.L_b[i, j]
    np.dot(scratch.D, scratch.W, scratch.E)


@kernel
def _gradient(world, scratch):
    """G = (D S)_z Lambda^(1/2) A^T + [sigma (D S)_u - Y Q^T] Q + Y with Y = C N, Q here (r, d)."""
    r, d = scratch.G.shape
    sigma = scratch.D.dtype.type(world.sigma)
    np.dot(scratch.E, scratch.W_T, scratch.DS)
    scratch.E_copy[:] = scratch.E
    householder_lq(scratch.E_copy, scratch.factor, scratch.reflections)
    np.dot(scratch.factor, scratch.N, scratch.Y)
    np.dot(scratch.Y, scratch.Q.T, scratch.small)
    for i in range(r):
        for j in range(r):
            scratch.DS_z[i, j] = scratch.DS[i, j]
            scratch.small[i, j] = sigma * scratch.DS[i, r + j] - scratch.small[i, j]
    np.dot(scratch.DS_z, scratch.A.T, scratch.G)
    np.dot(scratch.small, scratch.Q, scratch.U)
    for i in range(r):
        for j in range(d):
            scratch.G[i, j] += scratch.U[i, j] + scratch.Y[i, j]
