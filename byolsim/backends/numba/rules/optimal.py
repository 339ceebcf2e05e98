"""`predictor.Optimal`: P = C_to C_oo^+ of the population, the Wiener predictor at the encoders of each step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.eigen import orthogonal_rows
from byolsim.backends.numba.linalg import dot, householder_lq, leave_span
from byolsim.backends.numba.rules.base import At, Rule
from byolsim.machine.jit import fma, kernel
from byolsim.model.encoder import initial_weights
from byolsim.model.linalg import lq_factor
from byolsim.model.order import inside_outside
from byolsim.model.state import product
from byolsim.model.theory import optimal_predictor
from byolsim.model.wiener import ZERO


class Optimal(NamedTuple):
    """The world in double precision (`base.Rows`), and work space of one run; c columns of an encoder, q of signal."""

    every: int
    cutoff: float  # singular values below this multiple of the largest are zero
    sigma: float
    signal: np.ndarray  # (c, q)
    signal_plus: np.ndarray  # (c or fewer, q)
    hole: np.ndarray  # (c, q), or (c, 0)
    online: np.ndarray  # (k, c) the encoder in double precision, and then B_o Pi
    target: np.ndarray  # (k, c or fewer)
    inside: np.ndarray  # (k, q), or (k, 0)
    along: np.ndarray  # (k, c)
    FY: np.ndarray  # (2k, q + c) [F; Y, 0], and then its reflectors
    LM: np.ndarray  # (2k, k) [L; M]
    reflections: np.ndarray  # (2, k)
    G: np.ndarray  # (k, k) L^-1, or L with its rows turned until they are orthogonal
    J: np.ndarray  # (k, k) that turn
    part: np.ndarray  # (k, q)


def start(at: At) -> Optimal:
    """The work space; the optimum at the initial encoders, unless the runs go on with one that is in force."""
    config, k = at.group[0], at.P.shape[-1]
    cutoff = ZERO * float(np.finfo(config.dtype).eps)
    rows, (columns, q) = at.rows, at.rows.signal.shape
    if not at.goes_on:
        for run, member in enumerate(at.group):
            begin = initial_weights(member, at.world, at.initial)
            E_o, E_t = begin.B_o, begin.B_t
            if begin.upper is not None and begin.upper_t is not None and len(begin.upper):
                E_o, E_t = product(begin.upper) @ E_o, product(begin.upper_t) @ E_t
            if E_o.shape[1] == at.world.d:
                (b_o, L_o), b_t = inside_outside(E_o, at.world.Q), E_t @ at.world.Q
            else:
                b_o, L_o, b_t = E_o[:, :q], lq_factor(E_o[:, q:]), E_t[:, :q]
            at.P[run] = optimal_predictor(b_o, L_o, b_t, at.world, cutoff)
    return Optimal(
        every=int(config.pred_every or 1), cutoff=cutoff, sigma=float(rows.sigma),
        signal=rows.signal, signal_plus=rows.signal_plus, hole=rows.hole,
        online=np.zeros((k, columns)), target=np.zeros((k, len(rows.signal_plus))),
        inside=np.zeros((k, rows.hole.shape[1])), along=np.zeros((k, columns)),
        FY=np.zeros((2 * k, q + columns)), LM=np.zeros((2 * k, k)), reflections=np.zeros((2, k)),
        G=np.zeros((k, k)), J=np.zeros((k, k)), part=np.zeros((k, q)),
    )  # fmt: skip


@kernel
def before_step(run, t, P, B_o, B_t, C_oo, memory):
    """The optimum at t = 1, 1 + every, ..., in double precision.

    With F = [B_o signal, sigma B_o Pi], C_oo = F F^T and C_to = [Y, 0] F^T, Y = B_t signal_plus: P = [Y, 0] F^+. One LQ
    factorisation of [F; Y, 0] gives F = L O and M = [Y, 0] O^T, so that P = M L^+.
    """
    if (t - 1) % memory.every != 0:
        return
    k, FY, part = P.shape[0], memory.FY, memory.part
    q = part.shape[1]
    memory.online[:] = B_o[:, : memory.online.shape[1]]
    memory.target[:] = B_t[:, : memory.target.shape[1]]
    FY[:] = 0.0
    np.dot(memory.online, memory.signal, part)
    FY[:k, :q] = part
    np.dot(memory.target, memory.signal_plus, part)
    FY[k:, :q] = part
    leave_span(memory.online, memory.hole, memory.inside, memory.along)
    for i in range(k):
        for j in range(memory.online.shape[1]):
            FY[i, q + j] = memory.sigma * memory.online[i, j]
    householder_lq(FY, memory.LM, memory.reflections)
    L, M = memory.LM[:k], memory.LM[k:]
    if _inverse(L, memory.G, memory.cutoff):
        np.dot(M, memory.G, memory.J)
        P[:] = memory.J
    else:
        _by_singular_values(L, M, P, memory)


@kernel
def _inverse(L, G, cutoff):
    """G = L^-1 of a lower triangular L, and whether no singular value of L can be below cutoff times its largest.

    They lie between 1 / ||L^-1||_F and ||L||_F.
    """
    size, inverse = 0.0, 0.0
    G[:] = 0.0
    for j in range(L.shape[0]):
        if L[j, j] == 0.0:
            return False
        for i in range(j, L.shape[0]):
            entry = 1.0 if i == j else 0.0
            for m in range(j, i):
                entry = fma(-L[i, m], G[m, j], entry)
            if L[i, i] == 0.0:
                return False
            G[i, j] = entry / L[i, i]
            size += L[i, j] ** 2
            inverse += G[i, j] ** 2
    return np.sqrt(size) * np.sqrt(inverse) * cutoff < 1.0


@kernel
def _by_singular_values(L, M, P, memory):
    """P = M L^+: with J L = diag(s) V^T it is sum over j of (M v_j / s_j) J_j, without those s_j that count as zero."""
    G, J = memory.G, memory.J
    G[:] = L
    orthogonal_rows(G, J)
    largest = 0.0
    for j in range(G.shape[0]):
        largest = max(largest, np.sqrt(dot(G[j], G[j])))
    P[:] = 0.0
    for j in range(G.shape[0]):
        square = dot(G[j], G[j])
        if np.sqrt(square) > memory.cutoff * largest:
            for i in range(G.shape[0]):
                factor = dot(M[i], G[j]) / square
                for m in range(G.shape[0]):
                    P[i, m] += factor * J[j, m]


OPTIMAL = Rule(Optimal, start, before_step=before_step)
