"""The direct form of the moments sampler: G from its moments, for encoders kept as they are (docs/moments.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.linalg import householder_lq, orthonormal_rows, share_bartlett, sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model import samplers
from byolsim.model.world import World


class DirectScratch(NamedTuple):
    """The draws that the group shares, and work space of one run's step; m = min(3r, n), c = min(r, n)."""

    n: float
    A: Real  # (d, r) A Lambda^(1/2)
    W: Real  # (3r, m) W / sqrt(n)
    W_T: Real  # (m, 2r) the same, its first rows transposed
    N: Real  # (c, d) sigma N / sqrt(n)
    reflectors: Real  # (r, d) of an encoder
    reflections: np.ndarray  # (2, r)
    Q: Real  # (r, d) orthonormal rows of B_o
    M_o: Real  # (r, r) B_o A Lambda^(1/2)
    M_t: Real  # (r, r) B_t A Lambda^(1/2)
    L_b: Real  # (r, r) of B_o
    L_t: Real  # (r, r) of B_t
    PM: Real  # (r, r) P M_o
    PL: Real  # (r, r) P L_b
    D: Real  # (r, 3r)
    F: Real  # (r, 2r)
    FW: Real  # (r, m)
    E: Real  # (r, m)
    E_reflectors: Real  # (r, m)
    factor: Real  # (r, c) C of docs/moments.md, C C^T = E E^T
    DS: Real  # (r, 2r) D S on z and u
    DS_z: Real  # (r, r)
    Y: Real  # (r, d) C N
    on_Q: Real  # (r, r) coordinates of G on the rows of Q
    along_Q: Real  # (r, d) that part of G


class Direct(Whole):
    """`moments.direct_gradient`."""

    def __init__(self, group: Sequence[RunConfig], world: World) -> None:
        super().__init__(group, world)
        self.scratch = direct_scratch(group[0], world)

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A row of draws, factors and products, weights and world."""
        r, d = config.d_latent, config.d_obs
        return 23 * r * d + 100 * r * r

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `direct_steps`."""
        direct_steps(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.memory,
            self.scratch,
        )  # fmt: skip


def direct_scratch(config: RunConfig, world: World) -> DirectScratch:
    """Work space of the direct form."""
    key, dtype, r, d = samplers.Direct(config).key, np.dtype(config.dtype), world.r, world.d
    (q, m), (c, _) = key.shapes

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    return DirectScratch(
        n=float(key.n),
        A=(world.A * np.sqrt(world.lam)).astype(dtype),
        W=real(q, m),
        W_T=real(m, 2 * r),
        N=real(c, d),
        reflectors=real(r, d),
        reflections=np.zeros((2, r)),
        Q=real(r, d),
        M_o=real(r, r),
        M_t=real(r, r),
        L_b=real(r, r),
        L_t=real(r, r),
        PM=real(r, r),
        PL=real(r, r),
        D=real(r, q),
        F=real(r, 2 * r),
        FW=real(r, m),
        E=real(r, m),
        E_reflectors=real(r, m),
        factor=real(r, c),
        DS=real(r, 2 * r),
        DS_z=real(r, r),
        Y=real(r, d),
        on_Q=real(r, r),
        along_Q=real(r, d),
    )


@kernel
def direct_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, memory, scratch):
    """Steps on a block of `streams.moment_blocks`; see `Sampler.steps`."""
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
                np.dot(scratch.FW, scratch.FW.T, work.C)
                curvature_tick(k, hyper, course, work)
            _residual_gradient(world, scratch, work.G)
            np.dot(work.G, state.B_o[k].T, work.grad_P)
            update(k, t, world.lambda_max_x, hyper, state, course, work, memory)


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
    scratch.reflectors[:] = state.B_t[k]
    householder_lq(scratch.reflectors, scratch.L_t, scratch.reflections)
    scratch.reflectors[:] = state.B_o[k]
    householder_lq(scratch.reflectors, scratch.L_b, scratch.reflections)
    orthonormal_rows(scratch.reflectors, scratch.reflections, scratch.Q)
    np.dot(state.P[k], scratch.M_o, scratch.PM)
    np.dot(state.P[k], scratch.L_b, scratch.PL)
    for i in range(r):
        for j in range(r):
            scratch.D[i, j] = scratch.PM[i, j] - scratch.M_t[i, j]
            scratch.D[i, r + j] = sigma * scratch.PL[i, j]
            scratch.D[i, 2 * r + j] = -sigma * scratch.L_t[i, j]
            scratch.F[i, j] = scratch.M_o[i, j]
            scratch.F[i, r + j] = sigma * scratch.L_b[i, j]
    np.dot(scratch.D, scratch.W, scratch.E)


@kernel
def _residual_gradient(world, scratch, G):
    """G = (D S)_z Lambda^(1/2) A^T + [sigma (D S)_u - Y Q^T] Q + Y with Y = C N, Q here (r, d)."""
    r, d = G.shape
    sigma = scratch.D.dtype.type(world.sigma)
    np.dot(scratch.E, scratch.W_T, scratch.DS)
    scratch.E_reflectors[:] = scratch.E
    householder_lq(scratch.E_reflectors, scratch.factor, scratch.reflections)
    np.dot(scratch.factor, scratch.N, scratch.Y)
    np.dot(scratch.Y, scratch.Q.T, scratch.on_Q)
    for i in range(r):
        for j in range(r):
            scratch.DS_z[i, j] = scratch.DS[i, j]
            scratch.on_Q[i, j] = sigma * scratch.DS[i, r + j] - scratch.on_Q[i, j]
    np.dot(scratch.DS_z, scratch.A.T, G)
    np.dot(scratch.on_Q, scratch.Q, scratch.along_Q)
    for i in range(r):
        for j in range(d):
            G[i, j] += scratch.along_Q[i, j] + scratch.Y[i, j]
