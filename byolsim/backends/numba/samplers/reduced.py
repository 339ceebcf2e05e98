"""The reduced form of the moments sampler: steps whose cost depends neither on n nor on d (docs/moments.md).

The state of a run is its predictor and the coordinates X = [B_o; V_B; B_t] (3k, q + 4k) of its encoders and of the
momentum buffer: q columns inside the structured subspace, 3k in orthonormal directions outside of it that are never
formed, lower triangular in the order of the rows, and k columns for the fresh directions of a step, 0 between steps.
Runs are lanes (`lanes.py`). `moments.reduced_gradient`, `reduced_gradients` and `retriangulate` are the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byolsim.backends.numba import packing, rules, structures
from byolsim.backends.numba.lane_linalg import (
    FULL,
    LOWER,
    UPPER,
    lane_lq,
    lane_sum_squares,
    multiply,
    multiply_shared,
    transpose,
)
from byolsim.backends.numba.lanes import load, store, where_positive, zeros
from byolsim.backends.numba.linalg import share_bartlett
from byolsim.backends.numba.rates import beta_may_be_cut, check_divergence, curvature_tick, set_rates
from byolsim.backends.numba.rules import follow_in_lane
from byolsim.backends.numba.samplers.base import Sampler
from byolsim.backends.numba.samplers.reduced_arrays import (
    initial_reduced_state,
    reduced_scratch,
    reduced_world,
    whole_packs,
)
from byolsim.backends.numba.samplers.reduced_log import log_scratch, reduced_snapshot
from byolsim.backends.numba.structures import (
    ALPHA,
    ALPHA_T,
    AUTO_EVERY,
    BETA,
    BETA_T,
    ENC_EVERY,
    ETA,
    KEEP,
    LOSS,
    MU_B,
    MU_P,
    PRED_EVERY,
    SQUARE_B,
    SQUARE_P,
    TAU,
)  # fmt: skip
from byolsim.config.run import RunConfig
from byolsim.machine.jit import fma, kernel
from byolsim.model.start import Start
from byolsim.model.world import World


class Reduced(Sampler):
    """Packs of runs, a run a lane; the last pack is filled with copies of the last run."""

    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        packs, config, k, q = whole_packs(group), group[0], group[0].k, world.q
        self.world = reduced_world(config, world)
        self.hyper = packing.hyperparameters(packs)
        self.state = initial_reduced_state(packs, world, initial)
        P = np.moveaxis(self.state.P, 3, 1).reshape(len(packs), k, k)
        B_o = np.moveaxis(self.state.X[:, :k], 3, 1).reshape(len(packs), k, q + 4 * k)
        self.course = packing.initial_course(packs, P, B_o, initial)
        self.memory = rules.initial_memory(packs, P)
        self.work = packing.work_arrays(config, 0)
        self.scratch = reduced_scratch(config)
        self._log_scratch = log_scratch(k, q)

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """An encoder while its coordinates are taken, and what a step needs of coordinates."""
        k, q, d = config.k, config.structured, config.d_obs
        return 8 * k * d + 34 * k * (k + 2 * q)

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `reduced_steps`."""
        reduced_steps(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.memory,
            self.scratch,
        )  # fmt: skip

    def end(self, run: int, epoch: int) -> Start:
        """See `Sampler.end`: coordinates without the fresh directions, which hold 0 between steps."""
        p, lane = divmod(run, self.scratch.lanes)
        P, V_P, X, lost = (M[p, :, :, lane].astype(np.float64) for M in self.state[:4])
        k = len(P)
        B_o, V_B, B_t = np.split(X[:, :-k], 3)
        curvature = packing.curvature_of(run, self.course)
        return Start(P, V_P, B_o, V_B, B_t, epoch, lost=lost if lost.any() else None, curvature=curvature)

    def snapshot(self, row: int, log: structures.Log) -> None:
        """See `reduced_snapshot`."""
        reduced_snapshot(row, self.scratch.lanes, self.state, self.course, self._log_scratch, log)


