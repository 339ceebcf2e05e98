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
from byolsim.backends.numba.linalg import dot, scale, subtract, subtract_and_scale, sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.samplers.whole import Whole
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import fma, kernel
from byolsim.model.world import World


class Views(NamedTuple):
    """The minibatch that the group shares."""

    Z: Real  # (r, n) latents
    X: Real  # (d, n)
    X_plus: Real  # (d, n)


class SampleScratch(NamedTuple):
    """Work space of one run's step on the samples."""

    Z_o: Real  # (r, n) B_o X
    Z_t: Real  # (r, n) B_t X+
    D: Real  # (r, n) (P Z_o - Z_t) / n


class MomentScratch(NamedTuple):
    """The second moments that the group shares, and work space of one run's step on them."""

    S_xx: Real  # (d, d) X X^T / n
    S_px: Real  # (d, d) X+ X^T / n
    S_pp: Real  # (d, d) X+ X+^T / n
    BS_o: Real  # (r, d) B_o S_xx
    BS_t: Real  # (r, d) B_t S_px
    BS_p: Real  # (r, d) B_t S_pp
    PB: Real  # (r, d) P B_o


def second_moments_pay(n: int, d: int, r: int) -> bool:
    """Whether a minibatch step is cheaper on the second moments of the samples than on the samples.

    A run needs 6 n d r operations on the samples. On S_xx and S_px it needs 4 d^2 r, and the group 4 n d^2 to form
    them, a share of n d^2 / 5 in a group of 20. A function of the shape alone, so that a run's bits do not depend on
    its group.
    """
    return n * (6 * r - d / 5) > 4 * d * r


class Minibatch(Whole):
    """`gradients.sample_residual_gradient`, or `gradients.moment_residual_gradient` where it is the cheaper one."""

    def __init__(self, group: Sequence[RunConfig], world: World) -> None:
        super().__init__(group, world)
        dtype, n, r, d = np.dtype(group[0].dtype), group[0].batch_size, world.r, world.d

        def real(rows: int, columns: int) -> np.ndarray:
            return np.zeros((rows, columns), dtype)

        self.views = Views(Z=real(r, n), X=real(d, n), X_plus=real(d, n))
        self.kernel: Any
        self.scratch: SampleScratch | MomentScratch
        if second_moments_pay(n, d, r):
            self.kernel = second_moment_steps
            self.scratch = MomentScratch(
                S_xx=real(d, d), S_px=real(d, d), S_pp=real(d, d),
                BS_o=real(r, d), BS_t=real(r, d), BS_p=real(r, d), PB=real(r, d),
            )  # fmt: skip
        else:
            self.kernel = sample_steps
            self.scratch = SampleScratch(Z_o=real(r, n), Z_t=real(r, n), D=real(r, n))

    @staticmethod
    def numbers(config: RunConfig) -> int:
        """A row of draws, the views, what a step makes of them, weights and world."""
        n, d, r = config.batch_size, config.d_obs, config.d_latent
        made = 3 * d * d if second_moments_pay(n, d, r) else 3 * n * r
        return n * (r + 2 * d) + 2 * n * d + made + 15 * r * d

    @staticmethod
    def tiny(config: RunConfig) -> dict[str, Any]:
        """For the second moments, the smallest minibatch for which they pay."""
        if not second_moments_pay(config.batch_size, config.d_obs, config.d_latent):
            return {}
        d, r = TINY["d_obs"], TINY["d_latent"]
        return {"batch_size": next(n for n in count(1) if second_moments_pay(n, d, r))}

    def steps(self, draws: np.ndarray, lo: int, hi: int, first: int, want_loss: bool) -> None:
        """See `sample_steps` and `second_moment_steps`."""
        self.kernel(
            draws, lo, hi, first, want_loss, self.world, self.hyper, self.state, self.course, self.work, self.memory,
            self.views, self.scratch,
        )  # fmt: skip


