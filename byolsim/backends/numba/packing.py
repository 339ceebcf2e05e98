"""Configurations -> the arrays of the kernels, and their log -> blocks of order parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byolsim.backends.base import LogBlock
from byolsim.backends.numba import structures
from byolsim.config.run import RunConfig
from byolsim.model.order import OrderParameters


def hyperparameters(group: Sequence[RunConfig]) -> np.ndarray:
    """The hyperparameters (K, 13) of the runs; see `structures`."""
    columns = {
        structures.ALPHA: "lr_pred", structures.BETA: "lr_enc", structures.MU_P: "mom_pred", structures.MU_B: "mom_enc",
        structures.TAU: "tau", structures.ETA: "weight_decay", structures.C_ALPHA: "auto_alpha_c",
        structures.C_BETA: "auto_beta_c", structures.PRED_EVERY: "pred_update_every",
        structures.ENC_EVERY: "enc_update_every", structures.POWER_ITERS: "power_iters",
        structures.AUTO_EVERY: "auto_every",
    }  # fmt: skip
    hyper = np.zeros((len(group), structures.COLUMNS))
    for column, name in columns.items():
        values = (getattr(config, name) for config in group)
        hyper[:, column] = [np.nan if value is None else value for value in values]
    hyper[:, structures.KEEP] = 1.0 - hyper[:, structures.TAU]
    return hyper


def initial_course(group: Sequence[RunConfig], P: np.ndarray) -> structures.Course:
    """The course of runs whose predictors are P (K, r, r), in the dtype of training, at the start."""
    K, r = len(group), group[0].d_latent
    now = np.zeros((K, structures.NOW))
    now[:, [structures.H_T, structures.LOSS]] = np.nan
    in_force, given = (structures.ALPHA_T, structures.BETA_T, structures.TAU_T), hyperparameters(group)
    now[:, list(in_force)] = given[:, [structures.ALPHA, structures.BETA, structures.TAU]]
    now[:, structures.SQUARE_P] = np.square(P, dtype=np.float64).sum(axis=(1, 2))
    return structures.Course(
        now=now,
        average=np.zeros((K, r, r)),
        vector=np.full((K, r), 1 / np.sqrt(r)),
        diverged=np.full(K, -1),
        clips=np.zeros((K, 3), np.int64),
    )


def work_arrays(config: RunConfig, columns: int) -> structures.Work:
    """The work space of a step whose encoder has so many columns; 0 where a sampler has one of its own."""
    dtype, r = np.dtype(config.dtype), config.d_latent
    rows = r if columns else 0
    return structures.Work(
        G=np.zeros((rows, columns), dtype),
        grad_P=np.zeros((rows, rows), dtype),
        grad_B=np.zeros((rows, columns), dtype),
        C=np.zeros((r, r), dtype),
        image=np.zeros(r),
        square=np.zeros((r, r)),
    )


def empty_log(K: int, rows: int, r: int) -> structures.Log:
    """A log with room for `rows` epochs."""

    def matrix() -> np.ndarray:
        return np.zeros((K, rows, r, r))

    return structures.Log(
        P=matrix(),
        b_o=matrix(),
        L_o=matrix(),
        b_t=matrix(),
        L_t=matrix(),
        gap=np.zeros((K, rows)),
        steps=np.zeros((K, rows, len(structures.LOGGED))),
        valid=np.zeros((K, rows), np.bool_),
    )


def log_block(epochs: Sequence[int], log: structures.Log, course: structures.Course) -> LogBlock:
    """The rows written so far, not copied: the next block needs a new log. Rows of diverged runs hold zeros."""
    rows = len(epochs)
    order = {name: getattr(log, name)[:, :rows] for name in ("P", "b_o", "L_o", "b_t", "L_t", "gap")}
    runs = len(log.valid)
    return LogBlock(
        epochs=np.array(epochs, dtype=np.int64),
        order=OrderParameters(**order),
        diverged_epoch=course.diverged[:runs].copy(),
        clips=course.clips[:runs].copy(),
        steps={name: log.steps[:, :rows, i] for i, name in enumerate(structures.LOGGED)},
        valid=log.valid[:, :rows],
    )
