"""Configurations -> the arrays of the kernels, and their log -> blocks of order parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byolsim.backends.base import LogBlock
from byolsim.backends.numba import structures
from byolsim.config.run import RunConfig
from byolsim.model.order import OrderParameters
from byolsim.model.start import Curvature, Start


def hyperparameters(group: Sequence[RunConfig]) -> np.ndarray:
    """The hyperparameters (K, 20) of the runs; see `structures`."""
    columns = {
        structures.ALPHA: "lr_pred", structures.BETA: "lr_enc", structures.MU_P: "mom_pred", structures.MU_B: "mom_enc",
        structures.TAU: "tau", structures.ETA_P: "eta_P", structures.ETA_B: "eta_B", structures.C_ALPHA: "auto_alpha_c",
        structures.C_BETA: "auto_beta_c", structures.PRED_EVERY: "pred_update_every",
        structures.ENC_EVERY: "enc_update_every", structures.POWER_ITERS: "power_iters",
        structures.AUTO_EVERY: "auto_every", structures.HORIZON: "epochs",
    }  # fmt: skip
    hyper = np.zeros((len(group), structures.COLUMNS))
    for column, name in columns.items():
        values = (getattr(config, name) for config in group)
        hyper[:, column] = [np.nan if value is None else value for value in values]
    hyper[:, structures.KEEP] = 1.0 - hyper[:, structures.TAU]
    for row, config in zip(hyper, group, strict=True):
        row[structures.WARMUP] = config.warmup or 0
        row[structures.LR_COSINE] = config.lr_schedule is not None
        row[structures.EMA_COSINE] = config.ema_schedule is not None
        row[structures.TIMED] = row[[structures.WARMUP, structures.LR_COSINE, structures.EMA_COSINE]].any()
        row[structures.NOISE_N] = config.batch_size if config.auto_noise_limit else 0
    return hyper


def initial_course(
    group: Sequence[RunConfig], P: np.ndarray, B_o: np.ndarray, initial: Start | None = None
) -> structures.Course:
    """The course at the start, with predictors P (K, k, k) and encoders B_o (K, k, .), in the dtype of training.

    What `initial` knows of the curvature is taken over.
    """
    K, k = len(group), P.shape[-1]
    now = np.zeros((K, structures.NOW))
    now[:, [structures.H_T, structures.LOSS]] = np.nan
    in_force, given = (structures.ALPHA_T, structures.BETA_T, structures.TAU_T), hyperparameters(group)
    now[:, list(in_force)] = given[:, [structures.ALPHA, structures.BETA, structures.TAU]]
    now[:, structures.FACTOR_T], now[:, structures.NOISE_LIMIT] = 1.0, np.nan
    now[:, structures.SQUARE_P] = np.square(P, dtype=np.float64).sum(axis=(1, 2))
    now[:, structures.SQUARE_B] = [np.square(B, dtype=np.float64).sum() for B in B_o]
    average, vector = np.zeros((K, k, k)), np.full((K, k), 1 / np.sqrt(k))
    if initial is not None and initial.curvature is not None:
        known = initial.curvature
        now[:, structures.H_T], now[:, structures.H_FLOOR], now[:, structures.TICKS] = known[:3]
        average[:], vector[:] = known.average, known.vector
    return structures.Course(
        now=now,
        average=average,
        vector=vector,
        diverged=np.full(K, -1),
        clips=np.zeros((K, 3), np.int64),
    )


def work_arrays(config: RunConfig, columns: int) -> structures.Work:
    """The work space of a step whose encoder has so many columns; 0 where a sampler has one of its own."""
    dtype, k = np.dtype(config.dtype), config.k
    rows = k if columns else 0
    return structures.Work(
        G=np.zeros((rows, columns), dtype),
        grad_P=np.zeros((rows, rows), dtype),
        grad_B=np.zeros((rows, columns), dtype),
        C=np.zeros((k, k), dtype),
        image=np.zeros(k),
        square=np.zeros((k, k)),
    )


def empty_log(K: int, rows: int, k: int, q: int) -> structures.Log:
    """A log with room for `rows` epochs."""

    def matrix(columns: int) -> np.ndarray:
        return np.zeros((K, rows, k, columns))

    return structures.Log(
        P=matrix(k),
        b_o=matrix(q),
        L_o=matrix(k),
        b_t=matrix(q),
        L_t=matrix(k),
        gap=np.zeros((K, rows)),
        steps=np.zeros((K, rows, len(structures.LOGGED))),
        valid=np.zeros((K, rows), np.bool_),
    )


def curvature_of(run: int, course: structures.Course) -> Curvature:
    """What a run knows of the curvature."""
    H, H_floor, ticks = (course.now[run, [column]].reshape(()) for column in _OF_CURVATURE)
    return Curvature(H, H_floor, ticks, course.average[run].copy(), course.vector[run].copy())


_OF_CURVATURE = (structures.H_T, structures.H_FLOOR, structures.TICKS)


def log_block(epochs: Sequence[int], log: structures.Log, course: structures.Course, behind: int) -> LogBlock:
    """The rows written so far, not copied: the next block needs a new log. Rows of diverged runs hold zeros.

    `behind` steps were behind the runs at their start.
    """
    rows = len(epochs)
    order = {name: getattr(log, name)[:, :rows] for name in ("P", "b_o", "L_o", "b_t", "L_t", "gap")}
    runs = len(log.valid)
    return LogBlock(
        epochs=np.array(epochs, dtype=np.int64),
        order=OrderParameters(**order),
        diverged_epoch=np.maximum(course.diverged[:runs] - behind, -1),
        clips=course.clips[:runs].copy(),
        steps={name: log.steps[:, :rows, i] for i, name in enumerate(structures.LOGGED)},
        valid=log.valid[:, :rows],
    )
