"""The auto schedule and the divergence check of one run: kernels that every sampler shares."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import dot, spectral_norm_squared
from byolsim.backends.numba.structures import (
    ALPHA_T,
    BETA_T,
    C_ALPHA,
    C_BETA,
    CLIP_ENC,
    CLIP_FLOOR,
    CLIP_PRED,
    ETA,
    H_FLOOR,
    H_T,
    MU_B,
    MU_P,
    POWER_ITERS,
    SQUARE_B,
    SQUARE_P,
    TAU,
    TICKS,
)  # fmt: skip
from byolsim.machine.jit import fma, inlined, kernel
from byolsim.model.schedule import AVERAGE_RATE, FIRST_ITERATIONS, FLOOR_FRACTION, FLOOR_MINIMUM, LIMIT_FRACTION
from byolsim.model.state import DIVERGENCE_BOUND


@kernel
def curvature_tick(run, hyper, course, work):
    """`schedule.CurvatureEstimate.tick` with the feature covariance in `work.C`."""
    now, C, S, v, image = course.now, work.C, course.average[run], course.vector[run], work.image
    r = v.size
    now[run, TICKS] += 1.0
    for i in range(r):
        for j in range(r):
            S[i, j] = fma(1.0 - AVERAGE_RATE, S[i, j], AVERAGE_RATE * C[i, j])
    correction = 1.0 / (1.0 - (1.0 - AVERAGE_RATE) ** now[run, TICKS])
    iterations = FIRST_ITERATIONS if now[run, TICKS] == 1.0 else int(hyper[run, POWER_ITERS])
    for iteration in range(iterations + 1):
        square, quotient = 0.0, 0.0
        for i in range(r):
            image[i] = dot(S[i], v) * correction
            square += image[i] * image[i]
            quotient += image[i] * v[i]
        if iteration == iterations:
            now[run, H_T] = quotient
        elif square > 0.0:
            inverse = 1.0 / np.sqrt(square)
            for i in range(r):
                v[i] = image[i] * inverse
    if now[run, TICKS] == 1.0:
        now[run, H_FLOOR] = max(FLOOR_FRACTION * now[run, H_T], FLOOR_MINIMUM)


@inlined
def beta_may_be_cut(run, lambda_max_x, hyper, now):
    """Whether beta could exceed its limit: ||P||_F >= ||P||_2, and where the larger does not cut, neither does."""
    if not hyper[run, C_BETA] > 0:
        return False
    rate = hyper[run, C_BETA] * hyper[run, TAU] / max(now[run, H_T], now[run, H_FLOOR])
    return rate * (lambda_max_x * now[run, SQUARE_P] + hyper[run, ETA]) > LIMIT_FRACTION * 2.0 * (
        1.0 + hyper[run, MU_B]
    )


@inlined
def set_rates(run, P, may_be_cut, lambda_max_x, square, hyper, now, clips):
    """`schedule.AutoRates` at the parameters before the step; fixed rates stay as they are.

    P is read only where beta `may_be_cut`.
    """
    scheduled_P, scheduled_B = hyper[run, C_ALPHA] > 0, hyper[run, C_BETA] > 0
    if not (scheduled_P or scheduled_B):
        return
    H, eta = now[run, H_T], hyper[run, ETA]
    if now[run, H_FLOOR] > H:
        H = now[run, H_FLOOR]
        clips[run, CLIP_FLOOR] += 1
    if scheduled_P:
        rate = hyper[run, C_ALPHA] * hyper[run, TAU] / H
        limit = LIMIT_FRACTION * 2.0 * (1.0 + hyper[run, MU_P]) / (H + eta)
        if rate > limit:
            rate = limit
            clips[run, CLIP_PRED] += 1
        now[run, ALPHA_T] = rate
    if scheduled_B:
        rate = hyper[run, C_BETA] * hyper[run, TAU] / H
        top = LIMIT_FRACTION * 2.0 * (1.0 + hyper[run, MU_B])
        if may_be_cut:
            curvature = lambda_max_x * spectral_norm_squared(P, square) + eta
            if rate * curvature > top:
                rate = top / curvature
                clips[run, CLIP_ENC] += 1
        now[run, BETA_T] = rate


@inlined
def check_divergence(run, t, now, diverged):
    """Note the epoch t if a norm of the run exceeds the bound or is not a number."""
    bound = DIVERGENCE_BOUND**2
    if not (now[run, SQUARE_P] <= bound and now[run, SQUARE_B] <= bound):
        diverged[run] = t
