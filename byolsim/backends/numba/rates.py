"""The auto schedule and the divergence check of one run: kernels that every sampler shares."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import diagonalise, dot
from byolsim.backends.numba.structures import (
    ALPHA,
    ALPHA_T,
    BETA,
    BETA_T,
    C_ALPHA,
    C_BETA,
    CLIP_ENC,
    CLIP_FLOOR,
    CLIP_PRED,
    EMA_COSINE,
    ETA_B,
    ETA_P,
    FACTOR_T,
    H_FLOOR,
    H_T,
    HORIZON,
    LR_COSINE,
    MU_B,
    MU_P,
    NOISE_LIMIT,
    NOISE_N,
    POWER_ITERS,
    SQUARE_B,
    SQUARE_P,
    TAU,
    TAU_T,
    TICKS,
    TIMED,
    WARMUP,
)  # fmt: skip
from byolsim.machine.jit import fma, inlined, kernel
from byolsim.model.schedule import (
    AVERAGE_RATE,
    FIRST_ITERATIONS,
    FLOOR_FRACTION,
    FLOOR_MINIMUM,
    LIMIT_FRACTION,
    NOISE_FRACTION,
)
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.model.theory import MEAN_SQUARE_HALVINGS


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
    now[run, NOISE_LIMIT] = np.nan


@inlined
def set_clock(run, t, hyper, now):
    """`schedule.rate_factor` and `schedule.ema_rate` of step t; without a schedule both stay as they are."""
    if hyper[run, TIMED] > 0:
        w, T = hyper[run, WARMUP], hyper[run, HORIZON]
        now[run, FACTOR_T] = 1.0
        if t <= w:
            now[run, FACTOR_T] = t / w
        elif hyper[run, LR_COSINE] > 0:
            now[run, FACTOR_T] = (1.0 + np.cos(np.pi * (t - w) / (T - w))) / 2.0
        if hyper[run, EMA_COSINE] > 0:
            now[run, TAU_T] = hyper[run, TAU] * (1.0 + np.cos(np.pi * t / T)) / 2.0


@inlined
def beta_may_be_cut(run, gain, lambda_max_x, hyper, now):
    """Whether beta could exceed its limit at a gain that is at least the one of `losses.first_layer_gain`."""
    if not hyper[run, C_BETA] > 0:
        return False
    rate = hyper[run, C_BETA] * now[run, TAU_T] / max(now[run, H_T], now[run, H_FLOOR])
    return rate * (lambda_max_x * gain + hyper[run, ETA_B]) > LIMIT_FRACTION * 2.0 * (1.0 + hyper[run, MU_B])


@inlined
def set_rates(run, gain, may_be_cut, lambda_max_x, square, hyper, now, clips, course):
    """`schedule.AutoRates` at the parameters before the step; fixed rates without a factor of time stay as they are.

    The gain, of `losses.first_layer_gain`, is used only where beta `may_be_cut`, and the course, of which `now` and
    `clips` are parts, where noise limits alpha: to read a field of it costs more than to use one.
    """
    scheduled_P, scheduled_B, timed = hyper[run, C_ALPHA] > 0, hyper[run, C_BETA] > 0, hyper[run, TIMED] > 0
    if timed:
        now[run, ALPHA_T] = now[run, FACTOR_T] * hyper[run, ALPHA]
        now[run, BETA_T] = now[run, FACTOR_T] * hyper[run, BETA]
    if not (scheduled_P or scheduled_B):
        return
    H = now[run, H_T]
    if now[run, H_FLOOR] > H:
        H = now[run, H_FLOOR]
        clips[run, CLIP_FLOOR] += 1
    if scheduled_P:
        rate = hyper[run, C_ALPHA] * now[run, TAU_T] / H
        limit = LIMIT_FRACTION * 2.0 * (1.0 + hyper[run, MU_P]) / (H + hyper[run, ETA_P])
        if hyper[run, NOISE_N] > 0:
            limit = min(limit, _noise_limit(run, hyper, now, course.average, square))
        if rate > limit:
            rate = limit
            clips[run, CLIP_PRED] += 1
        now[run, ALPHA_T] = now[run, FACTOR_T] * rate
    if scheduled_B:
        rate = hyper[run, C_BETA] * now[run, TAU_T] / H
        top = LIMIT_FRACTION * 2.0 * (1.0 + hyper[run, MU_B])
        if may_be_cut:
            curvature = lambda_max_x * gain + hyper[run, ETA_B]
            if rate * curvature > top:
                rate = top / curvature
                clips[run, CLIP_ENC] += 1
        now[run, BETA_T] = now[run, FACTOR_T] * rate


@kernel
def _noise_limit(run, hyper, now, average, square):
    """`schedule.CurvatureEstimate.noise_limit`, found anew where the average has changed; `square` is work space."""
    if np.isnan(now[run, NOISE_LIMIT]):
        now[run, NOISE_LIMIT] = np.inf
        if now[run, TICKS] > 0:
            correction = 1.0 / (1.0 - (1.0 - AVERAGE_RATE) ** now[run, TICKS])
            for i in range(square.shape[0]):
                for j in range(square.shape[0]):
                    square[i, j] = average[run, i, j] * correction
            diagonalise(square)
            now[run, NOISE_LIMIT] = NOISE_FRACTION * _mean_square_limit(square, hyper[run, NOISE_N], hyper[run, MU_P])
    return now[run, NOISE_LIMIT]


@kernel
def _mean_square_limit(C, n, mu):
    """`theory.mean_square_limit` of the diagonal of C."""
    largest = 0.0
    for i in range(C.shape[0]):
        largest = max(largest, C[i, i])
    if not largest > 0.0:
        return np.inf
    g = (1.0 - mu) / (1.0 + mu) + 1.0 / n
    low, high = 0.0, 2.0 * (1.0 - mu) / (largest * g)
    for _ in range(MEAN_SQUARE_HALVINGS):
        alpha = 0.5 * (low + high)
        phi = 0.0
        for i in range(C.shape[0]):
            c = max(C[i, i], 0.0)
            phi += c / (2.0 * (1.0 - mu) - alpha * c * g)
        if alpha / n * phi < 1.0:
            low = alpha
        else:
            high = alpha
    return low


@inlined
def is_bounded(run, now):
    """Whether the last norms of a run are within the bound, and numbers."""
    bound = DIVERGENCE_BOUND**2
    return now[run, SQUARE_P] <= bound and now[run, SQUARE_B] <= bound


@inlined
def check_divergence(run, t, now, diverged):
    """Note the epoch t if a norm of the run exceeds the bound or is not a number."""
    if not is_bounded(run, now):
        diverged[run] = t
