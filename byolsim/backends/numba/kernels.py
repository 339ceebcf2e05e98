"""The numba kernels: whole steps of a group of runs, with nothing allocated in the step loop.

Each kernel stands for a plain formula, named in its docstring, and the tests hold the two together. Kernels only
compute; `backend.py` checks and packs. Arrays of state are stacked over the K runs of the group; the draws are shared.
Samples are columns: X is (d, n).

Every product has a shape that does not depend on the group, so a run has the same bits in any group.
"""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import (
    householder_lq,
    safe_scale,
    scale,
    scale_columns,
    subtract,
    sum_squares,
    weighted_sum_squares,
)
from byolsim.backends.numba.rates import check_divergence, curvature_tick, set_rates
from byolsim.jit import kernel


@kernel
def minibatch_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, scratch):
    """Steps on the rows lo..hi-1 of a block of draws, n <= d; row s is step first + s.

    `theory.sample_residual_gradient` and `theory.gradients`, then the updates of SPEC 3. The loss is that of the last
    step, and computed only if wanted.
    """
    n = scratch.X.shape[1]
    inverse_n = scratch.D.dtype.type(1.0 / n)
    for s in range(lo, hi):
        _form_views(draws[s], world, scratch)
        t = first + s
        for k in range(course.diverged.size):
            if course.diverged[k] >= 0:
                continue
            np.dot(state.B_o[k], scratch.X, scratch.Z_o)
            np.dot(state.B_t[k], scratch.X_plus, scratch.Z_t)
            np.dot(state.P[k], scratch.Z_o, scratch.D)
            subtract(scratch.D, scratch.Z_t)
            if want_loss and s == hi - 1:
                course.loss[k] = 0.5 * sum_squares(scratch.D) / n
            scale(scratch.D, inverse_n)
            np.dot(scratch.D, scratch.X.T, scratch.G)
            if (t - 1) % hyper.auto_every[k] == 0:
                np.dot(scratch.Z_o, scratch.Z_o.T, scratch.C)
                scale(scratch.C, inverse_n)
                curvature_tick(k, hyper, course, scratch)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def second_moment_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, scratch):
    """The same steps where n > d, from the sample second moments, formed once for the group.

    `theory.moment_residual_gradient`: the cost of a run does not depend on n.
    """
    n = scratch.X.shape[1]
    inverse_n = scratch.S_xx.dtype.type(1.0 / n)
    for s in range(lo, hi):
        _form_views(draws[s], world, scratch)
        np.dot(scratch.X, scratch.X.T, scratch.S_xx)
        np.dot(scratch.X_plus, scratch.X.T, scratch.S_px)
        scale(scratch.S_xx, inverse_n)
        scale(scratch.S_px, inverse_n)
        if want_loss and s == hi - 1:
            np.dot(scratch.X_plus, scratch.X_plus.T, scratch.S_pp)
            scale(scratch.S_pp, inverse_n)
        t = first + s
        for k in range(course.diverged.size):
            if course.diverged[k] >= 0:
                continue
            np.dot(state.B_o[k], scratch.S_xx, scratch.Y)
            np.dot(state.B_t[k], scratch.S_px, scratch.U)
            np.dot(state.P[k], scratch.Y, scratch.G)
            if want_loss and s == hi - 1:
                _moment_loss(k, state, course, scratch)
            subtract(scratch.G, scratch.U)
            if (t - 1) % hyper.auto_every[k] == 0:
                np.dot(scratch.Y, state.B_o[k].T, scratch.C)
                curvature_tick(k, hyper, course, scratch)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def population_steps(lo, hi, want_loss, world, hyper, state, course, scratch):
    """Steps lo..hi-1 of the population sampler: `theory.population_residual_gradient` and `theory.gradients`."""
    variance = scratch.G.dtype.type(world.sigma**2)
    for t in range(lo, hi):
        for k in range(course.diverged.size):
            if course.diverged[k] >= 0:
                continue
            P, M_o, M_t, C = state.P[k], scratch.M_o, scratch.M_t, scratch.C
            np.dot(state.B_o[k], world.A, M_o)
            np.dot(state.B_t[k], world.A, M_t)
            if (t - 1) % hyper.auto_every[k] == 0:
                _population_covariance(M_o, state.B_o[k], variance, world, scratch)
                curvature_tick(k, hyper, course, scratch)
            np.dot(P, M_o, C)
            subtract(C, M_t)
            np.dot(P, state.B_o[k], scratch.Y)
            if want_loss and t == hi - 1:
                noise = sum_squares(scratch.Y) + sum_squares(state.B_t[k])
                course.loss[k] = 0.5 * (weighted_sum_squares(C, world.lam) + world.sigma**2 * noise)
            scale_columns(C, world.lam)
            np.dot(C, world.A.T, scratch.G)
            for i in range(scratch.G.shape[0]):
                for j in range(scratch.G.shape[1]):
                    scratch.G[i, j] += variance * scratch.Y[i, j]
            update(k, t, world, hyper, state, course, scratch)


