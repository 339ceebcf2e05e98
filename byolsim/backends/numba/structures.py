"""What the kernels take and change: arrays that travel together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLIP_PRED, CLIP_ENC, CLIP_FLOOR = 0, 1, 2
"""Columns of `State.clips`."""

# Arrays of the dtype that the run trains in, float64 or float32.
Real = NDArray[np.floating]


class WorldArrays(NamedTuple):
    """The world in the dtype of training: A (d, r), its basis Q_A (d, r), lam and sqrt(lam) (r,), and scalars."""

    A: Real
    Q_A: Real
    lam: Real
    root_lam: Real
    sigma: float
    lambda_max_x: float


class Hyper(NamedTuple):
    """Hyperparameters of each run, (K,). A rate that follows the schedule is NaN; a constant that is 0 turns it off."""

    alpha: NDArray[np.float64]
    beta: NDArray[np.float64]
    c_alpha: NDArray[np.float64]
    c_beta: NDArray[np.float64]
    mu_P: NDArray[np.float64]
    mu_B: NDArray[np.float64]
    tau: NDArray[np.float64]
    eta: NDArray[np.float64]
    pred_every: NDArray[np.int64]
    enc_every: NDArray[np.int64]
    power_iters: NDArray[np.int64]
    auto_every: NDArray[np.int64]


class State(NamedTuple):
    """Parameters, momentum buffers, curvature estimate, rates and counters of each run."""

    P: Real  # (K, r, r)
    V_P: Real
    B_o: Real  # (K, r, d)
    V_B: Real
    B_t: Real
    average: NDArray[np.float64]  # (K, r, r) moving average of the feature covariance
    vector: NDArray[np.float64]  # (K, r) of the power iteration
    H: NDArray[np.float64]  # (K,)
    H_floor: NDArray[np.float64]
    ticks: NDArray[np.int64]
    alpha_t: NDArray[np.float64]
    beta_t: NDArray[np.float64]
    loss: NDArray[np.float64]
    diverged: NDArray[np.int64]  # (K,) epoch of divergence, or -1
    clips: NDArray[np.int64]  # (K, 3)


class Scratch(NamedTuple):
    """Work space of one run's step, and the draws that the group shares."""

    Z: Real  # (r, n) latents of the shared minibatch
    X: Real  # (d, n)
    X_plus: Real  # (d, n)
    S_xx: Real  # (d, d) sample second moments, where n > d
    S_px: Real  # (d, d)
    S_pp: Real  # (d, d)
    Z_o: Real  # (r, n)
    Z_t: Real  # (r, n)
    D: Real  # (r, n)
    Y: Real  # (r, d)
    U: Real  # (r, d)
    W: Real  # (r, d)
    M_o: Real  # (r, r)
    M_t: Real  # (r, r)
    G: Real  # (r, d)
    grad_P: Real  # (r, r)
    grad_B: Real  # (r, d)
    C: Real  # (r, r)
    image: NDArray[np.float64]  # (r,)
    square: NDArray[np.float64]  # (r, r)


class Log(NamedTuple):
    """One block of logged rows, stacked (K, rows, ...): `order.OrderParameters`, and the step's own values."""

    P: NDArray[np.float64]
    b_o: NDArray[np.float64]
    L_o: NDArray[np.float64]
    b_t: NDArray[np.float64]
    L_t: NDArray[np.float64]
    gap: NDArray[np.float64]
    loss: NDArray[np.float64]
    Hmax: NDArray[np.float64]
    lr_pred_t: NDArray[np.float64]
    lr_enc_t: NDArray[np.float64]
    valid: NDArray[np.bool_]
