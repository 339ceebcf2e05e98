"""Configurations -> the arrays of the kernels, and their log -> blocks of order parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from byolsim.backends.base import LogBlock, second_moments_pay
from byolsim.backends.numba import structures
from byolsim.backends.numba.lanes import lane_count
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MomentsKey
from byolsim.model.encoder import initial_weights
from byolsim.model.moments import ReducedWorld, reduced_coordinates
from byolsim.model.order import OrderParameters
from byolsim.model.world import World


def world_arrays(config: RunConfig, world: World) -> structures.WorldArrays:
    """The world in the dtype of training."""
    dtype = np.dtype(config.dtype)
    return structures.WorldArrays(
        A=world.A.astype(dtype),
        Q_A=world.Q_A.astype(dtype),
        lam=world.lam.astype(dtype),
        root_lam=np.sqrt(world.lam).astype(dtype),
        sigma=world.sigma,
        lambda_max_x=world.lambda_max_x,
    )


def hyperparameters(group: Sequence[RunConfig]) -> np.ndarray:
    """The hyperparameters (K, 13) of the runs; see `structures`."""
    columns = {
        structures.ALPHA: "lr_pred", structures.BETA: "lr_enc", structures.MU_P: "mom_pred", structures.MU_B: "mom_enc",
        structures.TAU: "tau", structures.ETA: "weight_decay", structures.C_ALPHA: "auto_alpha_c",
        structures.C_BETA: "auto_beta_c", structures.PRED_EVERY: "pred_update_every",
        structures.ENC_EVERY: "enc_update_every", structures.POWER_ITERS: "power_iters",
        structures.AUTO_EVERY: "auto_every",
    }  # fmt: skip
    hyper = np.zeros((len(group), 13))
    for column, name in columns.items():
        values = (getattr(config, name) for config in group)
        hyper[:, column] = [np.nan if value is None else value for value in values]
    hyper[:, structures.KEEP] = 1.0 - hyper[:, structures.TAU]
    return hyper


def initial_state(group: Sequence[RunConfig], world: World) -> structures.State:
    """Initial weights, with the target at the encoder and momentum 0."""
    dtype, K, r, d = np.dtype(group[0].dtype), len(group), world.r, world.d
    weights = [initial_weights(config, world) for config in group]
    B_o = np.stack([B for B, _ in weights]).astype(dtype)
    P = np.stack([P for _, P in weights]).astype(dtype)
    return structures.State(
        P=P, V_P=np.zeros((K, r, r), dtype), B_o=B_o, V_B=np.zeros((K, r, d), dtype), B_t=B_o.copy(),
        lost=np.zeros((K, r, d if dtype == np.float32 else 0), dtype),
    )  # fmt: skip


def initial_course(group: Sequence[RunConfig], square_P: np.ndarray) -> structures.Course:
    """The course of runs whose predictors start with these squared norms."""
    K, r = len(group), group[0].d_latent
    now = np.zeros((K, 8))
    now[:, [structures.H_T, structures.LOSS]] = np.nan
    now[:, [structures.ALPHA_T, structures.BETA_T]] = hyperparameters(group)[:, [structures.ALPHA, structures.BETA]]
    now[:, structures.SQUARE_P] = square_P
    return structures.Course(
        now=now,
        average=np.zeros((K, r, r)),
        vector=np.full((K, r), 1 / np.sqrt(r)),
        diverged=np.full(K, -1),
        clips=np.zeros((K, 3), np.int64),
    )


def scratch_arrays(config: RunConfig) -> structures.Scratch:
    """Work space; what a sampler or regime does not use has size 0."""
    dtype, r, d = np.dtype(config.dtype), config.d_latent, config.d_obs
    n = config.batch_size if config.sampler == "minibatch" else 0
    moments = second_moments_pay(n, d, r)
    by_sample, by_moment = (0, d) if moments else (n, 0)

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    return structures.Scratch(
        Z=real(r, n),
        X=real(d, n),
        X_plus=real(d, n),
        S_xx=real(by_moment, by_moment),
        S_px=real(by_moment, by_moment),
        S_pp=real(by_moment, by_moment),
        Z_o=real(r, by_sample),
        Z_t=real(r, by_sample),
        D=real(r, by_sample),
        Y=real(r, d),
        U=real(r, d),
        W=real(r, d),
        M_o=real(r, r),
        M_t=real(r, r),
        G=real(r, d),
        grad_P=real(r, r),
        grad_B=real(r, d),
        C=real(r, r),
        image=np.zeros(r),
        square=np.zeros((r, r)),
        reflections=np.zeros((2, r)),
    )


def whole_packs(group: Sequence[RunConfig]) -> list[RunConfig]:
    """The group, with its last run repeated until every lane of every pack has one."""
    missing = -len(group) % lane_count(group[0].dtype)
    return [*group, *[group[-1]] * missing]


def reduced_world_arrays(config: RunConfig, world: World) -> structures.ReducedWorld:
    """The shared matrices of the reduced form."""
    dtype, reduced = np.dtype(config.dtype), ReducedWorld(world)
    return structures.ReducedWorld(
        L_x=np.ascontiguousarray(reduced.L_x, dtype),
        L_x_T=np.ascontiguousarray(reduced.L_x.T, dtype),
        K_L_x=np.ascontiguousarray(reduced.K @ reduced.L_x, dtype),
        root_K=np.ascontiguousarray(reduced.root_K, dtype),
        sigma=world.sigma,
        lambda_max_x=world.lambda_max_x,
    )


def initial_reduced_state(group: Sequence[RunConfig], world: World) -> structures.ReducedState:
    """Packs of runs, a run a lane; the encoders of d columns live only while their coordinates are taken."""
    dtype, r = np.dtype(group[0].dtype), world.r
    starts = {config.init: config for config in group}
    weights = {init: initial_weights(config, world) for init, config in starts.items()}
    coordinates = {init: reduced_coordinates(B_o, world) for init, (B_o, _) in weights.items()}
    return structures.ReducedState(
        P=_in_lanes([weights[config.init][1] for config in group], dtype),
        V_P=_in_lanes([np.zeros((r, r))] * len(group), dtype),
        X=_in_lanes([coordinates[config.init] for config in group], dtype),
        lost=_in_lanes([np.zeros((r, r if dtype == np.float32 else 0))] * len(group), dtype),
        rates=_in_lanes([row[: structures.IN_LANES, None] for row in hyperparameters(group)], dtype),
    )


def _in_lanes(matrices: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Matrices of all runs as (packs, rows, columns, lanes)."""
    rows, columns = matrices[0].shape
    lanes = lane_count(dtype)
    stack = np.stack(matrices).astype(dtype).reshape(len(matrices) // lanes, lanes, rows, columns)
    return np.ascontiguousarray(np.moveaxis(stack, 1, 3))


def reduced_scratch(config: RunConfig, key: MomentsKey) -> structures.ReducedScratch:
    """Work space of one pack."""
    dtype, r, lanes = np.dtype(config.dtype), key.r, lane_count(config.dtype)
    (q, m), (c, _) = key.shapes

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    W = real(q, m)
    return structures.ReducedScratch(
        lanes=lanes,
        n=float(key.n),
        W=W,
        W_T=real(m, 2 * r),
        W_top=W[: 2 * r],
        N=real(c, 3 * r),
        a_o=real(r, r, lanes),
        D=real(r, 3 * r, lanes),
        T=real(r, 4 * r, lanes),
        E=real(r, m, lanes),
        F=real(r, 2 * r, lanes),
        F_T=real(2 * r, r, lanes),
        FW=real(r, m, lanes),
        FW_T=real(m, r, lanes),
        DS=real(r, 2 * r, lanes),
        G=real(r, 5 * r, lanes),
        grad_P=real(r, r, lanes),
        grad_B=real(r, 5 * r, lanes),
        gram=real(r, r, lanes),
        values=real(2, 1, lanes),
        P=real(r, r),
        C=real(r, r),
        image=np.zeros(r),
        square=np.zeros((r, r)),
        outside=np.zeros((r, 3 * r)),
        online=np.zeros((r, 4 * r)),
        target=np.zeros((r, 4 * r)),
        work=np.zeros((r, 4 * r)),
        reflections=np.zeros((2, r)),
    )


def direct_scratch(config: RunConfig, key: MomentsKey, world: World) -> structures.DirectScratch:
    """Work space of the direct form."""
    dtype, r, d = np.dtype(config.dtype), key.r, key.d
    (q, m), (c, _) = key.shapes

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    return structures.DirectScratch(
        n=float(key.n),
        A=(world.A * np.sqrt(world.lam)).astype(dtype),
        W=real(q, m),
        W_T=real(m, 2 * r),
        N=real(c, d),
        B=real(r, d),
        Q=real(r, d),
        Y=real(r, d),
        U=real(r, d),
        M_o=real(r, r),
        M_t=real(r, r),
        L_b=real(r, r),
        L_t=real(r, r),
        D=real(r, q),
        E=real(r, m),
        E_copy=real(r, m),
        F=real(r, 2 * r),
        FW=real(r, m),
        DS=real(r, 2 * r),
        DS_z=real(r, r),
        factor=real(r, c),
        small=real(r, r),
        G=real(r, d),
        grad_P=real(r, r),
        grad_B=real(r, d),
        C=real(r, r),
        image=np.zeros(r),
        square=np.zeros((r, r)),
        reflections=np.zeros((2, r)),
    )


def empty_log(K: int, rows: int, r: int) -> structures.Log:
    """A log with room for `rows` epochs."""

    def matrix() -> np.ndarray:
        return np.zeros((K, rows, r, r))

    def scalar() -> np.ndarray:
        return np.zeros((K, rows))

    return structures.Log(
        P=matrix(),
        b_o=matrix(),
        L_o=matrix(),
        b_t=matrix(),
        L_t=matrix(),
        gap=scalar(),
        loss=scalar(),
        Hmax=scalar(),
        lr_pred_t=scalar(),
        lr_enc_t=scalar(),
        valid=np.zeros((K, rows), np.bool_),
    )


def log_block(epochs: Sequence[int], log: structures.Log, course: structures.Course) -> LogBlock:
    """The rows written so far, not copied: the next block needs a new log. Rows of diverged runs hold zeros."""
    rows = len(epochs)
    order = {name: getattr(log, name)[:, :rows] for name in ("P", "b_o", "L_o", "b_t", "L_t", "gap")}
    values = {name: getattr(log, name)[:, :rows] for name in ("loss", "Hmax", "lr_pred_t", "lr_enc_t", "valid")}
    runs = len(log.valid)
    return LogBlock(
        epochs=np.array(epochs, dtype=np.int64),
        order=OrderParameters(**order),
        diverged_epoch=course.diverged[:runs].copy(),
        clips=course.clips[:runs].copy(),
        **values,
    )
