"""The auto schedule and the divergence check of one run: kernels that every sampler shares."""

from __future__ import annotations

import numpy as np

from byolsim.backends.base import DIVERGENCE_BOUND
from byolsim.backends.numba.linalg import spectral_norm_squared
from byolsim.backends.numba.structures import CLIP_ENC, CLIP_FLOOR, CLIP_PRED
from byolsim.jit import kernel
from byolsim.schedule import AVERAGE_RATE, FIRST_ITERATIONS, FLOOR_FRACTION, FLOOR_MINIMUM, LIMIT_FRACTION


@kernel
def curvature_tick(k, hyper, course, scratch):
    """`schedule.CurvatureEstimate.tick` with the feature covariance in C."""
    C, S, v, image = scratch.C, course.average[k], course.vector[k], scratch.image
    r = v.size
    course.ticks[k] += 1
    for i in range(r):
        for j in range(r):
            S[i, j] = (1.0 - AVERAGE_RATE) * S[i, j] + AVERAGE_RATE * C[i, j]
    correction = 1.0 / (1.0 - (1.0 - AVERAGE_RATE) ** course.ticks[k])
    iterations = FIRST_ITERATIONS if course.ticks[k] == 1 else hyper.power_iters[k]
    for iteration in range(iterations + 1):
        square, quotient = 0.0, 0.0
        for i in range(r):
            total = 0.0
            for j in range(r):
                total += S[i, j] * v[j]
            image[i] = total * correction
            square += image[i] * image[i]
            quotient += image[i] * v[i]
        if iteration == iterations:
            course.H[k] = quotient
        elif square > 0.0:
            inverse = 1.0 / np.sqrt(square)
            for i in range(r):
                v[i] = image[i] * inverse
    if course.ticks[k] == 1:
        course.H_floor[k] = max(FLOOR_FRACTION * course.H[k], FLOOR_MINIMUM)


@kernel
def set_rates(k, P, world, hyper, course, scratch):
    """`schedule.AutoRates` at the parameters before the step; fixed rates stay as they are."""
    scheduled_P, scheduled_B = hyper.c_alpha[k] > 0, hyper.c_beta[k] > 0
    if not (scheduled_P or scheduled_B):
        return
    H = course.H[k]
    if course.H_floor[k] > H:
        H = course.H_floor[k]
        course.clips[k, CLIP_FLOOR] += 1
    if scheduled_P:
        rate = hyper.c_alpha[k] * hyper.tau[k] / H
        limit = LIMIT_FRACTION * 2.0 * (1.0 + hyper.mu_P[k]) / (H + hyper.eta[k])
        if rate > limit:
            rate = limit
            course.clips[k, CLIP_PRED] += 1
        course.alpha_t[k] = rate
    if scheduled_B:
        rate = hyper.c_beta[k] * hyper.tau[k] / H
        top = LIMIT_FRACTION * 2.0 * (1.0 + hyper.mu_B[k])
        # ||P||_F >= ||P||_2: below the limit of the cheap norm, the exact one need not be known.
        if rate * (world.lambda_max_x * course.square_P[k] + hyper.eta[k]) > top:
            curvature = world.lambda_max_x * spectral_norm_squared(P, scratch.square) + hyper.eta[k]
            if rate * curvature > top:
                rate = top / curvature
                course.clips[k, CLIP_ENC] += 1
        course.beta_t[k] = rate


@kernel
def check_divergence(k, t, course):
    """Note the epoch t if a norm of run k exceeds the bound or is not a number."""
    bound = DIVERGENCE_BOUND**2
    if not (course.square_P[k] <= bound and course.square_B[k] <= bound):
        course.diverged[k] = t
