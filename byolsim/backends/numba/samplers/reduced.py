"""The reduced form of the moments sampler: steps whose cost depends neither on n nor on d (docs/moments.md).

The state of a run is its predictor and the coordinates X = [B_o; V_B; B_t] (3k, q + 4k) of its encoders and of the
momentum buffer: q columns inside the structured subspace, 3k in orthonormal directions outside of it that are never
formed, lower triangular in the order of the rows, and k columns for the fresh directions of a step, 0 between steps.
Runs are lanes (`lanes.py`). `moments.reduced_gradient`, `reduced_gradients` and `retriangulate` are the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byolsim.backends.numba import lane_layers, packing, rules, structures
from byolsim.backends.numba.lane_layers import (
    above,
    above_square,
    check_whole,
    form_whole,
    gradient_of_whole,
    move_upper,
    note_largest,
    online,
    target,
    through,
    through_square,
    to_layers,
)
from byolsim.backends.numba.lane_linalg import (
    lane_lq,
    lane_sum_squares,
)
from byolsim.backends.numba.lanes import lane_count, load, store, where_positive, zeros
from byolsim.backends.numba.layers import initial_layers
from byolsim.backends.numba.losses import first_layer_gain, gain_bound, loss_of
from byolsim.backends.numba.method import Method
from byolsim.backends.numba.rates import (
    beta_may_be_cut,
    check_divergence,
    curvature_tick,
    is_bounded,
    set_clock,
    set_rates,
)
from byolsim.backends.numba.rules import follow_in_lane, follows, learns, sees_features, set_in_lane, sets
from byolsim.backends.numba.samplers.base import Sampler
from byolsim.backends.numba.samplers.reduced_arrays import (
    ReducedLogScratch,
    in_lanes,
    initial_reduced_state,
    reduced_scratch,
    reduced_world,
    whole_packs,
)
from byolsim.backends.numba.samplers.reduced_gradient import (
    feature_covariance,
    features,
    gradients,
    residual,
    share,
)
from byolsim.backends.numba.samplers.reduced_snapshot import reduced_snapshot
from byolsim.backends.numba.structures import (
    ALPHA,
    ALPHA_T,
    AUTO_EVERY,
    BETA,
    BETA_T,
    ENC_EVERY,
    ETA_B,
    ETA_P,
    KEEP,
    LOSS,
    MU_B,
    MU_P,
    PRED_EVERY,
    SQUARE_B,
    SQUARE_P,
    TAU,
    TAU_T,
    TIMED,
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
        self.method = Method(
            rules.initial_memory(rules.At(packs, P, world, rules.reduced_rows(world, k), initial)),
            lane_layers.in_lanes(initial_layers(packs, world, 0, initial), lane_count(config.dtype), q),
            loss_of(config, 0),
        )
        self.state.P[:] = in_lanes(P, P.dtype)  # a rule may have set it
        self.course = packing.initial_course(packs, P, B_o, initial)
        self.work = packing.work_arrays(config, 0)
        self.scratch = reduced_scratch(config)
        self._log_scratch = ReducedLogScratch(
            is_deep=config.depth > 1,
            square=np.zeros((k, k)),
            outside=np.zeros((k, 3 * k)),
            online=np.zeros((k, q + 3 * k)),
            target=np.zeros((k, q + 3 * k)),
            difference=np.zeros((k, q + 3 * k)),
            reflections=np.zeros((2, k)),
        )

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """An encoder while its coordinates are taken, and what a step needs of coordinates."""
        k, q, d = config.k, config.structured, config.d_obs
        return 8 * k * d + 34 * k * (k + 2 * q)

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `reduced_steps`."""
        reduced_steps(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.method,
            self.scratch,
        )  # fmt: skip

    def end(self, run: int, epoch: int) -> Start:
        """See `Sampler.end`: coordinates without the fresh directions, which hold 0 between steps."""
        p, lane = divmod(run, self.scratch.lanes)
        P, V_P, X, lost = (M[p, :, :, lane].astype(np.float64) for M in self.state[:4])
        k = len(P)
        B_o, V_B, B_t = np.split(X[:, :-k], 3)
        return Start(
            P, V_P, B_o, V_B, B_t, epoch,
            **lane_layers.upper_of_lane(p, lane, self.method.layers),
            lost=lost if lost.any() else None,
            curvature=packing.curvature_of(run, self.course),
            memory=rules.memory_of(run, self.method.rule),
        )  # fmt: skip

    def snapshot(self, row: int, log: structures.Log) -> None:
        """See `reduced_snapshot`."""
        reduced_snapshot(row, self.scratch.lanes, self.state, self.course, self.method.layers, self._log_scratch, log)


