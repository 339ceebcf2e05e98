"""Every sample of a minibatch is drawn; samples are the columns of X and X+, (d, n).

A step computes with the samples, or with their second moments where that is cheaper: two kernels, each with a plain
form of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from byolsim.backends.base import TINY
from byolsim.backends.numba.layers import form_whole, online, target
from byolsim.backends.numba.linalg import dot, scale, subtract, subtract_and_scale, sum_squares
from byolsim.backends.numba.losses import Open
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.rules import sees_features, set_predictor, sets
from byolsim.backends.numba.samplers.open_loss import Moments, moments_space
from byolsim.backends.numba.samplers.open_minibatch import open_moment_steps, open_sample_steps
from byolsim.backends.numba.samplers.views import Views, form_views
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model.samplers import view_key
from byolsim.model.start import Start
from byolsim.model.world import World


class SampleScratch(NamedTuple):
    """Work space of one run's step on the samples."""

    Z_o: Real  # (k, n) B_o X
    Z_t: Real  # (k, n) B_t X+
    D: Real  # (k, n) (P Z_o - Z_t) / n


class MomentScratch(NamedTuple):
    """The second moments that the group shares, and work space of one run's step on them."""

    S_xx: Real  # (d, d) X X^T / n
    S_px: Real  # (d, d) X+ X^T / n
    S_pp: Real  # (d, d) X+ X+^T / n
    BS_o: Real  # (k, d) B_o S_xx
    BS_t: Real  # (k, d) B_t S_px
    BS_p: Real  # (k, d) B_t S_pp
    PB: Real  # (k, d) P B_o


def second_moments_pay(n: int, d: int, k: int) -> bool:
    """Whether a minibatch step is cheaper on the second moments of the samples than on the samples.

    A run needs 6 n d k operations on the samples. On S_xx and S_px it needs 4 d^2 k, and the group 4 n d^2 to form
    them, a share of n d^2 / 5 in a group of 20. A function of the shape alone, so that a run's bits do not depend on
    its group.
    """
    return n * (6 * k - d / 5) > 4 * d * k


class Minibatch(Whole):
    """`gradients.sample_residual_gradient`, or `gradients.moment_residual_gradient` where it is the cheaper one."""

    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        super().__init__(group, world, initial)
        dtype, n, k, q, d = np.dtype(group[0].dtype), group[0].batch_size, group[0].k, world.q, world.d
        Z, in_hole = np.zeros((view_key(group[0], n).latents, n), dtype), 0 if world.hole is None else n

        def real(rows: int, columns: int) -> np.ndarray:
            return np.zeros((rows, columns), dtype)

        self.views = Views(
            Z=Z, Z_common=Z[:q], X=real(d, n), X_plus=real(d, n),
            noise=real(d, in_hole), inside=real(q, in_hole), along=real(d, in_hole),
        )  # fmt: skip
        self.kernel: Any
        self.scratch: SampleScratch | MomentScratch | Moments
        is_open = isinstance(self.method.loss, Open)
        if second_moments_pay(n, d, k):
            self.kernel = open_moment_steps if is_open else second_moment_steps
            self.scratch = moments_space(k, d, dtype) if is_open else MomentScratch(
                S_xx=real(d, d), S_px=real(d, d), S_pp=real(d, d),
                BS_o=real(k, d), BS_t=real(k, d), BS_p=real(k, d), PB=real(k, d),
            )  # fmt: skip
        else:
            self.kernel = open_sample_steps if is_open else sample_steps
            self.scratch = SampleScratch(Z_o=real(k, n), Z_t=real(k, n), D=real(k, n))

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A row of draws, the views, what a step makes of them, weights and world."""
        n, d, k, q = config.batch_size, config.d_obs, config.k, config.structured
        made = 3 * d * d if second_moments_pay(n, d, k) else 3 * n * k
        return view_key(config, n).normals_per_step + 2 * n * d + made + (10 * k + 5 * q) * d

    @staticmethod
    def tiny(config: RunConfig) -> dict[str, Any]:
        """For the second moments, the smallest minibatch for which they pay."""
        if not second_moments_pay(config.batch_size, config.d_obs, config.k):
            return {}
        d, k = TINY["d_obs"], TINY["d_latent"]
        return {"batch_size": next(n for n in count(1) if second_moments_pay(n, d, k))}

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `sample_steps` and `second_moment_steps`."""
        self.kernel(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.method,
            self.views, self.scratch,
        )  # fmt: skip


