"""Nothing is drawn: expectations over the law of a pair of views, the limit n -> infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from byolsim.backends.numba.layers import form_whole, online, target
from byolsim.backends.numba.linalg import leave_span, scale_columns, subtract, sum_squares, weighted_sum_squares
from byolsim.backends.numba.losses import Open
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.rules import sees_features, set_predictor, sets
from byolsim.backends.numba.samplers.open_population import (
    OpenPopulationScratch,
    open_population_scratch,
    open_population_steps,
)
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import fma, kernel
from byolsim.model.start import Start
from byolsim.model.world import World


class PopulationScratch(NamedTuple):
    """Work space of one run's step."""

    M_o: Real  # (k, q) B_o A
    M_t: Real  # (k, q + c) B_t A_plus
    D: Real  # (k, q) P M_o - M_t on the latents of x, and then D Lambda
    PB: Real  # (k, d) P B_o Pi
    weighted: np.ndarray  # (q,) a row of M_o Lambda
    inside: (
        Real  # (k, q) what an encoder has in the hole of the noise, and in all columns; of size 0 where there is none
    )
    along: Real  # (k, d)
    outside: Real  # (k, d) an encoder without it


class Population(Whole):
    """`gradients.population_residual_gradient` and what follows."""

    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        super().__init__(group, world, initial)
        dtype, k, q, d = np.dtype(group[0].dtype), group[0].k, world.q, world.d
        in_hole = 0 if world.hole is None else k
        self.kernel: Any = population_steps
        self.scratch: PopulationScratch | OpenPopulationScratch
        if isinstance(self.method.loss, Open):
            self.kernel, self.scratch = open_population_steps, open_population_scratch(group[0], world)
            return
        self.scratch = PopulationScratch(
            M_o=np.zeros((k, q), dtype),
            M_t=np.zeros((k, len(world.variances_plus)), dtype),
            D=np.zeros((k, q), dtype),
            PB=np.zeros((k, d), dtype),
            weighted=np.zeros(q),
            inside=np.zeros((in_hole, q), dtype),
            along=np.zeros((in_hole, d), dtype),
            outside=np.zeros((in_hole, d), dtype),
        )

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """Weights, their momentum and gradients, world and products."""
        return (10 * config.k + 5 * config.structured) * config.d_obs

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `population_steps`."""
        self.kernel(
            first + lo, first + hi, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.method,
            self.scratch,
        )  # fmt: skip


@kernel
def population_steps(first, end, want_loss, world, hyper, state, course, work, method, scratch):
    """Steps first, ..., end - 1."""
    now, diverged = course.now, course.diverged
    variance = work.G.dtype.type(world.sigma**2)
    for t in range(first, end):
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P, M_o, M_t, D = state.P[run], scratch.M_o, scratch.M_t, scratch.D
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            np.dot(B_o, world.A, M_o)
            np.dot(B_t, world.A_plus, M_t)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                _feature_covariance(M_o, _outside(B_o, world, scratch), variance, world.lam, scratch.weighted, work.C)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            np.dot(P, M_o, D)
            subtract(D, M_t)
            np.dot(P, B_o, scratch.PB)
            leave_span(scratch.PB, world.hole, scratch.inside, scratch.along)
            if want_loss and t == end - 1:
                now[run, LOSS] = _loss(D, M_t, B_t, world, scratch)
            # G = D Lambda A^T + sigma^2 P B_o Pi
            scale_columns(D, world.lam)
            np.dot(D, world.A.T, work.G)
            for i in range(work.G.shape[0]):
                for j in range(work.G.shape[1]):
                    work.G[i, j] = fma(variance, scratch.PB[i, j], work.G[i, j])
            np.dot(work.G, B_o.T, work.grad_P)
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _outside(B, world, scratch):
    """B Pi: B itself where no direction is without isotropic noise."""
    if world.hole.shape[1] == 0:
        return B
    scratch.outside[:] = B
    leave_span(scratch.outside, world.hole, scratch.inside, scratch.along)
    return scratch.outside


@kernel
def _loss(D, M_t, B_t, world, scratch):
    """`gradients.population_loss` from D = P M_o - M_t, M_t and P B_o Pi."""
    online, target = sum_squares(scratch.PB), sum_squares(_outside(B_t, world, scratch))
    if world.sigma == world.sigma_plus:
        noise = world.sigma**2 * (online + target)
    else:
        noise = world.sigma**2 * online + world.sigma_plus**2 * target
    alone = 0.0
    for i in range(M_t.shape[0]):
        for j in range(D.shape[1], M_t.shape[1]):
            alone += np.float64(world.lam_plus[j]) * np.float64(M_t[i, j]) ** 2
    return 0.5 * (weighted_sum_squares(D, world.lam) + noise + alone)


@kernel
def _feature_covariance(M_o, B_o, variance, lam, weighted, C):
    """C = M_o Lambda M_o^T + sigma^2 B_o B_o^T (`gradients.feature_covariances`), with B_o Pi for B_o."""
    k, q = M_o.shape
    np.dot(B_o, B_o.T, C)
    for i in range(k):
        for m in range(q):
            weighted[m] = M_o[i, m] * lam[m]
        for j in range(i + 1):
            entry = np.float64(variance * C[i, j])
            for m in range(q):
                entry = fma(weighted[m], np.float64(M_o[j, m]), entry)
            C[i, j] = entry
            C[j, i] = entry
