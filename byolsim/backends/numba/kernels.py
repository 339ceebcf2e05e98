"""The numba kernels: whole steps of a group of runs, with nothing allocated in the step loop.

Each kernel stands for a plain formula, named in its docstring, and the tests hold the two together. Kernels only
compute; `backend.py` checks and packs. Arrays of state are stacked over the K runs of the group; the draws are shared.
Samples are columns: X is (d, n).

Every product has a shape that does not depend on the group, so a run has the same bits in any group.
"""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import (
    distance,
    dot,
    householder_lq,
    scale,
    scale_columns,
    subtract,
    subtract_and_scale,
    sum_squares,
    weighted_sum_squares,
)
from byolsim.backends.numba.rates import beta_may_be_cut, check_divergence, curvature_tick, set_rates
from byolsim.backends.numba.structures import (
    ALPHA_T,
    AUTO_EVERY,
    BETA_T,
    ENC_EVERY,
    ETA,
    H_T,
    KEEP,
    LOSS,
    MU_B,
    MU_P,
    PRED_EVERY,
    SQUARE_B,
    SQUARE_P,
    TAU,
)  # fmt: skip
from byolsim.machine.jit import fma, inlined, kernel


@kernel
def minibatch_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, scratch):
    """Steps on the rows lo..hi-1 of a block of draws, on the samples; row s is step first + s.

    `gradients.sample_residual_gradient` and `gradients.gradients`, then the updates of `model.step`. The loss is that
    of the last step, and computed only if wanted.
    """
    now, diverged, n = course.now, course.diverged, scratch.X.shape[1]
    inverse_n = scratch.D.dtype.type(1.0 / n)
    # Fields are read once: each access counts references, with a locked instruction, and many are in the loop.
    Ps, B_os, B_ts = state.P, state.B_o, state.B_t
    X, X_plus, Z_o, Z_t, D, G = scratch.X, scratch.X_plus, scratch.Z_o, scratch.Z_t, scratch.D, scratch.G
    X_T, Z_o_T, flat_D, flat_Z_t, grad_P = X.T, Z_o.T, D.reshape(-1), Z_t.reshape(-1), scratch.grad_P
    for s in range(lo, hi):
        _form_views(draws[s], world, scratch)
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
                np.dot(Z_o, Z_o.T, scratch.C)
                scale(scratch.C, inverse_n)
                curvature_tick(k, hyper, course, scratch)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def second_moment_steps(draws, lo, hi, first, want_loss, world, hyper, state, course, scratch):
    """The same steps from the sample second moments, formed once for the group (`base.second_moments_pay`).

    `gradients.moment_residual_gradient`: the cost of a run does not depend on n.
    """
    now, diverged, n = course.now, course.diverged, scratch.X.shape[1]
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
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            np.dot(state.B_o[k], scratch.S_xx, scratch.Y)
            np.dot(state.B_t[k], scratch.S_px, scratch.U)
            np.dot(state.P[k], scratch.Y, scratch.G)
            if want_loss and s == hi - 1:
                _moment_loss(k, state, now, scratch)
            subtract(scratch.G, scratch.U)
            np.dot(scratch.G, state.B_o[k].T, scratch.grad_P)
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                np.dot(scratch.Y, state.B_o[k].T, scratch.C)
                curvature_tick(k, hyper, course, scratch)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def population_steps(lo, hi, want_loss, world, hyper, state, course, scratch):
    """Steps lo..hi-1 of the population sampler: `gradients.population_residual_gradient` and `gradients.gradients`."""
    now, diverged = course.now, course.diverged
    variance = scratch.G.dtype.type(world.sigma**2)
    for t in range(lo, hi):
        for k in range(diverged.size):
            if diverged[k] >= 0:
                continue
            P, M_o, M_t, C = state.P[k], scratch.M_o, scratch.M_t, scratch.C
            np.dot(state.B_o[k], world.A, M_o)
            np.dot(state.B_t[k], world.A, M_t)
            if (t - 1) % int(hyper[k, AUTO_EVERY]) == 0:
                _population_covariance(M_o, state.B_o[k], variance, world, scratch)
                curvature_tick(k, hyper, course, scratch)
            np.dot(P, M_o, C)
            subtract(C, M_t)
            np.dot(P, state.B_o[k], scratch.Y)
            if want_loss and t == hi - 1:
                noise = sum_squares(scratch.Y) + sum_squares(state.B_t[k])
                now[k, LOSS] = 0.5 * (weighted_sum_squares(C, world.lam) + world.sigma**2 * noise)
            scale_columns(C, world.lam)
            np.dot(C, world.A.T, scratch.G)
            for i in range(scratch.G.shape[0]):
                for j in range(scratch.G.shape[1]):
                    scratch.G[i, j] = fma(variance, scratch.Y[i, j], scratch.G[i, j])
            np.dot(scratch.G, state.B_o[k].T, scratch.grad_P)
            update(k, t, world, hyper, state, course, scratch)


