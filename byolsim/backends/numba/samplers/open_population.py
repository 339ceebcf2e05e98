"""The population's steps where the loss is open to the target or symmetric.

With b = E Q inside the structured subspace, where the moments are arbitrary, and E' = E - b Q^T outside it, where both
views have isotropic noise of their own (`one_order` with encoders b gives what stands inside),

    G = G_inside Q^T + sigma^2 P E_o',    G_plus = G_plus_inside Q^T - sigma_plus^2 E_t'.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.layers import form_whole, online, target
from byolsim.backends.numba.linalg import sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.rules import sees_features, set_predictor, sets
from byolsim.backends.numba.samplers.open_loss import Moments, mean, moments_space, one_order, take_mean
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import fma, kernel
from byolsim.model.world import World


class OpenPopulationScratch(NamedTuple):
    """Second moments inside the structured subspace, and work space of one run's step."""

    moments: Moments  # (q, q)
    b_o: Real  # (k, q)
    b_t: Real  # (k, q)
    N_o: Real  # (k, d) E_o outside the structured subspace
    N_t: Real  # (k, d)
    PN: Real  # (k, d) P N_o
    G: Real  # (k, q)
    G_plus: Real  # (k, q)
    noise: Real  # (k, k) N_o N_o^T
    grad_P: Real  # (k, k)


def open_population_scratch(config: RunConfig, world: World) -> OpenPopulationScratch:
    """With the world's moments in the dtype of training."""
    dtype, k, q, d = np.dtype(config.dtype), config.k, world.q, world.d
    moments = moments_space(k, q, dtype)
    moments.S_xx[:], moments.S_px[:] = world.S_xx, world.S_px
    moments.S_xp[:], moments.S_pp[:] = world.S_px.T, world.S_pp
    shapes = [(k, q)] * 2 + [(k, d)] * 3 + [(k, q)] * 2 + [(k, k)] * 2
    return OpenPopulationScratch(moments, *(np.zeros(shape, dtype) for shape in shapes))


@kernel
def open_population_steps(first, end, want_loss, world, hyper, state, course, work, method, scratch):
    """Steps first, ..., end - 1."""
    now, diverged, loss, S = course.now, course.diverged, method.loss, scratch.moments
    real = work.G.dtype.type
    variance, variance_plus = real(world.sigma**2), real(world.sigma_plus**2)
    for t in range(first, end):
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = state.P[run]
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            _inside_outside(B_o, world.Q_A, scratch.b_o, scratch.N_o)
            _inside_outside(B_t, world.Q_A, scratch.b_t, scratch.N_t)
            np.dot(scratch.N_o, scratch.N_o.T, scratch.noise)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                _covariance(S.S_xx, variance, scratch, work.C)
                if loss.symmetric:
                    _covariance(S.S_pp, variance_plus, scratch, loss.C_exchanged)
                    mean(work.C, loss.C_exchanged)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            np.dot(P, scratch.N_o, scratch.PN)
            value = _one_order(
                P, S.S_xx, S.S_px, S.S_xp, S.S_pp, variance, variance_plus, world.Q_A, scratch,
                work.G, loss.G_plus, work.grad_P,
            )  # fmt: skip
            if loss.symmetric:
                other = _one_order(
                    P, S.S_pp, S.S_xp, S.S_px, S.S_xx, variance_plus, variance, world.Q_A, scratch,
                    loss.G_exchanged, loss.G_plus_exchanged, loss.grad_P_exchanged,
                )  # fmt: skip
                value = 0.5 * (value + other)
                take_mean(loss, work)
            if want_loss and t == end - 1:
                now[run, LOSS] = value
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _inside_outside(B, Q, b, N):
    """b = B Q and N = B - b Q^T."""
    np.dot(B, Q, b)
    np.dot(b, Q.T, N)
    for i in range(B.shape[0]):
        for j in range(B.shape[1]):
            N[i, j] = B[i, j] - N[i, j]


@kernel
def _covariance(S, variance, scratch, C):
    """C = b_o S b_o^T + variance N_o N_o^T."""
    np.dot(scratch.b_o, S, scratch.G)
    np.dot(scratch.G, scratch.b_o.T, C)
    _add(C, variance, scratch.noise)


@kernel
def _one_order(P, S_xx, S_px, S_xp, S_pp, variance, variance_plus, Q, scratch, G, G_plus, grad_P):
    """What the formulas at the top say of one order of the views, and grad_P = G E_o^T; the loss."""
    loss = one_order(
        P, scratch.b_o, scratch.b_t, S_xx, S_px, S_xp, S_pp, scratch.G, scratch.G_plus, grad_P, scratch.moments
    )
    np.dot(scratch.G, Q.T, G)
    _add(G, variance, scratch.PN)
    np.dot(scratch.G_plus, Q.T, G_plus)
    _add(G_plus, -variance_plus, scratch.N_t)
    np.dot(P, scratch.noise, scratch.grad_P)
    _add(grad_P, variance, scratch.grad_P)
    return loss + 0.5 * (variance * sum_squares(scratch.PN) + variance_plus * sum_squares(scratch.N_t))


@kernel
def _add(M, factor, N):
    """M <- M + factor N."""
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            M[i, j] = fma(factor, N[i, j], M[i, j])