@kernel
def snapshot(row, world, state, course, scratch, log):
    """Write every run's order parameters and step values into one row of the log (`order.inside_outside`)."""
    for k in range(course.diverged.size):
        log.valid[k, row] = course.diverged[k] < 0
        if course.diverged[k] >= 0:
            continue
        log.P[k, row] = state.P[k]
        _inside_outside(state.B_o[k], world, scratch, log.b_o[k, row], log.L_o[k, row])
        _inside_outside(state.B_t[k], world, scratch, log.b_t[k, row], log.L_t[k, row])
        for i in range(scratch.W.shape[0]):
            for j in range(scratch.W.shape[1]):
                scratch.W[i, j] = state.B_o[k, i, j] - state.B_t[k, i, j]
        divisor = safe_scale(scratch.W)
        log.gap[k, row] = divisor * np.sqrt(np.float64(sum_squares(scratch.W)))
        log.loss[k, row] = course.loss[k]
        log.Hmax[k, row] = course.H[k]
        log.lr_pred_t[k, row] = course.alpha_t[k]
        log.lr_enc_t[k, row] = course.beta_t[k]


@kernel
def _form_views(row, world, scratch):
    """X = A Lambda^(1/2) z + sigma e and x+ likewise with e+, from one row of `streams.minibatch_blocks`."""
    r, n = scratch.Z.shape
    d = scratch.X.shape[0]
    sigma = world.sigma
    for i in range(r):
        for j in range(n):
            scratch.Z[i, j] = world.root_lam[i] * row[i * n + j]
    np.dot(world.A, scratch.Z, scratch.X)
    e, e_plus = r * n, (r + d) * n
    for i in range(d):
        for j in range(n):
            signal = scratch.X[i, j]
            scratch.X[i, j] = signal + sigma * row[e + i * n + j]
            scratch.X_plus[i, j] = signal + sigma * row[e_plus + i * n + j]


@kernel
def _moment_loss(k, state, course, scratch):
    """1/2 tr of the residual's second moment, expanded in S_xx, S_px and S_pp; G holds P B_o S_xx, U holds B_t S_px.

    The expansion can cancel to a rounding error below zero where the loss vanishes: it is kept >= 0.
    """
    np.dot(state.P[k], state.B_o[k], scratch.W)
    np.dot(state.B_t[k], scratch.S_pp, scratch.grad_B)
    total = 0.0
    for i in range(scratch.G.shape[0]):
        for j in range(scratch.G.shape[1]):
            total += (scratch.G[i, j] - 2.0 * scratch.U[i, j]) * scratch.W[i, j]
            total += scratch.grad_B[i, j] * state.B_t[k, i, j]
    course.loss[k] = max(0.5 * total, 0.0)


@kernel
def _population_covariance(M_o, B_o, variance, world, scratch):
    """C_oo = M_o Lambda M_o^T + sigma^2 B_o B_o^T into C (`theory.feature_covariances`)."""
    r = M_o.shape[0]
    np.dot(B_o, B_o.T, scratch.C)
    for i in range(r):
        for j in range(r):
            total = variance * scratch.C[i, j]
            for m in range(r):
                total += M_o[i, m] * world.lam[m] * M_o[j, m]
            scratch.C[i, j] = total


@kernel
def update(k, t, world, hyper, state, course, scratch):
    """The heavy-ball steps, the EMA and the divergence check of SPEC 3, from the G of the step."""
    P, B_o, B_t, G = state.P[k], state.B_o[k], state.B_t[k], scratch.G
    real = P.dtype.type
    set_rates(k, P, world, hyper, course, scratch)
    pred_steps, enc_steps = t % hyper.pred_every[k] == 0, t % hyper.enc_every[k] == 0
    if pred_steps:
        np.dot(G, B_o.T, scratch.grad_P)
    if enc_steps:
        np.dot(P.T, G, scratch.grad_B)
    eta = real(hyper.eta[k])
    if pred_steps:
        course.square_P[k] = _heavy_ball(
            P, state.V_P[k], scratch.grad_P, real(course.alpha_t[k]), real(hyper.mu_P[k]), eta
        )
    if enc_steps:
        course.square_B[k] = _heavy_ball(
            B_o, state.V_B[k], scratch.grad_B, real(course.beta_t[k]), real(hyper.mu_B[k]), eta
        )
    tau = real(hyper.tau[k])
    keep = real(1.0 - hyper.tau[k])
    for i in range(B_o.shape[0]):
        for j in range(B_o.shape[1]):
            B_t[i, j] = keep * B_t[i, j] + tau * B_o[i, j]
    check_divergence(k, t, course)


@kernel
def _heavy_ball(parameter, velocity, gradient, rate, mu, eta):
    """V <- mu V + (gradient + eta parameter), parameter <- parameter - rate V; the new squared Frobenius norm."""
    square = parameter.dtype.type(0.0)
    for i in range(parameter.shape[0]):
        for j in range(parameter.shape[1]):
            v = mu * velocity[i, j] + (gradient[i, j] + eta * parameter[i, j])
            velocity[i, j] = v
            new = parameter[i, j] - rate * v
            parameter[i, j] = new
            square += new * new
    return np.float64(square)


@kernel
def _inside_outside(B, world, scratch, b, L):
    """B = B Q_A, and L of the rest by `householder_lq`."""
    np.dot(B, world.Q_A, scratch.M_o)
    np.dot(scratch.M_o, world.Q_A.T, scratch.W)
    for i in range(B.shape[0]):
        for j in range(B.shape[1]):
            scratch.W[i, j] = B[i, j] - scratch.W[i, j]
    b[:] = scratch.M_o
    householder_lq(scratch.W, L, scratch.reflections)
