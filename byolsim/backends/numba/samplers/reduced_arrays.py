"""The arrays of the reduced form: shared matrices, packs of runs, and work space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.lanes import lane_count
from byolsim.backends.numba.packing import hyperparameters
from byolsim.backends.numba.structures import FACTORS, Real
from byolsim.config.fields import names
from byolsim.config.run import RunConfig
from byolsim.model import moments, samplers
from byolsim.model.encoder import initial_weights
from byolsim.model.schedule import largest_variance
from byolsim.model.start import Start
from byolsim.model.world import World

CACHE_LINE = 64
OF_START = names(RunConfig, "of_start")


class ReducedWorld(NamedTuple):
    """The world as the reduced moments see it: the shared matrices (q, q) of `moments.ReducedWorld`, and scalars."""

    L_x: Real  # lower triangular
    L_x_T: Real
    M: Real
    root: Real  # lower triangular
    sigma: float
    scale: float
    ratio: float
    lambda_max_x: float


class ReducedState(NamedTuple):
    """Packs of runs, a run a lane of the last axis; see `reduced.py`."""

    P: Real  # (packs, k, k, lanes)
    V_P: Real
    X: Real  # (packs, 3k, q + 4k, lanes)
    lost: Real  # (packs, k, q + 3k, lanes), as in `whole.State`; (packs, k, 0, lanes) in double precision
    factors: Real  # (packs, 8, 1, lanes), the hyperparameters `structures.FACTORS`, with the rates in force


class ReducedScratch(NamedTuple):
    """The draws that the group shares, and work space of one pack's step; m = min(q + 2k, n), c = min(k, n)."""

    lanes: int
    n: float
    W: Real  # (q + 2k, m) W / sqrt(n)
    W_T: Real  # (m, q + k) the same, its first rows transposed
    W_top: Real  # (q + k, m), a view of W
    N: Real  # (c, 3k) sigma N / sqrt(n)
    a_o: Real  # (k, q, lanes) b_o L_x, and in lanes all up to `squares`
    bM: Real  # (k, q) b_t M
    L_w: Real  # (k, q + 3k) [b_t root, ratio L_t], and then its factor
    D: Real  # (k, q + 2k)
    E: Real  # (k, m), and then its factor C
    F: Real  # (k, q + k)
    F_T: Real  # (q + k, k)
    FW: Real  # (k, m)
    FW_T: Real  # (m, k)
    C: Real  # (k, k) feature covariance
    DS: Real  # (k, q + k)
    G: Real  # (k, q + 4k)
    P_T: Real  # (k, k)
    grad_P: Real  # (k, k)
    grad_B: Real  # (k, q + 4k)
    loss: Real  # (1, 1)
    squares: Real  # (2, 1) squared norms of P and B_o
    P: Real  # (k, k) of one run
    U: Real  # (k, k) of one run, the product of its upper layers
    rows_o: Real  # (k, q + k) of one run, for a predictor rule: the whole online encoder
    rows_t: Real  # (k, q) inside the structured subspace, of the target


class ReducedLogScratch(NamedTuple):
    """Work space of a snapshot, of one run in double precision."""

    is_deep: bool
    square: np.ndarray  # (k, k) of the online encoder, and then its reflectors
    outside: np.ndarray  # (k, 3k) of the target, and then its reflectors
    online: np.ndarray  # (k, q + 3k)
    target: np.ndarray  # (k, q + 3k)
    difference: np.ndarray  # (k, q + 3k)
    reflections: np.ndarray  # (2, k)


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
        M=np.ascontiguousarray(reduced.M, dtype),
        root=np.ascontiguousarray(reduced.root, dtype),
        sigma=world.sigma,
        scale=reduced.scale,
        ratio=reduced.ratio,
        lambda_max_x=largest_variance(config, world),
    )


def initial_reduced_state(group: Sequence[RunConfig], world: World, initial: Start | None = None) -> ReducedState:
    """Packs of runs, a run a lane; the encoders of d columns live only while their coordinates are taken."""
    dtype, k, q = np.dtype(group[0].dtype), group[0].k, world.q
    keys = [tuple(getattr(config, name) for name in OF_START) for config in group]
    places = {}
    for key, config in dict(zip(keys, group, strict=True)).items():
        start = initial_weights(config, world, initial)
        lost = np.zeros((k, q + 3 * k if dtype == np.float32 else 0))
        if start.lost is not None and start.lost.shape == lost.shape:  # of coordinates: no other has directions
            lost = start.lost
        places[key] = start.P, start.V_P, moments.reduced_coordinates(start, world), lost
    P, V_P, X, lost_of = zip(*(places[key] for key in keys), strict=True)
    return ReducedState(
        P=in_lanes(P, dtype),
        V_P=in_lanes(V_P, dtype),
        X=in_lanes(X, dtype),
        lost=in_lanes(lost_of, dtype),
        factors=in_lanes([row[FACTORS, None] for row in hyperparameters(group)], dtype),
    )


def in_lanes(matrices: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
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
    key, dtype, lanes = samplers.Reduced(config).key, np.dtype(config.dtype), lane_count(config.dtype)
    k, q = config.k, config.structured
    (white, m), (c, _) = key.shapes

    def shared(rows: int, columns: int) -> np.ndarray:
        return np.zeros((rows, columns), dtype)

    def lanes_of(rows: int, columns: int) -> np.ndarray:
        return _aligned_zeros((rows, columns, lanes), dtype)

    W = shared(white, m)
    return ReducedScratch(
        lanes=lanes,
        n=float(key.n),
        W=W,
        W_T=shared(m, q + k),
        W_top=W[: q + k],
        N=shared(c, 3 * k),
        a_o=lanes_of(k, q),
        bM=lanes_of(k, q),
        L_w=lanes_of(k, q + 3 * k),
        D=lanes_of(k, white),
        E=lanes_of(k, m),
        F=lanes_of(k, q + k),
        F_T=lanes_of(q + k, k),
        FW=lanes_of(k, m),
        FW_T=lanes_of(m, k),
        C=lanes_of(k, k),
        DS=lanes_of(k, q + k),
        G=lanes_of(k, q + 4 * k),
        P_T=lanes_of(k, k),
        grad_P=lanes_of(k, k),
        grad_B=lanes_of(k, q + 4 * k),
        loss=lanes_of(1, 1),
        squares=lanes_of(2, 1),
        P=shared(k, k),
        U=shared(k, k),
        rows_o=shared(k, q + k),
        rows_t=shared(k, q),
    )