@kernel
def snapshot(row, world, state, course, scratch, log):
    """Write every run's order parameters and step values into one row of the log (`order.inside_outside`)."""
    now = course.now
    for k in range(course.diverged.size):
        log.valid[k, row] = course.diverged[k] < 0
        if course.diverged[k] >= 0:
            continue
        log.P[k, row] = state.P[k]
        _inside_outside(state.B_o[k], world, scratch, log.b_o[k, row], log.L_o[k, row])
        _inside_outside(state.B_t[k], world, scratch, log.b_t[k, row], log.L_t[k, row])
        log.gap[k, row] = distance(state.B_o[k], state.B_t[k], scratch.W)
        log.loss[k, row] = now[k, LOSS]
        log.Hmax[k, row] = now[k, H_T]
        log.lr_pred_t[k, row] = now[k, ALPHA_T]
        log.lr_enc_t[k, row] = now[k, BETA_T]


@kernel
def _form_views(row, world, scratch):
    """X = A Lambda^(1/2) z + sigma e and x+ likewise with e+, from one row of `streams.minibatch_blocks`."""
    r, n = scratch.Z.shape
    d = scratch.X.shape[0]
    for i in range(r):
        for j in range(n):
            scratch.Z[i, j] = world.root_lam[i] * row[i * n + j]
    np.dot(world.A, scratch.Z, scratch.X)
    sigma = scratch.X.dtype.type(world.sigma)
    e, e_plus = row[r * n : (r + d) * n], row[(r + d) * n :]
    _add_noise(scratch.X.reshape(-1), sigma, e_plus, scratch.X_plus.reshape(-1))
    _add_noise(scratch.X.reshape(-1), sigma, e, scratch.X.reshape(-1))


@kernel
def _add_noise(signal, sigma, normals, view):
    """View <- signal + sigma normals."""
    for i in range(signal.size):
        view[i] = fma(sigma, signal.dtype.type(normals[i]), signal[i])


@kernel
def _moment_loss(k, state, now, scratch):
    """1/2 tr of the residual's second moment, expanded in S_xx, S_px and S_pp; G holds P B_o S_xx, U holds B_t S_px.

    The expansion can cancel to a rounding error below zero where the loss vanishes: it is kept >= 0.
    """
    np.dot(state.P[k], state.B_o[k], scratch.W)
    np.dot(state.B_t[k], scratch.S_pp, scratch.grad_B)
    total = 0.0
    for i in range(scratch.G.shape[0]):
        total += np.float64(dot(scratch.G[i], scratch.W[i])) - 2.0 * np.float64(dot(scratch.U[i], scratch.W[i]))
        total += np.float64(dot(scratch.grad_B[i], state.B_t[k, i]))
    now[k, LOSS] = max(0.5 * total, 0.0)


@kernel
def _population_covariance(M_o, B_o, variance, world, scratch):
    """C_oo = M_o Lambda M_o^T + sigma^2 B_o B_o^T into C (`gradients.feature_covariances`)."""
    r, C, weighted = M_o.shape[0], scratch.C, scratch.image
    np.dot(B_o, B_o.T, C)
    for i in range(r):
        for m in range(r):
            weighted[m] = M_o[i, m] * world.lam[m]
        for j in range(i + 1):
            entry = np.float64(variance * C[i, j])
            for m in range(r):
                entry = fma(weighted[m], np.float64(M_o[j, m]), entry)
            C[i, j] = entry
            C[j, i] = entry


