"""A minibatch's steps where the loss is open to the target or symmetric: on the samples, and on second moments."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.layers import form_whole, online, target
from byolsim.backends.numba.linalg import scale, subtract_and_scale, sum_squares
from byolsim.backends.numba.rates import curvature_tick
from byolsim.backends.numba.rules import sees_features, set_predictor, sets
from byolsim.backends.numba.samplers.open_loss import mean, one_order, take_mean
from byolsim.backends.numba.samplers.views import form_views
from byolsim.backends.numba.step import update
from byolsim.backends.numba.structures import AUTO_EVERY, LOSS
from byolsim.machine.jit import kernel


@kernel
def open_sample_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, views, scratch):
    """Steps on the samples; see `Sampler.steps`."""
    now, diverged, loss = course.now, course.diverged, method.loss
    X, X_plus = views.X, views.X_plus
    for s in range(lo, hi):
        form_views(draws[s], world, views)
        t = first + s
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = state.P[run]
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                _covariance(B_o, X, scratch.Z_o, work.C)
                if loss.symmetric:
                    _covariance(B_o, X_plus, scratch.Z_o, loss.C_exchanged)
                    mean(work.C, loss.C_exchanged)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            value = _one_order(P, B_o, B_t, X, X_plus, scratch, work.G, loss.G_plus, work.grad_P)
            if loss.symmetric:
                other = _one_order(
                    P, B_o, B_t, X_plus, X, scratch, loss.G_exchanged, loss.G_plus_exchanged, loss.grad_P_exchanged
                )
                value = 0.5 * (value + other)
                take_mean(loss, work)
            if want_loss and s == hi - 1:
                now[run, LOSS] = value
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _covariance(B_o, X, Z, C):
    """C = (1/n) Z Z^T with Z = B_o X."""
    np.dot(B_o, X, Z)
    np.dot(Z, Z.T, C)
    scale(C, C.dtype.type(1.0 / X.shape[1]))


@kernel
def _one_order(P, B_o, B_t, X, X_plus, scratch, G, G_plus, grad_P):
    """D = (P B_o X - B_t X+) / n, G = D X^T, G_plus = D X+^T, grad_P = G B_o^T; the loss."""
    n, D = X.shape[1], scratch.D
    np.dot(B_o, X, scratch.Z_o)
    np.dot(B_t, X_plus, scratch.Z_t)
    np.dot(P, scratch.Z_o, D)
    subtract_and_scale(D.reshape(-1), scratch.Z_t.reshape(-1), D.dtype.type(1.0 / n))
    np.dot(D, X.T, G)
    np.dot(D, X_plus.T, G_plus)
    np.dot(D, scratch.Z_o.T, grad_P)
    return 0.5 * n * sum_squares(D)


@kernel
def open_moment_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, work, method, views, scratch):
    """The same steps from the second moments, formed once for the group."""
    now, diverged, loss, n = course.now, course.diverged, method.loss, views.X.shape[1]
    for s in range(lo, hi):
        form_views(draws[s], world, views)
        _second_moments(views, scratch, scratch.S_xx.dtype.type(1.0 / n))
        t = first + s
        for run in range(diverged.size):
            if diverged[run] >= 0:
                continue
            P = state.P[run]
            form_whole(run, state.B_o, state.B_t, method.layers)
            B_o = online(run, state.B_o, method.layers)
            B_t = target(run, state.B_t, method.layers)
            tick = (t - 1) % int(hyper[run, AUTO_EVERY]) == 0
            if tick or sees_features(method.rule):
                np.dot(B_o, scratch.S_xx, scratch.BS)
                np.dot(scratch.BS, B_o.T, work.C)
                if loss.symmetric:
                    np.dot(B_o, scratch.S_pp, scratch.BS)
                    np.dot(scratch.BS, B_o.T, loss.C_exchanged)
                    mean(work.C, loss.C_exchanged)
            if tick:
                curvature_tick(run, hyper, course, work)
            if sets(method.rule):
                set_predictor(run, t, P, B_o, B_t, work.C, now, method.rule)
            value = one_order(
                P, B_o, B_t, scratch.S_xx, scratch.S_px, scratch.S_xp, scratch.S_pp,
                work.G, loss.G_plus, work.grad_P, scratch,
            )  # fmt: skip
            if loss.symmetric:
                other = one_order(
                    P, B_o, B_t, scratch.S_pp, scratch.S_xp, scratch.S_px, scratch.S_xx,
                    loss.G_exchanged, loss.G_plus_exchanged, loss.grad_P_exchanged, scratch,
                )  # fmt: skip
                value = 0.5 * (value + other)
                take_mean(loss, work)
            if want_loss and s == hi - 1:
                now[run, LOSS] = value
            update(run, t, world.lambda_max_x, hyper, state, course, work, method)


@kernel
def _second_moments(views, scratch, inverse_n):
    """Those of the samples, with the transpose of S_px."""
    np.dot(views.X, views.X.T, scratch.S_xx)
    np.dot(views.X_plus, views.X.T, scratch.S_px)
    np.dot(views.X_plus, views.X_plus.T, scratch.S_pp)
    scale(scratch.S_xx, inverse_n)
    scale(scratch.S_px, inverse_n)
    scale(scratch.S_pp, inverse_n)
    scratch.S_xp[:] = scratch.S_px.T