@kernel
def reduced_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, memory, scratch):
    """Steps on a block of `streams.moment_blocks`; see `Sampler.steps`."""
    lanes, q = scratch.lanes, world.L_x.shape[0]
    now, diverged, clips, squares = course.now, course.diverged, course.clips, scratch.squares
    auto_every, pred_every, enc_every = int(hyper[0, AUTO_EVERY]), int(hyper[0, PRED_EVERY]), int(hyper[0, ENC_EVERY])
    for s in range(lo, hi):
        _share(draws[s], world, scratch)
        t = first + s
        tick, pred_steps, enc_steps = (t - 1) % auto_every == 0, t % pred_every == 0, t % enc_every == 0
        for p in range(state.P.shape[0]):
            start = p * lanes
            alive = False
            for lane in range(lanes):
                alive |= diverged[start + lane] < 0
            if not alive:
                continue
            P, X, lost, factors = state.P[p], state.X[p], state.lost[p], state.factors[p]
            _residual(P, X, world, scratch)
            if want_loss and s == hi - 1:
                store(scratch.loss, 0, 0, 0.5 * lane_sum_squares(scratch.E, 0, scratch.E.shape[1]))
                for lane in range(lanes):
                    now[start + lane, LOSS] = scratch.loss[0, 0, lane]
            if tick:
                _ticks(start, hyper, course, work, scratch)
            for lane in range(lanes):
                run = start + lane
                if diverged[run] < 0:
                    may_be_cut = beta_may_be_cut(run, world.lambda_max_x, hyper, now)
                    if may_be_cut:
                        _copy_lane(P, lane, scratch.P)
                    set_rates(run, scratch.P, may_be_cut, world.lambda_max_x, work.square, hyper, now, clips)
                factors[ALPHA, 0, lane] = now[run, ALPHA_T]
                factors[BETA, 0, lane] = now[run, BETA_T]
            _gradients(P, X, world, scratch)
            if pred_steps:
                store(squares, 0, 0, _predictor_step(P, state.V_P[p], scratch.grad_P, factors))
            store(squares, 1, 0, _encoder_step(X, lost, scratch.grad_B, factors, enc_steps))
            for lane in range(lanes):
                run = start + lane
                if diverged[run] < 0:
                    if pred_steps:
                        now[run, SQUARE_P] = squares[0, 0, lane]
                    follow_in_lane(run, P, lane, scratch.P, now, memory)
                    if enc_steps:
                        now[run, SQUARE_B] = squares[1, 0, lane]
                    check_divergence(run, t, now, diverged)
            if enc_steps:
                lane_lq(X, q, X.shape[1])


@kernel
def _ticks(start, hyper, course, work, scratch):
    """The curvature estimate of each run of a pack."""
    _feature_covariance(scratch)
    for lane in range(scratch.lanes):
        if course.diverged[start + lane] < 0:
            _copy_lane(scratch.C, lane, work.C)
            curvature_tick(start + lane, hyper, course, work)


