"""The log of the reduced form: order parameters read off the coordinates of packs of runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.linalg import distance, householder_lq
from byolsim.backends.numba.structures import LOGGED_OF_NOW
from byolsim.machine.jit import kernel


class ReducedLogScratch(NamedTuple):
    """Work space of a snapshot, of one run in double precision."""

    outside: np.ndarray  # (k, 3k) of the target, and then its reflectors
    online: np.ndarray  # (k, q + 3k)
    target: np.ndarray  # (k, q + 3k)
    difference: np.ndarray  # (k, q + 3k)
    reflections: np.ndarray  # (2, k)


def log_scratch(k: int, q: int) -> ReducedLogScratch:
    """Work space of a snapshot."""
    return ReducedLogScratch(
        outside=np.zeros((k, 3 * k)),
        online=np.zeros((k, q + 3 * k)),
        target=np.zeros((k, q + 3 * k)),
        difference=np.zeros((k, q + 3 * k)),
        reflections=np.zeros((2, k)),
    )


@kernel
def reduced_snapshot(row, lanes, state, course, scratch, log):
    """As `whole.snapshot`: what the log holds of each run is read off its coordinates."""
    k, q = log.b_o.shape[2], log.b_o.shape[3]
    for run in range(log.valid.shape[0]):
        log.valid[run, row] = course.diverged[run] < 0
        if course.diverged[run] >= 0:
            continue
        p, lane = run // lanes, run % lanes
        X = state.X[p]
        for i in range(k):
            for j in range(k):
                log.P[run, row, i, j] = state.P[p, i, j, lane]
                log.L_o[run, row, i, j] = X[i, q + j, lane]
            for j in range(q):
                log.b_o[run, row, i, j] = X[i, j, lane]
                log.b_t[run, row, i, j] = X[2 * k + i, j, lane]
            for j in range(3 * k):
                scratch.outside[i, j] = X[2 * k + i, q + j, lane]
            for j in range(q + 3 * k):
                scratch.online[i, j], scratch.target[i, j] = X[i, j, lane], X[2 * k + i, j, lane]
        householder_lq(scratch.outside, log.L_t[run, row], scratch.reflections)
        log.gap[run, row] = distance(scratch.online, scratch.target, scratch.difference)
        for i in range(len(LOGGED_OF_NOW)):
            log.steps[run, row, i] = course.now[run, LOGGED_OF_NOW[i]]
