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
from byolsim.model.encoder import Start
from byolsim.model.samplers import view_key
from byolsim.model.world import World


class Views(NamedTuple):
    """The minibatch that the group shares."""

    Z: Real  # (q + c, n) latents
    Z_common: Real  # (q, n) those of x, the first rows of Z
    X: Real  # (d, n)
    X_plus: Real  # (d, n)
    noise: Real  # (d, n) isotropic noise of a view where it has a hole, (d, 0) in all other worlds
    inside: Real  # (q, n) its part in the hole, or (q, 0)
    along: Real  # (d, n) the same in all rows, or (d, 0)


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
        self.scratch: SampleScratch | MomentScratch
        if second_moments_pay(n, d, k):
            self.kernel = second_moment_steps
            self.scratch = MomentScratch(
                S_xx=real(d, d), S_px=real(d, d), S_pp=real(d, d),
                BS_o=real(k, d), BS_t=real(k, d), BS_p=real(k, d), PB=real(k, d),
            )  # fmt: skip
        else:
            self.kernel = sample_steps
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
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            np.dot(B_os[run], X, Z_o)
            np.dot(B_ts[run], X_plus, Z_t)
            np.dot(Ps[run], Z_o, D)
            subtract_and_scale(flat_D, flat_Z_t, inverse_n)
            if want_loss and s == hi - 1:
                now[run, LOSS] = 0.5 * n * sum_squares(D)
            np.dot(D, X_T, G)
            np.dot(D, Z_o_T, grad_P)  # D Z_o^T = G B_o^T, with n columns in place of d
            if (t - 1) % int(hyper[run, AUTO_EVERY]) == 0:
                np.dot(Z_o, Z_o.T, work.C)
                scale(work.C, inverse_n)
                curvature_tick(run, hyper, course, work)
            update(run, t, world.lambda_max_x, hyper, state, course, work, memory)


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
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            np.dot(state.B_o[run], scratch.S_xx, scratch.BS_o)
            np.dot(state.B_t[run], scratch.S_px, scratch.BS_t)
            np.dot(state.P[run], scratch.BS_o, G)
            if want_loss and s == hi - 1:
                now[run, LOSS] = _moment_loss(run, state, G, scratch)
            subtract(G, scratch.BS_t)
            np.dot(G, state.B_o[run].T, work.grad_P)
            if (t - 1) % int(hyper[run, AUTO_EVERY]) == 0:
                np.dot(scratch.BS_o, state.B_o[run].T, work.C)
                curvature_tick(run, hyper, course, work)
            update(run, t, world.lambda_max_x, hyper, state, course, work, memory)


@kernel
def _form_views(row, world, views):
    """The samples of both views from one row of `streams.minibatch_blocks`.

    x = A Lambda^(1/2) z + sigma e and x+ likewise with e+, the signal being formed once; `_form_any_views` elsewhere.
    """
    if not world.is_plain:
        _form_any_views(row, world, views)
        return
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
def _form_any_views(row, world, views):
    """x = A Lambda^(1/2) g_(1..q) + sigma Pi e and x+ = A_plus Lambda_plus^(1/2) g + sigma_plus Pi e+."""
    latents, n = views.Z.shape
    d = views.X.shape[0]
    for i in range(latents):
        for j in range(n):
            views.Z[i, j] = world.root_lam_plus[i] * row[i * n + j]
    np.dot(world.A, views.Z_common, views.X)
    np.dot(world.A_plus, views.Z, views.X_plus)
    if row.size > latents * n:  # no noise is drawn where there is none
        _add_isotropic(views.X, world.sigma, row[latents * n : (latents + d) * n], world, views)
        _add_isotropic(views.X_plus, world.sigma_plus, row[(latents + d) * n :], world, views)


@kernel
def _add_isotropic(X, sigma, normals, world, views):
    """X <- X + sigma Pi E for the standard normals E (d, n)."""
    flat, real = X.reshape(-1), X.dtype.type
    if world.hole.shape[1] == 0:
        _add_noise(flat, real(sigma), normals, flat)
        return
    noise = views.noise.reshape(-1)
    for i in range(noise.size):
        noise[i] = normals[i]
    np.dot(world.hole.T, views.noise, views.inside)
    np.dot(world.hole, views.inside, views.along)
    subtract(views.noise, views.along)
    for i in range(noise.size):
        flat[i] = fma(real(sigma), noise[i], flat[i])


@kernel
def _add_noise(signal, sigma, normals, view):
    """view <- signal + sigma normals."""
    for i in range(signal.size):
        view[i] = fma(sigma, signal.dtype.type(normals[i]), signal[i])


@kernel
def _moment_loss(run, state, PBS, scratch):
    """1/2 tr of the residual's second moment, expanded in S_xx, S_px and S_pp; PBS is P B_o S_xx.

    The expansion can cancel to a rounding error below zero where the loss vanishes: it is kept >= 0.
    """
    PB = scratch.PB
    np.dot(state.P[run], state.B_o[run], PB)
    np.dot(state.B_t[run], scratch.S_pp, scratch.BS_p)
    total = 0.0
    for i in range(PB.shape[0]):
        total += np.float64(dot(PBS[i], PB[i])) - 2.0 * np.float64(dot(scratch.BS_t[i], PB[i]))
        total += np.float64(dot(scratch.BS_p[i], state.B_t[run, i]))
    return max(0.5 * total, 0.0)
