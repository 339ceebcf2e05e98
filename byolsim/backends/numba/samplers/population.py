"""Nothing is drawn: expectations over the law of a pair of views, the limit n -> infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.linalg import scale_columns, subtract, sum_squares, weighted_sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import fma, kernel
from byolsim.model.world import World


class PopulationScratch(NamedTuple):
    """Work space of one run's step."""

    M_o: Real  # (r, r) B_o A
    M_t: Real  # (r, r) B_t A
    D: Real  # (r, r) P M_o - M_t, and then D Lambda
    PB: Real  # (r, d) P B_o
    weighted: np.ndarray  # (r,) a row of M_o Lambda


class Population(Whole):
    """`gradients.population_residual_gradient` and what follows."""

    def __init__(self, group: Sequence[RunConfig], world: World) -> None:
        super().__init__(group, world)
        dtype, r = np.dtype(group[0].dtype), world.r
        self.scratch = PopulationScratch(
            M_o=np.zeros((r, r), dtype),
            M_t=np.zeros((r, r), dtype),
            D=np.zeros((r, r), dtype),
            PB=np.zeros((r, world.d), dtype),
            weighted=np.zeros(r),
        )

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """Weights, their momentum and gradients, world and products."""
        return 15 * config.d_latent * config.d_obs

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `population_steps`."""
        population_steps(
            first + lo, first + hi, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.memory,
            self.scratch,
        )  # fmt: skip


@kernel
def population_steps(first, end, want_loss, world, hyper, state, course, work, memory, scratch):
    """Steps first, ..., end - 1."""
    now, diverged = course.now, course.diverged
    variance = work.G.dtype.type(world.sigma**2)
    for t in range(first, end):
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            P, M_o, M_t, D = state.P[k], scratch.M_o, scratch.M_t, scratch.D
            np.dot(state.B_o[k], world.A, M_o)
            np.dot(state.B_t[k], world.A, M_t)
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                _feature_covariance(M_o, state.B_o[k], variance, world.lam, scratch.weighted, work.C)
                curvature_tick(k, hyper, course, work)
            np.dot(P, M_o, D)
            subtract(D, M_t)
            np.dot(P, state.B_o[k], scratch.PB)
            if want_loss and t == end - 1:
                noise = sum_squares(scratch.PB) + sum_squares(state.B_t[k])
                now[k, LOSS] = 0.5 * (weighted_sum_squares(D, world.lam) + world.sigma**2 * noise)
            # G = D Lambda A^T + sigma^2 P B_o
            scale_columns(D, world.lam)
            np.dot(D, world.A.T, work.G)
            for i in range(work.G.shape[0]):
                for j in range(work.G.shape[1]):
                    work.G[i, j] = fma(variance, scratch.PB[i, j], work.G[i, j])
            np.dot(work.G, state.B_o[k].T, work.grad_P)
            update(k, t, world.lambda_max_x, hyper, state, course, work, memory)


@kernel
def _feature_covariance(M_o, B_o, variance, lam, weighted, C):
    """C = M_o Lambda M_o^T + sigma^2 B_o B_o^T (`gradients.feature_covariances`)."""
    r = M_o.shape[0]
    np.dot(B_o, B_o.T, C)
    for i in range(r):
        for m in range(r):
            weighted[m] = M_o[i, m] * lam[m]
        for j in range(i + 1):
            entry = np.float64(variance * C[i, j])
            for m in range(r):
                entry = fma(weighted[m], np.float64(M_o[j, m]), entry)
            C[i, j] = entry
            C[j, i] = entry
