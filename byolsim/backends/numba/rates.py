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
def curvature_tick(k, hyper, course, work):
    """`schedule.CurvatureEstimate.tick` with the feature covariance in `work.C`."""
    now, C, S, v, image = course.now, work.C, course.average[k], course.vector[k], work.image
    r = v.size
    now[k, TICKS] += 1.0
    for i in range(r):
        for j in range(r):
            S[i, j] = fma(1.0 - AVERAGE_RATE, S[i, j], AVERAGE_RATE * C[i, j])
    correction = 1.0 / (1.0 - (1.0 - AVERAGE_RATE) ** now[k, TICKS])
    iterations = FIRST_ITERATIONS if now[k, TICKS] == 1.0 else int(hyper[k, POWER_ITERS])
    for iteration in range(iterations + 1):
        square, quotient = 0.0, 0.0
        for i in range(r):
            image[i] = dot(S[i], v) * correction
            square += image[i] * image[i]
            quotient += image[i] * v[i]
        if iteration == iterations:
            now[k, H_T] = quotient
        elif square > 0.0:
            inverse = 1.0 / np.sqrt(square)
            for i in range(r):
                v[i] = image[i] * inverse
    if now[k, TICKS] == 1.0:
        now[k, H_FLOOR] = max(FLOOR_FRACTION * now[k, H_T], FLOOR_MINIMUM)


@inlined
def beta_may_be_cut(k, lambda_max_x, hyper, now):
    """Whether beta could exceed its limit: ||P||_F >= ||P||_2, and where the larger does not cut, neither does."""
    if not hyper[k, C_BETA] > 0:
        return False
    rate = hyper[k, C_BETA] * hyper[k, TAU] / max(now[k, H_T], now[k, H_FLOOR])
    return rate * (lambda_max_x * now[k, SQUARE_P] + hyper[k, ETA]) > LIMIT_FRACTION * 2.0 * (1.0 + hyper[k, MU_B])


@inlined
def set_rates(k, P, may_be_cut, lambda_max_x, square, hyper, now, clips):
    """`schedule.AutoRates` at the parameters before the step; fixed rates stay as they are.

    P is read only where beta `may_be_cut`.
    """
    scheduled_P, scheduled_B = hyper[k, C_ALPHA] > 0, hyper[k, C_BETA] > 0
    if not (scheduled_P or scheduled_B):
        return
    H, eta = now[k, H_T], hyper[k, ETA]
    if now[k, H_FLOOR] > H:
        H = now[k, H_FLOOR]
        clips[k, CLIP_FLOOR] += 1
    if scheduled_P:
        rate = hyper[k, C_ALPHA] * hyper[k, TAU] / H
        limit = LIMIT_FRACTION * 2.0 * (1.0 + hyper[k, MU_P]) / (H + eta)
        if rate > limit:
            rate = limit
            clips[k, CLIP_PRED] += 1
        now[k, ALPHA_T] = rate
    if scheduled_B:
        rate = hyper[k, C_BETA] * hyper[k, TAU] / H
        top = LIMIT_FRACTION * 2.0 * (1.0 + hyper[k, MU_B])
        if may_be_cut:
            curvature = lambda_max_x * spectral_norm_squared(P, square) + eta
            if rate * curvature > top:
                rate = top / curvature
                clips[k, CLIP_ENC] += 1
        now[k, BETA_T] = rate


@inlined
def check_divergence(k, t, now, diverged):
    """Note the epoch t if a norm of run k exceeds the bound or is not a number."""
    bound = DIVERGENCE_BOUND**2
    if not (now[k, SQUARE_P] <= bound and now[k, SQUARE_B] <= bound):
        diverged[k] = t
