"""What the samplers have in common that keep encoders as they are, (k, d)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from byolsim.backends.numba import packing, rules, structures
from byolsim.backends.numba.layers import form_whole, initial_layers, online, target, upper_layers
from byolsim.backends.numba.linalg import distance, householder_lq, subtract_and_scale
from byolsim.backends.numba.losses import loss_of
from byolsim.backends.numba.method import Method
from byolsim.backends.numba.samplers.base import Sampler
from byolsim.backends.numba.structures import LOGGED_OF_NOW, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model.encoder import initial_weights
from byolsim.model.schedule import largest_variance
from byolsim.model.start import Start
from byolsim.model.world import World


class WorldArrays(NamedTuple):
    """The world in the dtype of training, the same types for any world: what is not there has no columns."""

    A: Real  # (d, q)
    A_plus: Real  # (d, q + c)
    Q_A: Real  # (d, q) orthonormal basis of the structured subspace
    hole: Real  # (d, q) directions that have no isotropic noise, or (d, 0)
    lam: Real  # (q,)
    root_lam: Real  # (q,)
    lam_plus: Real  # (q + c,)
    root_lam_plus: Real  # (q + c,)
    sigma: float
    sigma_plus: float
    lambda_max_x: float
    is_plain: bool


class State(NamedTuple):
    """Parameters and momentum buffers of each run."""

    P: Real  # (K, k, k)
    V_P: Real
    B_o: Real  # (K, k, d)
    V_B: Real
    B_t: Real
    lost: Real  # what rounding took from B_t, with the sign turned; of size 0 in double precision


class SnapshotScratch(NamedTuple):
    """Work space of a snapshot."""

    inside: Real  # (k, q) b
    outside: Real  # (k, d) B - b Q_A^T, and then its reflectors
    difference: Real  # (k, d) B_o - B_t
    reflections: np.ndarray  # (2, k)


class Whole(Sampler):
    """State, world, work space and log of the group; a sampler adds its scratch and its kernel."""

    def __init__(self, group: Sequence[RunConfig], world: World, initial: Start | None = None) -> None:
        config, dtype, k = group[0], np.dtype(group[0].dtype), group[0].k
        self.world = world_arrays(config, world)
        self.hyper = packing.hyperparameters(group)
        self.state = initial_state(group, world, initial)
        self.method = Method(
            rules.initial_memory(rules.At(group, self.state.P, world, rules.whole_rows(world), initial)),
            initial_layers(group, world, world.d, initial),
            loss_of(config, world.d),
        )
        self.course = packing.initial_course(group, self.state.P, self.state.B_o, initial)
        self.work = packing.work_arrays(config, world.d)
        self._log_scratch = SnapshotScratch(
            inside=np.zeros((k, world.q), dtype),
            outside=np.zeros((k, world.d), dtype),
            difference=np.zeros((k, world.d), dtype),
            reflections=np.zeros((2, k)),
        )

    def snapshot(self, row: int, log: structures.Log) -> None:
        """See `snapshot`."""
        snapshot(row, self.world.Q_A, self.state, self.course, self.method.layers, self._log_scratch, log)

    def end(self, run: int, epoch: int) -> Start:
        """See `Sampler.end`."""
        P, V_P, B_o, V_B, B_t, lost = (M[run].astype(np.float64) for M in self.state)
        return Start(
            P, V_P, B_o, V_B, B_t, epoch,
            **upper_layers(run, self.method.layers),
            lost=lost if lost.any() else None,
            curvature=packing.curvature_of(run, self.course),
            memory=rules.memory_of(run, self.method.rule),
        )  # fmt: skip


def world_arrays(config: RunConfig, world: World) -> WorldArrays:
    """The world in the dtype of training."""
    hole = np.zeros((world.d, 0)) if world.hole is None else world.hole

    def real(M: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(M, np.dtype(config.dtype))

    return WorldArrays(
        A=real(world.A),
        A_plus=real(world.loadings_plus),
        Q_A=real(world.Q),
        hole=real(hole),
        lam=real(world.lam),
        root_lam=real(np.sqrt(world.lam)),
        lam_plus=real(world.variances_plus),
        root_lam_plus=real(np.sqrt(world.variances_plus)),
        sigma=world.sigma,
        sigma_plus=world.noise_plus,
        lambda_max_x=largest_variance(config, world),
        is_plain=world.is_plain,
    )


def initial_state(group: Sequence[RunConfig], world: World, initial: Start | None = None) -> State:
    """Where the configurations say that the runs start, or all of them at `initial`."""
    dtype, K, k, d = np.dtype(group[0].dtype), len(group), group[0].k, world.d

    def real(*shape: int) -> np.ndarray:
        return np.zeros((K, *shape), dtype)

    state = State(
        P=real(k, k), V_P=real(k, k), B_o=real(k, d), V_B=real(k, d), B_t=real(k, d),
        lost=real(k, d if dtype == np.float32 else 0),
    )  # fmt: skip
    for run, config in enumerate(group):
        start = initial_weights(config, world, initial)
        for name in ("P", "V_P", "B_o", "V_B", "B_t"):
            getattr(state, name)[run] = getattr(start, name)
        if start.lost is not None and state.lost.size:
            state.lost[run] = start.lost
    return state


@kernel
def snapshot(row, Q_A, state, course, layers, scratch, log):
    """`order.inside_outside` of every run's encoders, its gap and its step values."""
    now = course.now
    for run in range(course.diverged.size):
        log.valid[run, row] = course.diverged[run] < 0
        if course.diverged[run] >= 0:
            continue
        form_whole(run, state.B_o, state.B_t, layers)
        B_o = online(run, state.B_o, layers)
        B_t = target(run, state.B_t, layers)
        log.P[run, row] = state.P[run]
        _inside_outside(B_o, Q_A, scratch, log.b_o[run, row], log.L_o[run, row])
        _inside_outside(B_t, Q_A, scratch, log.b_t[run, row], log.L_t[run, row])
        log.gap[run, row] = distance(B_o, B_t, scratch.difference)
        for i in range(len(LOGGED_OF_NOW)):
            log.steps[run, row, i] = now[run, LOGGED_OF_NOW[i]]


@kernel
def _inside_outside(B, Q_A, scratch, b, L):
    """b = B Q_A, and L of the rest by `householder_lq`."""
    np.dot(B, Q_A, scratch.inside)
    np.dot(scratch.inside, Q_A.T, scratch.outside)
    subtract_and_scale(scratch.outside.reshape(-1), B.reshape(-1), scratch.outside.dtype.type(-1.0))
    b[:] = scratch.inside
    householder_lq(scratch.outside, L, scratch.reflections)
