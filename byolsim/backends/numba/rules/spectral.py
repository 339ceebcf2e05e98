"""`predictor.Spectral`: P = U diag(p) U^T from F = U diag(s) U^T."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from byolsim.backends.numba.eigen import eigenvectors, from_eigenvectors
from byolsim.backends.numba.rules.base import At, Rule
from byolsim.backends.numba.structures import Real
from byolsim.machine.jit import fma, kernel
from byolsim.model.predictor import spectral


class Spectral(NamedTuple):
    """F of each run and whether it has seen anything; the constants; work space in double precision."""

    F: Real  # (K, k, k)
    filled: np.ndarray  # (K,)
    power: float
    eps: float
    rate: float
    every: int
    of_features: bool
    by_maximum: bool
    S: np.ndarray  # (k, k) F, and then its eigenvalues on the diagonal
    V: np.ndarray  # (k, k) eigenvectors, a row each
    p: np.ndarray  # (k,)


def start(at: At) -> Spectral:
    """F as the runs' start has it, else nothing seen; the constants are those of the plain form."""
    K, k, _ = at.P.shape
    rule = spectral.Spectral(at.group[0])
    memory = Spectral(
        F=np.zeros((K, k, k), at.P.dtype), filled=np.zeros(K, np.bool_),
        power=float(rule.power), eps=float(rule.eps), rate=float(rule.rate), every=int(rule.every),
        of_features=rule.of_features, by_maximum=rule.norm == "max",
        S=np.zeros((k, k)), V=np.zeros((k, k)), p=np.zeros(k),
    )  # fmt: skip
    if at.initial is not None and at.initial.memory is not None:
        memory.F[:], memory.filled[:] = at.initial.memory, True
    return memory


def kept(run: int, memory: Spectral) -> np.ndarray | None:
    """F, where it is an average."""
    return memory.F[run].astype(np.float64) if memory.filled[run] and memory.of_features else None


@kernel
def sees_features(memory):
    """Where F is an average of C_oo."""
    return memory.of_features


@kernel
def before_step(run, t, P, B_o, B_t, C_oo, memory):
    """F <- (1 - rate) F + rate C_oo from the first C_oo on, or F = B_o B_o^T; then P."""
    F, due = memory.F[run], (t - 1) % memory.every == 0
    if not memory.of_features:
        if due:
            np.dot(B_o, B_o.T, F)
    elif memory.filled[run]:
        rate = F.dtype.type(memory.rate)
        for i in range(F.shape[0]):
            for j in range(F.shape[0]):
                F[i, j] = fma(rate, C_oo[i, j] - F[i, j], F[i, j])
    else:
        F[:] = C_oo
        memory.filled[run] = True
    if due:
        _set(F, P, memory)


@kernel
def _set(F, P, memory):
    """p_j = s_j^a + eps max s, or (s_j / max s)^a + eps, in double precision."""
    if memory.power == 1.0 and memory.eps == 0.0 and not memory.by_maximum:
        P[:] = F  # directcopy needs no spectrum
        return
    S, V, p = memory.S, memory.V, memory.p
    S[:] = F
    eigenvectors(S, V)
    largest = 0.0
    for j in range(p.size):
        p[j] = max(S[j, j], 0.0)  # what rounding put below 0
        largest = max(largest, p[j])
    unit = largest if memory.by_maximum and largest > 0.0 else 1.0
    more = memory.eps if memory.by_maximum else memory.eps * largest
    for j in range(p.size):
        s = p[j] / unit
        p[j] = (np.sqrt(s) if memory.power == 0.5 else s**memory.power) + more
    from_eigenvectors(p, V, P)


SPECTRAL = Rule(Spectral, start, sees_features=sees_features, before_step=before_step, kept=kept)
