"""`predictor.Learned`: P follows its own gradient."""

from __future__ import annotations

from typing import NamedTuple

from byolsim.backends.numba.rules.base import At, Rule
from byolsim.machine.jit import kernel


class Learned(NamedTuple):
    """Nothing to remember."""


class Symmetric(NamedTuple):
    """Nothing either: the learned predictor that keeps its symmetric part."""


@kernel
def symmetrise(run, P, memory):
    """P <- (P + P^T) / 2."""
    for i in range(P.shape[0]):
        for j in range(i):
            P[i, j] = P[j, i] = (P[i, j] + P[j, i]) / P.dtype.type(2)


def start(at: At) -> Learned | Symmetric:
    """Which of the two."""
    return Symmetric() if at.group[0].pred_symmetric else Learned()


LEARNED = Rule(Learned, start, learns=True)
SYMMETRIC = Rule(Symmetric, start, learns=True, after_step=symmetrise)
