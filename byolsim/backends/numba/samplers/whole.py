"""What the samplers have in common that keep encoders as they are, (r, d)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba import packing, rules, structures
from byolsim.backends.numba.linalg import distance, householder_lq, subtract_and_scale
from byolsim.backends.numba.samplers.base import Sampler
from byolsim.backends.numba.structures import LOGGED_OF_NOW, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model.encoder import initial_weights
from byolsim.model.world import World


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


class SnapshotScratch(NamedTuple):
    """Work space of a snapshot."""

    inside: Real  # (r, r) b
    outside: Real  # (r, d) B - b Q_A^T, and then its reflectors
    difference: Real  # (r, d) B_o - B_t
    reflections: np.ndarray  # (2, r)


class Whole(Sampler):
    """State, world, work space and log of the group; a sampler adds its scratch and its kernel."""

    def __init__(self, group: Sequence[RunConfig], world: World) -> None:
        config, dtype, r = group[0], np.dtype(group[0].dtype), world.r
        self.world = world_arrays(config, world)
        self.hyper = packing.hyperparameters(group)
        self.state = initial_state(group, world)
        self.course = packing.initial_course(group, self.state.P)
        self.memory = rules.initial_memory(group, self.state.P)
        self.work = packing.work_arrays(config, world.d)
        self._log_scratch = SnapshotScratch(
            inside=np.zeros((r, r), dtype),
            outside=np.zeros((r, world.d), dtype),
            difference=np.zeros((r, world.d), dtype),
            reflections=np.zeros((2, r)),
        )

    def snapshot(self, row: int, log: structures.Log) -> None:
        """See `snapshot`."""
        snapshot(row, self.world.Q, self.state, self.course, self._log_scratch, log)


def world_arrays(config: RunConfig, world: World) -> WorldArrays:
    """The world in the dtype of training."""
    dtype = np.dtype(config.dtype)
    return WorldArrays(
        A=world.A.astype(dtype),
        Q_A=world.Q.astype(dtype),
        lam=world.lam.astype(dtype),
        root_lam=np.sqrt(world.lam).astype(dtype),
        sigma=world.sigma,
        lambda_max_x=world.lambda_max_x,
    )


def initial_state(group: Sequence[RunConfig], world: World) -> State:
    """Initial weights, with the target at the encoder and momentum 0."""
    dtype, K, r, d = np.dtype(group[0].dtype), len(group), world.r, world.d
    weights = [initial_weights(config, world) for config in group]
    B_o = np.stack([B for B, _ in weights]).astype(dtype)
    P = np.stack([P for _, P in weights]).astype(dtype)
    return State(
        P=P, V_P=np.zeros((K, r, r), dtype), B_o=B_o, V_B=np.zeros((K, r, d), dtype), B_t=B_o.copy(),
        lost=np.zeros((K, r, d if dtype == np.float32 else 0), dtype),
    )  # fmt: skip


@kernel
def snapshot(row, Q_A, state, course, scratch, log):
    """`order.inside_outside` of every run's encoders, its gap and its step values."""
    now = course.now
    for k in range(course.diverged.size):
        log.valid[k, row] = course.diverged[k] < 0
        if course.diverged[k] >= 0:
            continue
        log.P[k, row] = state.P[k]
        _inside_outside(state.B_o[k], Q_A, scratch, log.b_o[k, row], log.L_o[k, row])
        _inside_outside(state.B_t[k], Q_A, scratch, log.b_t[k, row], log.L_t[k, row])
        log.gap[k, row] = distance(state.B_o[k], state.B_t[k], scratch.difference)
        for i in range(len(LOGGED_OF_NOW)):
            log.steps[k, row, i] = now[k, LOGGED_OF_NOW[i]]


@kernel
def _inside_outside(B, Q_A, scratch, b, L):
    """b = B Q_A, and L of the rest by `householder_lq`."""
    np.dot(B, Q_A, scratch.inside)
    np.dot(scratch.inside, Q_A.T, scratch.outside)
    subtract_and_scale(scratch.outside.reshape(-1), B.reshape(-1), scratch.outside.dtype.type(-1.0))
    b[:] = scratch.inside
    householder_lq(scratch.outside, L, scratch.reflections)