@kernel
def _copy_lane(M, lane, out):
    """One run's matrix."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = M[i, j, lane]


@kernel
def _share(row, world, scratch):
    """W / sqrt(n) with its transpose, and sigma N / sqrt(n), from a row of draws."""
    white, m = scratch.W.shape
    root = 1.0 / np.sqrt(scratch.n)
    share_bartlett(row, root, scratch.W, scratch.W_T)
    c, columns = scratch.N.shape
    k = columns // 3
    factor = root * world.sigma
    for i in range(c):
        for j in range(2 * k + i + 1):
            scratch.N[i, j] = factor * row[white * m + i * columns + j]


@kernel
def _residual(P, X, world, scratch):
    """D = [P b_o L_x - b_t M, sigma P L_oo, -L_w] and E = D W / sqrt(n); delta = D xi."""
    k, q = scratch.a_o.shape[0], scratch.a_o.shape[1]
    D, a_o, L_w, bM = scratch.D, scratch.a_o, scratch.L_w, scratch.bM
    b_t = X[2 * k :]
    multiply_shared(X, 0, world.L_x, LOWER, a_o, 0, 1.0)
    multiply(P, 0, a_o, 0, k, D, 0, q, 1.0)
    multiply_shared(b_t, 0, world.M, FULL, bM, 0, 1.0)
    multiply(P, 0, X, q, k, D, q, k, world.sigma)
    multiply_shared(b_t, 0, world.root, LOWER, L_w, 0, 1.0)
    for i in range(k):
        for j in range(q):
            store(D, i, j, load(D, i, j) - load(bM, i, j))
        for j in range(q, q + 3 * k):
            store(L_w, i, j, load(b_t, i, j) * world.ratio)
    lane_lq(L_w, 0, q + 3 * k)
    for i in range(k):
        for j in range(k):
            store(D, i, q + k + j, load(L_w, i, j) * -world.scale)
    multiply_shared(D, 0, scratch.W, LOWER, scratch.E, 0, 1.0)
    # For the feature covariance: F = [a_o, sigma L_oo].
    for i in range(k):
        for j in range(q):
            store(scratch.F, i, j, load(a_o, i, j))
        for j in range(q, q + k):
            store(scratch.F, i, j, load(X, i, j) * world.sigma)


@kernel
def _feature_covariance(scratch):
    """(1/n) sum z_o z_o^T = F S F^T of each lane, into C."""
    width = scratch.FW.shape[1]
    multiply_shared(scratch.F, 0, scratch.W_top, LOWER, scratch.FW, 0, 1.0)
    transpose(scratch.FW, 0, scratch.FW_T)
    multiply(scratch.FW, 0, scratch.FW_T, 0, width, scratch.C, 0, scratch.C.shape[1], 1.0)


@kernel
def _gradients(P, X, world, scratch):
    """G = [G inside, on O_1, on the rest] (k, q + 4k), grad_P = G [b_o, L_o]^T and grad_B = P^T G, without decay."""
    k, q = scratch.a_o.shape[0], scratch.a_o.shape[1]
    G = scratch.G
    multiply_shared(scratch.E, 0, scratch.W_T, UPPER, scratch.DS, 0, 1.0)
    multiply_shared(scratch.DS, 0, world.L_x_T, UPPER, G, 0, 1.0)
    for i in range(k):
        for j in range(q, q + k):
            value = load(scratch.DS, i, j) * world.sigma
            store(G, i, j, value)
    transpose(scratch.F, 0, scratch.F_T)
    multiply(scratch.DS, 0, scratch.F_T, 0, q + k, scratch.grad_P, 0, k, 1.0)
    lane_lq(scratch.E, 0, scratch.E.shape[1])
    multiply_shared(scratch.E, 0, scratch.N, FULL, G, q + k, 1.0)
    transpose(P, 0, scratch.P_T)
    multiply(scratch.P_T, 0, G, 0, k, scratch.grad_B, 0, q + 4 * k, 1.0)


@kernel
def _predictor_step(P, V, gradient, factors):
    """Heavy ball on P; the new squared norm of each lane."""
    minus_alpha, mu, eta = 0.0 - load(factors, ALPHA, 0), load(factors, MU_P, 0), load(factors, ETA, 0)
    square = zeros(P)
    for i in range(P.shape[0]):
        for j in range(P.shape[1]):
            old = load(P, i, j)
            v = fma(mu, load(V, i, j), fma(eta, old, load(gradient, i, j)))
            store(V, i, j, v)
            new = fma(minus_alpha, v, old)
            store(P, i, j, new)
            square = fma(new, new, square)
    return square


@kernel
def _encoder_step(X, lost, gradient, factors, enc_steps):
    """Heavy ball on B_o where it moves, and the EMA; the new squared norm of B_o of each lane where it moves."""
    k, columns = gradient.shape[0], X.shape[1]
    square = zeros(X)
    if enc_steps:
        minus_beta, mu, eta = 0.0 - load(factors, BETA, 0), load(factors, MU_B, 0), load(factors, ETA, 0)
        for i in range(k):
            for j in range(columns):
                old = load(X, i, j)
                v = fma(mu, load(X, k + i, j), fma(eta, old, load(gradient, i, j)))
                store(X, k + i, j, v)
                new = fma(minus_beta, v, old)
                store(X, i, j, new)
                square = fma(new, new, square)
    _average(X, lost, factors)
    return square


@kernel
def _average(X, lost, factors):
    """`step._average` of each lane. Fresh directions start from 0 and lose nothing.

    `lost` is not turned with the other outside columns: a step turns them by little, and it is less than a rounding.
    """
    k, columns = X.shape[0] // 3, X.shape[1]
    tau, keep = load(factors, TAU, 0), load(factors, KEEP, 0)
    kept = lost.shape[1]
    for i in range(k):
        for j in range(columns):
            new, old = load(X, i, j), load(X, 2 * k + i, j)
            step = tau * (new - old)
            if j < kept:
                step = step - load(lost, i, j)
            slow, fast = old + step, fma(keep, old - new, new)
            if j < kept:
                store(lost, i, j, where_positive(0.5 - tau, (slow - old) - step, zeros(X)))
            store(X, 2 * k + i, j, where_positive(0.5 - tau, slow, fast))