@kernel
def sample_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, memory, views, scratch):
    """Steps on the samples, `gradients.sample_residual_gradient`; see `Sampler.steps`."""
    now, diverged, n = course.now, course.diverged, views.X.shape[1]
    inverse_n = scratch.D.dtype.type(1.0 / n)
    # Fields are read once: each access counts references, with a locked instruction, and many are in the loop.
    Ps, B_os, B_ts = state.P, state.B_o, state.B_t
    X, X_plus, Z_o, Z_t, D, G = views.X, views.X_plus, scratch.Z_o, scratch.Z_t, scratch.D, work.G
    X_T, Z_o_T, flat_D, flat_Z_t, grad_P = X.T, Z_o.T, D.reshape(-1), Z_t.reshape(-1), work.grad_P
    for s in range(lo, hi):
        _form_views(draws[s], world, views)
        t = first + s
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            np.dot(B_os[k], X, Z_o)
            np.dot(B_ts[k], X_plus, Z_t)
            np.dot(Ps[k], Z_o, D)
            subtract_and_scale(flat_D, flat_Z_t, inverse_n)
            if want_loss and s == hi - 1:
                now[k, LOSS] = 0.5 * n * sum_squares(D)
            np.dot(D, X_T, G)
            np.dot(D, Z_o_T, grad_P)  # D Z_o^T = G B_o^T, with n columns in place of d
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                np.dot(Z_o, Z_o.T, work.C)
                scale(work.C, inverse_n)
                curvature_tick(k, hyper, course, work)
            update(k, t, world.lambda_max_x, hyper, state, course, work, memory)


@kernel
def second_moment_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, memory, views, scratch):
    """The same steps from the second moments, formed once for the group: the cost of a run does not depend on n.

    `gradients.moment_residual_gradient`, G = P B_o S_xx - B_t S_px.
    """
    now, diverged, n, G = course.now, course.diverged, views.X.shape[1], work.G
    inverse_n = scratch.S_xx.dtype.type(1.0 / n)
    for s in range(lo, hi):
        _form_views(draws[s], world, views)
        np.dot(views.X, views.X.T, scratch.S_xx)
        np.dot(views.X_plus, views.X.T, scratch.S_px)
        scale(scratch.S_xx, inverse_n)
        scale(scratch.S_px, inverse_n)
        if want_loss and s == hi - 1:
            np.dot(views.X_plus, views.X_plus.T, scratch.S_pp)
            scale(scratch.S_pp, inverse_n)
        t = first + s
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            np.dot(state.B_o[k], scratch.S_xx, scratch.BS_o)
            np.dot(state.B_t[k], scratch.S_px, scratch.BS_t)
            np.dot(state.P[k], scratch.BS_o, G)
            if want_loss and s == hi - 1:
                now[k, LOSS] = _moment_loss(k, state, G, scratch)
            subtract(G, scratch.BS_t)
            np.dot(G, state.B_o[k].T, work.grad_P)
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                np.dot(scratch.BS_o, state.B_o[k].T, work.C)
                curvature_tick(k, hyper, course, work)
            update(k, t, world.lambda_max_x, hyper, state, course, work, memory)


@kernel
def _form_views(row, world, views):
    """X = A Lambda^(1/2) z + sigma e and x+ likewise with e+, from one row of `streams.minibatch_blocks`."""
    r, n = views.Z.shape
    d = views.X.shape[0]
    for i in range(r):
        for j in range(n):
            views.Z[i, j] = world.root_lam[i] * row[i * n + j]
    np.dot(world.A, views.Z, views.X)
    sigma = views.X.dtype.type(world.sigma)
    e, e_plus = row[r * n : (r + d) * n], row[(r + d) * n :]
    _add_noise(views.X.reshape(-1), sigma, e_plus, views.X_plus.reshape(-1))
    _add_noise(views.X.reshape(-1), sigma, e, views.X.reshape(-1))


@kernel
def _add_noise(signal, sigma, normals, view):
    """Of vectors, view <- signal + sigma normals."""
    for i in range(signal.size):
        view[i] = fma(sigma, signal.dtype.type(normals[i]), signal[i])


@kernel
def _moment_loss(k, state, PBS, scratch):
    """1/2 tr of the residual's second moment, expanded in S_xx, S_px and S_pp; PBS is P B_o S_xx.

    The expansion can cancel to a rounding error below zero where the loss vanishes: it is kept >= 0.
    """
    PB = scratch.PB
    np.dot(state.P[k], state.B_o[k], PB)
    np.dot(state.B_t[k], scratch.S_pp, scratch.BS_p)
    total = 0.0
    for i in range(PB.shape[0]):
        total += np.float64(dot(PBS[i], PB[i])) - 2.0 * np.float64(dot(scratch.BS_t[i], PB[i]))
        total += np.float64(dot(scratch.BS_p[i], state.B_t[k, i]))
    return max(0.5 * total, 0.0)