@kernel
def reduced_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, scratch):
    """Steps on a block of `streams.moment_blocks`; see `Sampler.steps`."""
    lanes, q = scratch.lanes, world.L_x.shape[0]
    now, diverged, clips, squares = course.now, course.diverged, course.clips, scratch.squares
    auto_every, pred_every, enc_every = int(hyper[0, AUTO_EVERY]), int(hyper[0, PRED_EVERY]), int(hyper[0, ENC_EVERY])
    for s in range(lo, hi):
        share(draws[s], world, scratch)
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
            form_whole(p, X, method.layers)
            E_o = online(X, method.layers)
            E_t = target(X, method.layers)
            features(E_o, world, scratch)
            if tick or sees_features(method.rule):
                feature_covariance(scratch)
            if sets(method.rule):
                for lane in range(lanes):
                    if diverged[start + lane] < 0:
                        set_in_lane(start + lane, t, lane, P, E_o, E_t, scratch.C, scratch, work.C, now, method.rule)
            residual(P, E_o, E_t, world, scratch)
            if want_loss and s == hi - 1:
                store(scratch.loss, 0, 0, 0.5 * lane_sum_squares(scratch.E, 0, scratch.E.shape[1]))
                for lane in range(lanes):
                    now[start + lane, LOSS] = scratch.loss[0, 0, lane]
            if tick:
                _ticks(start, hyper, course, work, scratch)
            PU = through(P, method.layers)
            for lane in range(lanes):
                run = start + lane
                if sets(method.rule) and diverged[run] < 0 and not is_bounded(run, now):  # a rule may set any P
                    diverged[run] = t
                if diverged[run] < 0:
                    set_clock(run, t, hyper, now)
                    squares_of = through_square(run, lane, now, method.layers), above_square(lane, method.layers)
                    gain = gain_bound(squares_of[0], squares_of[1], method.loss)
                    may_be_cut = beta_may_be_cut(run, gain, world.lambda_max_x, hyper, now)
                    if may_be_cut:
                        _copy_lane(PU, lane, scratch.P)
                        U = above(P, method.layers)
                        _copy_lane(U, lane, scratch.U[: U.shape[0]])
                        gain = first_layer_gain(scratch.P, scratch.U[: U.shape[0]], work.square, method.loss)
                    set_rates(run, gain, may_be_cut, world.lambda_max_x, work.square, hyper, now, clips, course)
                    if hyper[run, TIMED] > 0:
                        factors[TAU, 0, lane], factors[KEEP, 0, lane] = now[run, TAU_T], 1.0 - now[run, TAU_T]
                factors[ALPHA, 0, lane] = now[run, ALPHA_T]
                factors[BETA, 0, lane] = now[run, BETA_T]
            gradients(P, gradient_of_whole(scratch.grad_B, method.layers), world, scratch, method.loss)
            to_layers(p, X, scratch.grad_B, method.layers)
            if pred_steps and learns(method.rule):
                store(squares, 0, 0, _predictor_step(P, state.V_P[p], scratch.grad_P, factors))
            store(squares, 1, 0, _encoder_step(X, lost, scratch.grad_B, factors, enc_steps))
            move_upper(p, factors, enc_steps, method.layers)
            for lane in range(lanes):
                run = start + lane
                if diverged[run] < 0:
                    if pred_steps and learns(method.rule):
                        now[run, SQUARE_P] = squares[0, 0, lane]
                    if follows(method.rule):
                        follow_in_lane(run, P, lane, scratch.P, now, method.rule)
                    if enc_steps:
                        now[run, SQUARE_B] = squares[1, 0, lane]
                        note_largest(run, lane, now, method.layers)
                    check_divergence(run, t, now, diverged)
            if enc_steps:
                lane_lq(X, q, X.shape[1])
            check_whole(p, start, t, X, diverged, method.layers)


@kernel
def _ticks(start, hyper, course, work, scratch):
    """The curvature estimate of each run of a pack."""
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
def _predictor_step(P, V, gradient, factors):
    """Heavy ball on P; the new squared norm of each lane."""
    minus_alpha, mu, eta = 0.0 - load(factors, ALPHA, 0), load(factors, MU_P, 0), load(factors, ETA_P, 0)
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
        minus_beta, mu, eta = 0.0 - load(factors, BETA, 0), load(factors, MU_B, 0), load(factors, ETA_B, 0)
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
