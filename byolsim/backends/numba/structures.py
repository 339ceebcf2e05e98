"""What the kernels of every sampler take and change: arrays that travel together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLIP_PRED, CLIP_ENC, CLIP_FLOOR = 0, 1, 2
"""Columns of `Course.clips`."""

FACTORS = range(8)
ALPHA, BETA, MU_P, MU_B, TAU, KEEP, ETA_P, ETA_B = FACTORS
C_ALPHA, C_BETA, PRED_EVERY, ENC_EVERY, POWER_ITERS, AUTO_EVERY = range(8, 14)
TIMED, WARMUP, LR_COSINE, EMA_COSINE, HORIZON, NOISE_N = range(14, 20)
"""Columns of the hyperparameters (K, 20) of the runs: KEEP is 1 - tau; a rate that follows the schedule is NaN, and a
constant that is 0 turns it off. The first eight are what a step multiplies by. TIMED says whether any rate follows the
time: a warm-up of WARMUP steps, a cosine of both learning rates or of the EMA's rate over HORIZON steps. NOISE_N is the
batch size where noise limits alpha, else 0. One plain array: to read a field of a tuple costs a kernel more than to use
it."""

COLUMNS = NOISE_N + 1

H_T, H_FLOOR, TICKS, ALPHA_T, BETA_T, LOSS, SQUARE_P, SQUARE_B, TAU_T, FACTOR_T, NOISE_LIMIT = range(11)
"""Columns of `Course.now`: the curvature estimate, its floor and updates so far, the learning rates in force, the loss
of the last step that reported one, the squared Frobenius norms of P and of B_o (of several layers the largest), the
rate of the EMA in force, the factor of time on the learning rates, and the noise's limit of alpha, NaN where the
average has changed since."""

NOW = NOISE_LIMIT + 1

LOGGED = {"loss": LOSS, "Hmax": H_T, "lr_pred_t": ALPHA_T, "lr_enc_t": BETA_T, "tau_t": TAU_T}
LOGGED_OF_NOW = tuple(LOGGED.values())
"""`metrics.step_metrics`: the names, and the columns of `Course.now` that hold the values."""

# Arrays of the dtype that the run trains in, float64 or float32.
Real = NDArray[np.floating]


class Course(NamedTuple):
    """Curvature estimate, rates, loss and counters of each run."""

    now: NDArray[np.float64]  # (K, NOW)
    average: NDArray[np.float64]  # (K, k, k) moving average of the feature covariance
    vector: NDArray[np.float64]  # (K, k) of the power iteration
    diverged: NDArray[np.int64]  # (K,) epoch of divergence, or -1
    clips: NDArray[np.int64]  # (K, 3)


class Work(NamedTuple):
    """Between a sampler and the rest of the step: what the sampler computes, and the work space of the schedule."""

    G: Real  # (k, d) residual gradient; of size 0 in the reduced form, and so for the gradients
    grad_P: Real  # (k, k)
    grad_B: Real  # (k, d)
    C: Real  # (k, k) feature covariance, on the ticks of the schedule's clock
    image: NDArray[np.float64]  # (k,) of the power iteration
    square: NDArray[np.float64]  # (k, k) P^T P


class Log(NamedTuple):
    """One block of logged rows, stacked (K, rows, ...): `order.OrderParameters`, and the step's own values."""

    P: NDArray[np.float64]
    b_o: NDArray[np.float64]
    L_o: NDArray[np.float64]
    b_t: NDArray[np.float64]
    L_t: NDArray[np.float64]
    gap: NDArray[np.float64]
    steps: NDArray[np.float64]  # (K, rows, len(LOGGED))
    valid: NDArray[np.bool_]
