"""The step of every sampler that keeps its encoders as they are: heavy ball, predictor rule, EMA, divergence.

`model.step` from the gradients on, for one run. Every product has a shape that does not depend on the group, so a run
has the same bits in any group.
"""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import dot
from byolsim.backends.numba.rates import beta_may_be_cut, check_divergence, set_rates
from byolsim.backends.numba.rules import follow
from byolsim.backends.numba.structures import (
    ALPHA_T,
    BETA_T,
    ENC_EVERY,
    ETA,
    KEEP,
    MU_B,
    MU_P,
    PRED_EVERY,
    SQUARE_B,
    SQUARE_P,
    TAU,
)  # fmt: skip
from byolsim.machine.jit import fma, inlined, kernel

IN_CACHE = 2048
"""Entries of an encoder that single precision moves and averages at once: two loops, as one has too many arrays."""


@inlined
def update(run, t, lambda_max_x, hyper, state, course, work, memory):
    """Step t of a run from `work.G` and `work.grad_P`, which is G B_o^T."""
    P, now, clips = state.P[run], course.now, course.clips
    real = P.dtype.type
    may_be_cut = beta_may_be_cut(run, lambda_max_x, hyper, now)
    set_rates(run, P, may_be_cut, lambda_max_x, work.square, hyper, now, clips)
    pred_steps, enc_steps = t % int(hyper[run, PRED_EVERY]) == 0, t % int(hyper[run, ENC_EVERY]) == 0
    if enc_steps:
        np.dot(P.T, work.G, work.grad_B)
    eta, tau, keep = real(hyper[run, ETA]), real(hyper[run, TAU]), real(hyper[run, KEEP])
    if pred_steps:
        rate, mu = real(now[run, ALPHA_T]), real(hyper[run, MU_P])
        now[run, SQUARE_P] = _heavy_ball(
            P.reshape(-1), state.V_P[run].reshape(-1), work.grad_P.reshape(-1), rate, mu, eta
        )
    follow(run, P, now, memory)
    B_o, V_B, B_t = state.B_o[run].reshape(-1), state.V_B[run].reshape(-1), state.B_t[run].reshape(-1)
    rate, mu = real(now[run, BETA_T]), real(hyper[run, MU_B])
    gradient, lost = work.grad_B.reshape(-1), state.lost[run].reshape(-1)
    if not enc_steps:
        _average(B_o, B_t, lost, tau, keep)
    elif P.itemsize == 8:
        now[run, SQUARE_B] = _heavy_ball_and_average(B_o, V_B, B_t, gradient, rate, mu, eta, tau, keep)
    else:
        square = 0.0
        for lo in range(0, B_o.size, IN_CACHE):
            hi = min(lo + IN_CACHE, B_o.size)
            square += _heavy_ball(B_o[lo:hi], V_B[lo:hi], gradient[lo:hi], rate, mu, eta)
            _average(B_o[lo:hi], B_t[lo:hi], lost[lo:hi], tau, keep)
        now[run, SQUARE_B] = square
    check_divergence(run, t, now, course.diverged)


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
