"""The arrays of the reduced form: shared matrices, packs of runs, and work space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.lanes import lane_count
from byolsim.backends.numba.packing import hyperparameters
from byolsim.backends.numba.structures import FACTORS, Real
from byolsim.config.run import RunConfig
from byolsim.model import moments, samplers
from byolsim.model.encoder import initial_weights
from byolsim.model.world import World

CACHE_LINE = 64


class ReducedWorld(NamedTuple):
    """The world as the reduced moments see it: the shared matrices (r, r) of `moments.ReducedWorld`, and scalars."""

    L_x: Real  # lower triangular
    L_x_T: Real
    K_L_x: Real  # K L_x
    root_K: Real  # lower triangular
    sigma: float
    lambda_max_x: float


class ReducedState(NamedTuple):
    """Packs of runs, a run a lane of the last axis; see `reduced.py`."""

    P: Real  # (packs, r, r, lanes)
    V_P: Real
    X: Real  # (packs, 3r, 5r, lanes)
    lost: Real  # (packs, r, 4r, lanes), as in `whole.State`; (packs, r, 0, lanes) in double precision
    factors: Real  # (packs, 7, 1, lanes), the hyperparameters `structures.FACTORS`, with the rates in force


class ReducedScratch(NamedTuple):
    """The draws that the group shares, and work space of one pack's step; m = min(3r, n), c = min(r, n)."""

    lanes: int
    n: float
    W: Real  # (3r, m) W / sqrt(n)
    W_T: Real  # (m, 2r) the same, its first rows transposed
    W_top: Real  # (2r, m), a view of W
    N: Real  # (c, 3r) sigma N / sqrt(n)
    a_o: Real  # (r, r, lanes) b_o L_x, and in lanes all up to `squares`
    bK: Real  # (r, r) b_t K L_x
    L_w: Real  # (r, 4r) [b_t root_K, L_t], and then its factor
    D: Real  # (r, 3r)
    E: Real  # (r, m), and then its factor C
    F: Real  # (r, 2r)
    F_T: Real  # (2r, r)
    FW: Real  # (r, m)
    FW_T: Real  # (m, r)
    C: Real  # (r, r) feature covariance
    DS: Real  # (r, 2r)
    G: Real  # (r, 5r)
    P_T: Real  # (r, r)
    grad_P: Real  # (r, r)
    grad_B: Real  # (r, 5r)
    loss: Real  # (1, 1)
    squares: Real  # (2, 1) squared norms of P and B_o
    P: Real  # (r, r) of one run


class ReducedLogScratch(NamedTuple):
    """Work space of a snapshot, of one run in double precision."""

    outside: np.ndarray  # (r, 3r) of the target, and then its reflectors
    online: np.ndarray  # (r, 4r)
    target: np.ndarray  # (r, 4r)
    difference: np.ndarray  # (r, 4r)
    reflections: np.ndarray  # (2, r)


def whole_packs(group: Sequence[RunConfig]) -> list[RunConfig]:
    """The group, with its last run repeated until every lane of every pack has one."""
    missing = -len(group) % lane_count(group[0].dtype)
    return [*group, *[group[-1]] * missing]


def reduced_world(config: RunConfig, world: World) -> ReducedWorld:
    """The shared matrices of the reduced form."""
    dtype, reduced = np.dtype(config.dtype), moments.ReducedWorld(world)
    return ReducedWorld(
        L_x=np.ascontiguousarray(reduced.L_x, dtype),
        L_x_T=np.ascontiguousarray(reduced.L_x.T, dtype),
        K_L_x=np.ascontiguousarray(reduced.K @ reduced.L_x, dtype),
        root_K=np.ascontiguousarray(reduced.root_K, dtype),
        sigma=world.sigma,
        lambda_max_x=world.lambda_max_x,
    )


def initial_reduced_state(group: Sequence[RunConfig], world: World) -> ReducedState:
    """Packs of runs, a run a lane; the encoders of d columns live only while their coordinates are taken."""
    dtype, r = np.dtype(group[0].dtype), world.r
    starts = {config.init: config for config in group}
    weights = {init: initial_weights(config, world) for init, config in starts.items()}
    coordinates = {init: moments.reduced_coordinates(B_o, world) for init, (B_o, _) in weights.items()}
    return ReducedState(
        P=_in_lanes([weights[config.init][1] for config in group], dtype),
        V_P=_in_lanes([np.zeros((r, r))] * len(group), dtype),
        X=_in_lanes([coordinates[config.init] for config in group], dtype),
        lost=_in_lanes([np.zeros((r, 4 * r if dtype == np.float32 else 0))] * len(group), dtype),
        factors=_in_lanes([row[FACTORS, None] for row in hyperparameters(group)], dtype),
    )


def _in_lanes(matrices: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Matrices of all runs as (packs, rows, columns, lanes)."""
    rows, columns = matrices[0].shape
    lanes = lane_count(dtype)
    stack = np.stack(matrices).astype(dtype).reshape(len(matrices) // lanes, lanes, rows, columns)
    M = _aligned_zeros((len(stack), rows, columns, lanes), dtype)
    M[:] = np.moveaxis(stack, 1, 3)
    return M


def _aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros from the start of a cache line on: no register of lanes then lies across two of them.

    Where NumPy happens to put an array costs or saves a step up to a tenth.
    """
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + size].view(dtype).reshape(shape)


def reduced_scratch(config: RunConfig) -> ReducedScratch:
    """Work space of one pack."""
    key, dtype, r, lanes = (
        samplers.Reduced(config).key,
        np.dtype(config.dtype),
        config.d_latent,
        lane_count(config.dtype),
    )
    (q, m), (c, _) = key.shapes

    def shared(rows: int, columns: int) -> np.ndarray:
        return np.zeros((rows, columns), dtype)

    def in_lanes(rows: int, columns: int) -> np.ndarray:
        return _aligned_zeros((rows, columns, lanes), dtype)

    W = shared(q, m)
    return ReducedScratch(
        lanes=lanes,
        n=float(key.n),
        W=W,
        W_T=shared(m, 2 * r),
        W_top=W[: 2 * r],
        N=shared(c, 3 * r),
        a_o=in_lanes(r, r),
        bK=in_lanes(r, r),
        L_w=in_lanes(r, 4 * r),
        D=in_lanes(r, 3 * r),
        E=in_lanes(r, m),
        F=in_lanes(r, 2 * r),
        F_T=in_lanes(2 * r, r),
        FW=in_lanes(r, m),
        FW_T=in_lanes(m, r),
        C=in_lanes(r, r),
        DS=in_lanes(r, 2 * r),
        G=in_lanes(r, 5 * r),
        P_T=in_lanes(r, r),
        grad_P=in_lanes(r, r),
        grad_B=in_lanes(r, 5 * r),
        loss=in_lanes(1, 1),
        squares=in_lanes(2, 1),
        P=shared(r, r),
    )
