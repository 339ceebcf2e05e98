"""The direct form of the moments sampler: G from its moments, for encoders kept as they are (docs/moments.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.layers import form_whole, online, target
from byolsim.backends.numba.linalg import householder_lq, leave_span, orthonormal_rows, share_bartlett, sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.rules import sees_features, set_predictor, sets
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model import samplers
from byolsim.model.start import Start
from byolsim.model.world import World


class DirectScratch(NamedTuple):
    """The draws that the group shares, and work space of one run's step; m = min(q + 2k, n), c = min(k, n).

    x+ has p latents of its own.
    """

    n: float
    A: Real  # (d, q) A Lambda^(1/2)
    A_plus: Real  # (d, q + p) A_plus Lambda_plus^(1/2)
    W: Real  # (q + 2k, m) W / sqrt(n)
    W_T: Real  # (m, q + k) the same, its first rows transposed
    N: Real  # (c, d) sigma N / sqrt(n)
    reflectors: Real  # (k, d) of an encoder
    reflections: np.ndarray  # (2, k)
    Q: Real  # (k, d) orthonormal rows of B_o Pi
    M_o: Real  # (k, q) B_o A Lambda^(1/2)
    M_t: Real  # (k, q + p) B_t A_plus Lambda_plus^(1/2)
    L_b: Real  # (k, k) of B_o Pi
    L_t: Real  # (k, k) of B_t Pi, or L_w where p > 0
    alone: Real  # (k, p + k) what x+ has alone, [M_t on its own latents, sigma_plus L_t], and then its reflectors
    PM: Real  # (k, q) P M_o
    PL: Real  # (k, k) P L_b
    D: Real  # (k, q + 2k)
    F: Real  # (k, q + k)
    FW: Real  # (k, m)
    E: Real  # (k, m)
    E_reflectors: Real  # (k, m)
    factor: Real  # (k, c) C of docs/moments.md, C C^T = E E^T
    DS: Real  # (k, q + k) D S on g and u
    DS_g: Real  # (k, q)
    Y: Real  # (k, d) C N
    on_Q: Real  # (k, k) coordinates of G on the rows of Q
    along_Q: Real  # (k, d) that part of G
    inside: Real  # (k, q) what rows have in the hole of the noise; of size 0 where there is none
    along: Real  # (k, d) the same in all columns


class Direct(Whole):
    """`moments.direct_gradient`."""

    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        super().__init__(group, world, initial)
        self.scratch = direct_scratch(group[0], world)

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A row of draws, factors and products, weights and world."""
        k, q, d = config.k, config.structured, config.d_obs
        return (15 * k + 8 * q) * d + 34 * k * (k + 2 * q)

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `direct_steps`."""
        direct_steps(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.method,
            self.scratch,
        )  # fmt: skip


def direct_scratch(config: RunConfig, world: World) -> DirectScratch:
    """Work space of the direct form."""
    key, dtype = samplers.Direct(config).key, np.dtype(config.dtype)
    k, q, d, p = config.k, world.q, world.d, len(world.variances_plus) - world.q
    (white, m), (c, _) = key.shapes
    in_hole = 0 if world.hole is None else k

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    return DirectScratch(
        n=float(key.n),
        A=np.ascontiguousarray(world.A * np.sqrt(world.lam), dtype),
        A_plus=np.ascontiguousarray(world.loadings_plus * np.sqrt(world.variances_plus), dtype),
        W=real(white, m),
        W_T=real(m, q + k),
        N=real(c, d),
        reflectors=real(k, d),
        reflections=np.zeros((2, k)),
        Q=real(k, d),
        M_o=real(k, q),
        M_t=real(k, q + p),
        L_b=real(k, k),
        L_t=real(k, k),
        alone=real(k, p + k),
        PM=real(k, q),
        PL=real(k, k),
        D=real(k, white),
        F=real(k, q + k),
        FW=real(k, m),
        E=real(k, m),
        E_reflectors=real(k, m),
        factor=real(k, c),
        DS=real(k, q + k),
        DS_g=real(k, q),
        Y=real(k, d),
        on_Q=real(k, k),
        along_Q=real(k, d),
        inside=real(in_hole, q),
        along=real(in_hole, d),
    )


@kernel
def direct_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, scratch):
    """Steps on a block of `streams.moment_blocks`; see `Sampler.steps`."""
    now, diverged, hole, sigma, sigma_plus = course.now, course.diverged, world.hole, world.sigma, world.sigma_plus
    for s in range(lo, hi):
        _share(draws[s], sigma, scratch)
        t = first + s
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = state.P[run]
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            if sees_features(method.rule):
                _residual(P, B_o, B_t, sigma, sigma_plus, hole, scratch)  # for F, whatever P is
                _feature_covariance(scratch, work.C)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            _residual(P, B_o, B_t, sigma, sigma_plus, hole, scratch)
            if want_loss and s == hi - 1:
                now[run, LOSS] = 0.5 * np.float64(sum_squares(scratch.E))
            if (t - 1) % int(hyper[run, AUTO_EVERY]) == 0:
                _feature_covariance(scratch, work.C)
                curvature_tick(run, hyper, course, work)
            _residual_gradient(sigma, hole, scratch, work.G)
            np.dot(work.G, B_o.T, work.grad_P)
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _share(row, sigma, scratch):
    """W / sqrt(n) with its transpose, and sigma N / sqrt(n), from a row of draws."""
    white, m = scratch.W.shape
    c, d = scratch.N.shape
    root = 1.0 / np.sqrt(scratch.n)
    share_bartlett(row, root, scratch.W, scratch.W_T)
    factor = root * sigma
    for i in range(c):
        for j in range(d):
            scratch.N[i, j] = factor * row[white * m + i * d + j]


@kernel
def _feature_covariance(scratch, C):
    """C = F S F^T."""
    np.dot(scratch.F, scratch.W[: scratch.F.shape[1]], scratch.FW)
    np.dot(scratch.FW, scratch.FW.T, C)


@kernel
def _residual(P, B_o, B_t, sigma, sigma_plus, hole, scratch):
    """D = [P M_o - M_t, sigma P L_b, -L_w], E = D W / sqrt(n) and F = [M_o, sigma L_b], M = B A Lambda^(1/2)."""
    (k, q), has_hole = scratch.M_o.shape, hole.shape[1] > 0
    np.dot(B_o, scratch.A, scratch.M_o)
    np.dot(B_t, scratch.A_plus, scratch.M_t)
    scratch.reflectors[:] = B_t
    if has_hole:
        leave_span(scratch.reflectors, hole, scratch.inside, scratch.along)
    householder_lq(scratch.reflectors, scratch.L_t, scratch.reflections)
    on_w = scratch.D.dtype.type(-sigma_plus)
    if scratch.M_t.shape[1] > q:
        _factor_alone(sigma_plus, scratch)
        on_w = scratch.D.dtype.type(-1.0)
    scratch.reflectors[:] = B_o
    if has_hole:
        leave_span(scratch.reflectors, hole, scratch.inside, scratch.along)
    householder_lq(scratch.reflectors, scratch.L_b, scratch.reflections)
    orthonormal_rows(scratch.reflectors, scratch.reflections, scratch.Q)
    np.dot(P, scratch.M_o, scratch.PM)
    np.dot(P, scratch.L_b, scratch.PL)
    noise = scratch.D.dtype.type(sigma)
    for i in range(k):
        for j in range(q):
            scratch.D[i, j] = scratch.PM[i, j] - scratch.M_t[i, j]
            scratch.F[i, j] = scratch.M_o[i, j]
        for j in range(k):
            scratch.D[i, q + j] = noise * scratch.PL[i, j]
            scratch.D[i, q + k + j] = on_w * scratch.L_t[i, j]
            scratch.F[i, q + j] = noise * scratch.L_b[i, j]
    np.dot(scratch.D, scratch.W, scratch.E)


@kernel
def _factor_alone(sigma_plus, scratch):
    """L_w, the factor of [M_t on the latents that x+ has alone, sigma_plus L_t], in place of L_t."""
    k, q = scratch.M_o.shape
    p = scratch.M_t.shape[1] - q
    noise = scratch.L_t.dtype.type(sigma_plus)
    for i in range(k):
        for j in range(p):
            scratch.alone[i, j] = scratch.M_t[i, q + j]
        for j in range(k):
            scratch.alone[i, p + j] = noise * scratch.L_t[i, j]
    householder_lq(scratch.alone, scratch.L_t, scratch.reflections)


@kernel
def _residual_gradient(sigma, hole, scratch, G):
    """G = (D S)_g Lambda^(1/2) A^T + ([sigma (D S)_u - Y Q^T] Q + Y) Pi with Y = C N, Q here (k, d)."""
    d = G.shape[1]
    k, q = scratch.M_o.shape
    noise = scratch.D.dtype.type(sigma)
    np.dot(scratch.E, scratch.W_T, scratch.DS)
    scratch.E_reflectors[:] = scratch.E
    householder_lq(scratch.E_reflectors, scratch.factor, scratch.reflections)
    np.dot(scratch.factor, scratch.N, scratch.Y)
    np.dot(scratch.Y, scratch.Q.T, scratch.on_Q)
    for i in range(k):
        for j in range(q):
            scratch.DS_g[i, j] = scratch.DS[i, j]
        for j in range(k):
            scratch.on_Q[i, j] = noise * scratch.DS[i, q + j] - scratch.on_Q[i, j]
    np.dot(scratch.DS_g, scratch.A.T, G)
    np.dot(scratch.on_Q, scratch.Q, scratch.along_Q)
    if hole.shape[1] > 0:
        leave_span(scratch.along_Q, hole, scratch.inside, scratch.along)
        leave_span(scratch.Y, hole, scratch.inside, scratch.along)
    for i in range(k):
        for j in range(d):
            G[i, j] += scratch.along_Q[i, j] + scratch.Y[i, j]
