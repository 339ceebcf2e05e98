"""What the log holds of the runs of the reduced form, read off their coordinates."""

from __future__ import annotations

from byolsim.backends.numba.lane_layers import form_whole, online, target
from byolsim.backends.numba.linalg import distance, householder_lq
from byolsim.backends.numba.structures import LOGGED_OF_NOW
from byolsim.machine.jit import kernel


@kernel
def reduced_snapshot(row, lanes, state, course, layers, scratch, log):
    """As `whole.snapshot`; an encoder of several layers is no longer triangular outside the structured subspace."""
    k, q = log.b_o.shape[2], log.b_o.shape[3]
    for run in range(log.valid.shape[0]):
        log.valid[run, row] = course.diverged[run] < 0
        if course.diverged[run] >= 0:
            continue
        p, lane = run // lanes, run % lanes
        X = state.X[p]
        form_whole(p, X, layers)
        E_o = online(X, layers)
        E_t = target(X, layers)
        scratch.online[:] = 0.0
        for i in range(k):
            for j in range(k):
                log.P[run, row, i, j] = state.P[p, i, j, lane]
                scratch.square[i, j] = log.L_o[run, row, i, j] = E_o[i, q + j, lane]
            for j in range(q):
                log.b_o[run, row, i, j] = E_o[i, j, lane]
                log.b_t[run, row, i, j] = E_t[i, j, lane]
            for j in range(q + k):
                scratch.online[i, j] = E_o[i, j, lane]
            for j in range(3 * k):
                scratch.outside[i, j] = E_t[i, q + j, lane]
            for j in range(q + 3 * k):
                scratch.target[i, j] = E_t[i, j, lane]
        if scratch.is_deep:
            householder_lq(scratch.square, log.L_o[run, row], scratch.reflections)
        householder_lq(scratch.outside, log.L_t[run, row], scratch.reflections)
        log.gap[run, row] = distance(scratch.online, scratch.target, scratch.difference)
        for i in range(len(LOGGED_OF_NOW)):
            log.steps[run, row, i] = course.now[run, LOGGED_OF_NOW[i]]
