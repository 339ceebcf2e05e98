"""What the kernels take and change: arrays that travel together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLIP_PRED, CLIP_ENC, CLIP_FLOOR = 0, 1, 2
"""Columns of `Course.clips`."""

ALPHA, BETA, MU_P, MU_B, TAU, KEEP, ETA, C_ALPHA, C_BETA, PRED_EVERY, ENC_EVERY, POWER_ITERS, AUTO_EVERY = range(13)
"""Columns of the hyperparameters (K, 13) of the runs: KEEP is 1 - tau; a rate that follows the schedule is NaN, and a
constant that is 0 turns it off. One plain array: to read a field of a tuple costs a kernel more than to use it."""

IN_LANES = ETA + 1
"""Of these the first are needed in lanes."""

H_T, H_FLOOR, TICKS, ALPHA_T, BETA_T, LOSS, SQUARE_P, SQUARE_B = range(8)
"""Columns of `Course.now`: the curvature estimate, its floor and updates so far, the rates in force, the loss of the
last step that reported one, and the squared Frobenius norms of P and B_o."""

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


class State(NamedTuple):
    """Parameters and momentum buffers of each run."""

    P: Real  # (K, r, r)
    V_P: Real
    B_o: Real  # (K, r, d)
    V_B: Real
    B_t: Real
    lost: Real  # what rounding took from B_t, with the sign turned; of size 0 in double precision


class Course(NamedTuple):
    """Curvature estimate, rates, loss and counters of each run."""

    now: NDArray[np.float64]  # (K, 8)
    average: NDArray[np.float64]  # (K, r, r) moving average of the feature covariance
    vector: NDArray[np.float64]  # (K, r) of the power iteration
    diverged: NDArray[np.int64]  # (K,) epoch of divergence, or -1
    clips: NDArray[np.int64]  # (K, 3)


class Scratch(NamedTuple):
    """Work space of one run's step, and the draws that the group shares."""

    Z: Real  # (r, n) latents of the shared minibatch
    X: Real  # (d, n)
    X_plus: Real  # (d, n)
    S_xx: Real  # (d, d) sample second moments, where they pay
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
    reflections: NDArray[np.float64]  # (2, r)


class DirectScratch(NamedTuple):
    """Work space of the direct form, and the draws that the group shares; m = min(3r, n), c = min(r, n)."""

    n: float
    A: Real  # (d, r) A Lambda^(1/2)
    W: Real  # (3r, m)
    W_T: Real  # (m, 2r)
    N: Real  # (c, d)
    B: Real  # (r, d), a copy to factorise
    Q: Real  # (r, d) orthonormal rows of B_o
    Y: Real  # (r, d)
    U: Real  # (r, d)
    M_o: Real  # (r, r)
    M_t: Real  # (r, r)
    L_b: Real  # (r, r)
    L_t: Real  # (r, r)
    D: Real  # (r, 3r)
    E: Real  # (r, m)
    E_copy: Real  # (r, m)
    F: Real  # (r, 2r)
    FW: Real  # (r, m)
    DS: Real  # (r, 2r)
    DS_z: Real  # (r, r)
    factor: Real  # (r, c)
    small: Real  # (r, r)
    G: Real  # (r, d)
    grad_P: Real  # (r, r)
    grad_B: Real  # (r, d)
    C: Real  # (r, r)
    image: NDArray[np.float64]  # (r,)
    square: NDArray[np.float64]  # (r, r)
    reflections: NDArray[np.float64]  # (2, r)


class ReducedWorld(NamedTuple):
    """The world as the reduced moments see it, shared matrices (r, r); T = R_A Lambda R_A^T."""

    L_x: Real  # lower triangular, L_x L_x^T = T + sigma^2 I
    L_x_T: Real
    K_L_x: Real  # K L_x, K = T (T + sigma^2 I)^-1
    root_K: Real  # lower triangular, root_K root_K^T = K + I
    sigma: float
    lambda_max_x: float


class ReducedState(NamedTuple):
    """Packs of runs, a run a lane of the last axis; see `reduced.py`."""

    P: Real  # (packs, r, r, lanes)
    V_P: Real
    X: Real  # (packs, 3r, 5r, lanes)
    lost: Real  # (packs, r, 4r, lanes), as in `State`; (packs, r, 0, lanes) in double precision
    rates: Real  # (packs, IN_LANES, 1, lanes), the first columns of the hyperparameters, with the rates in force


class ReducedScratch(NamedTuple):
    """Work space of one pack's step, and the draws that the group shares; m = min(3r, n), c = min(r, n)."""

    lanes: int
    n: float
    W: Real  # (3r, m)
    W_T: Real  # (m, 2r)
    W_top: Real  # (2r, m), a view of W
    N: Real  # (c, 3r)
    a_o: Real  # (r, r, lanes), and so for all that follow
    D: Real  # (r, 3r)
    T: Real  # (r, 4r)
    E: Real  # (r, m)
    F: Real  # (r, 2r)
    F_T: Real  # (2r, r)
    FW: Real  # (r, m)
    FW_T: Real  # (m, r)
    DS: Real  # (r, 2r)
    G: Real  # (r, 5r)
    grad_P: Real  # (r, r)
    grad_B: Real  # (r, 5r)
    gram: Real  # (r, r)
    values: Real  # (2, 1)
    P: Real  # (r, r) of one run
    C: Real  # (r, r) of one run
    image: NDArray[np.float64]  # (r,)
    square: NDArray[np.float64]  # (r, r)
    outside: NDArray[np.float64]  # (r, 3r)
    online: NDArray[np.float64]  # (r, 4r)
    target: NDArray[np.float64]  # (r, 4r)
    work: NDArray[np.float64]  # (r, 4r)
    reflections: NDArray[np.float64]  # (2, r)


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