@inlined
def update(k, t, world, hyper, state, course, scratch):
    """The heavy-ball steps, the EMA and the divergence check of SPEC 3, from G and grad_P = G B_o^T of the step."""
    P, now, clips = state.P[k], course.now, course.clips
    real = P.dtype.type
    may_be_cut = beta_may_be_cut(k, world.lambda_max_x, hyper, now)
    set_rates(k, P, may_be_cut, world.lambda_max_x, scratch.square, hyper, now, clips)
    pred_steps, enc_steps = t % int(hyper[k, PRED_EVERY]) == 0, t % int(hyper[k, ENC_EVERY]) == 0
    if enc_steps:
        np.dot(P.T, scratch.G, scratch.grad_B)
    eta, tau, keep = real(hyper[k, ETA]), real(hyper[k, TAU]), real(hyper[k, KEEP])
    if pred_steps:
        rate, mu = real(now[k, ALPHA_T]), real(hyper[k, MU_P])
        now[k, SQUARE_P] = _heavy_ball(
            P.reshape(-1), state.V_P[k].reshape(-1), scratch.grad_P.reshape(-1), rate, mu, eta
        )
    B_o, V_B, B_t = state.B_o[k].reshape(-1), state.V_B[k].reshape(-1), state.B_t[k].reshape(-1)
    rate, mu = real(now[k, BETA_T]), real(hyper[k, MU_B])
    if enc_steps and P.itemsize == 8:
        now[k, SQUARE_B] = _heavy_ball_and_average(B_o, V_B, B_t, scratch.grad_B.reshape(-1), rate, mu, eta, tau, keep)
    else:
        if enc_steps:
            now[k, SQUARE_B] = _heavy_ball(B_o, V_B, scratch.grad_B.reshape(-1), rate, mu, eta)
        _average(B_o, B_t, state.lost[k].reshape(-1), tau, keep)
    check_divergence(k, t, now, course.diverged)


@kernel
def _heavy_ball(parameter, velocity, gradient, rate, mu, eta):
    """V <- mu V + (gradient + eta parameter), parameter <- parameter - rate V, entry by entry; the squared norm."""
    for j in range(gradient.size):
        v = fma(mu, velocity[j], fma(eta, parameter[j], gradient[j]))
        velocity[j] = v
        parameter[j] = fma(-rate, v, parameter[j])
    return np.float64(dot(parameter, parameter))


@kernel
def _heavy_ball_and_average(parameter, velocity, target, gradient, rate, mu, eta, tau, keep):
    """Both in one pass in double precision: what they read and write is most of their cost."""
    weight = tau if tau < 0.5 else -keep
    for j in range(gradient.size):
        v = fma(mu, velocity[j], fma(eta, parameter[j], gradient[j]))
        velocity[j] = v
        new = fma(-rate, v, parameter[j])
        parameter[j] = new
        target[j] = fma(weight, new - target[j], target[j] if tau < 0.5 else new)
    return np.float64(dot(parameter, parameter))


@kernel
def _average(parameter, target, lost, tau, keep):
    """The EMA, target <- (1 - tau) target + tau parameter, as a step from the nearer of the two.

    tau and 1 - tau, each rounded, need not add to 1: with tau near the rounding error that would be a weight decay.
    In single precision steps can also be too small to change the target: `lost` keeps what rounding took from it,
    with the sign turned, for the next step (Kahan, Further Remarks on Reducing Truncation Errors, 1965).
    """
    weight = tau if tau < 0.5 else -keep
    for j in range(target.size):
        old, new = target[j], parameter[j]
        start = old if tau < 0.5 else new
        if target.itemsize == 8:
            target[j] = fma(weight, new - old, start)
        else:
            step = fma(weight, new - old, -lost[j])
            moved = start + step
            lost[j] = (moved - start) - step
            target[j] = moved


@kernel
def _inside_outside(B, world, scratch, b, L):
    """B = B Q_A, and L of the rest by `householder_lq`."""
    np.dot(B, world.Q_A, scratch.M_o)
    np.dot(scratch.M_o, world.Q_A.T, scratch.W)
    subtract_and_scale(scratch.W.reshape(-1), B.reshape(-1), scratch.W.dtype.type(-1.0))
    b[:] = scratch.M_o
    householder_lq(scratch.W, L, scratch.reflections)