@kernel
def sample_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, views, scratch):
    """Steps on the samples, `gradients.sample_residual_gradient`; see `Sampler.steps`."""
    now, diverged, n = course.now, course.diverged, views.X.shape[1]
    inverse_n = scratch.D.dtype.type(1.0 / n)
    # Fields are read once: each access counts references, with a locked instruction, and many are in the loop.
    Ps, B_os, B_ts = state.P, state.B_o, state.B_t
    X, X_plus, Z_o, Z_t, D, G = views.X, views.X_plus, scratch.Z_o, scratch.Z_t, scratch.D, work.G
    X_T, Z_o_T, flat_D, flat_Z_t, grad_P = X.T, Z_o.T, D.reshape(-1), Z_t.reshape(-1), work.grad_P
    for s in range(lo, hi):
        form_views(draws[s], world, views)
        t = first + s
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = Ps[run]
            form_whole(run, B_os, B_ts, method.layers)
            B_o = online(run, B_os, method.layers)
            B_t = target(run, B_ts, method.layers)
            np.dot(B_o, X, Z_o)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                np.dot(Z_o, Z_o_T, work.C)
                scale(work.C, inverse_n)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            np.dot(B_t, X_plus, Z_t)
            np.dot(P, Z_o, D)
            subtract_and_scale(flat_D, flat_Z_t, inverse_n)
            if want_loss and s == hi - 1:
                now[run, LOSS] = 0.5 * n * sum_squares(D)
            np.dot(D, X_T, G)
            np.dot(D, Z_o_T, grad_P)  # D Z_o^T = G B_o^T, with n columns in place of d
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def second_moment_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, views, scratch):
    """The same steps from the second moments, formed once for the group: the cost of a run does not depend on n.

    `gradients.moment_residual_gradient`, G = P B_o S_xx - B_t S_px.
    """
    now, diverged, n, G = course.now, course.diverged, views.X.shape[1], work.G
    inverse_n = scratch.S_xx.dtype.type(1.0 / n)
    for s in range(lo, hi):
        form_views(draws[s], world, views)
        np.dot(views.X, views.X.T, scratch.S_xx)
        np.dot(views.X_plus, views.X.T, scratch.S_px)
        scale(scratch.S_xx, inverse_n)
        scale(scratch.S_px, inverse_n)
        if want_loss and s == hi - 1:
            np.dot(views.X_plus, views.X_plus.T, scratch.S_pp)
            scale(scratch.S_pp, inverse_n)
        t = first + s
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = state.P[run]
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            np.dot(B_o, scratch.S_xx, scratch.BS_o)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                np.dot(scratch.BS_o, B_o.T, work.C)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            np.dot(B_t, scratch.S_px, scratch.BS_t)
            np.dot(P, scratch.BS_o, G)
            if want_loss and s == hi - 1:
                now[run, LOSS] = _moment_loss(P, B_o, B_t, G, scratch)
            subtract(G, scratch.BS_t)
            np.dot(G, B_o.T, work.grad_P)
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _moment_loss(P, B_o, B_t, PBS, scratch):
    """1/2 tr of the residual's second moment, expanded in S_xx, S_px and S_pp; PBS is P B_o S_xx.

    The expansion can cancel to a rounding error below zero where the loss vanishes: it is kept >= 0.
    """
    PB = scratch.PB
    np.dot(P, B_o, PB)
    np.dot(B_t, scratch.S_pp, scratch.BS_p)
    total = 0.0
    for i in range(PB.shape[0]):
        total += np.float64(dot(PBS[i], PB[i])) - 2.0 * np.float64(dot(scratch.BS_t[i], PB[i]))
        total += np.float64(dot(scratch.BS_p[i], B_t[i]))
    return max(0.5 * total, 0.0)
