"""How the predictor is set, in kernels: `byolsim.model.predictor`, one short file a rule, and what the samplers call.

A rule has a memory, a tuple of a class of its own. Its class says in a kernel which rule it is: numba compiles each
kernel for the types of its arguments, so that a step neither asks nor calls anything for a rule that it does not have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.linalg import sum_squares
from byolsim.backends.numba.rules.base import At, Rule, reduced_rows, whole_rows
from byolsim.backends.numba.rules.identity import IDENTITY
from byolsim.backends.numba.rules.learned import LEARNED, SYMMETRIC
from byolsim.backends.numba.rules.optimal import OPTIMAL
from byolsim.backends.numba.rules.spectral import SPECTRAL
from byolsim.backends.numba.structures import SQUARE_P

RULES = {
    "learned": LEARNED,
    "identity": IDENTITY,
    "optimal": OPTIMAL,
    "directpred": SPECTRAL,
    "directcopy": SPECTRAL,
    "spectral": SPECTRAL,
}
"""By the value of `pred_rule`."""

BY_MEMORY = {rule.memory: rule for rule in (*RULES.values(), SYMMETRIC)}

__all__ = [
    "RULES",
    "At",
    "follow",
    "follow_in_lane",
    "follows",
    "initial_memory",
    "learns",
    "memory_of",
    "reduced_rows",
    "sees_features",
    "set_in_lane",
    "set_predictor",
    "sets",
    "whole_rows",
]


def initial_memory(at: At) -> tuple[Any, ...]:
    """The memory of a group's rule at epoch 0; the predictors are set where the rule sets them."""
    return RULES[at.group[0].pred_rule].start(at)


def memory_of(run: int, memory: Any) -> np.ndarray | None:
    """What `Start.memory` holds of a run."""
    return BY_MEMORY[type(memory)].kept(run, memory)


def learns(memory):
    """In a kernel: whether P takes its gradient step."""


def sets(memory):
    """In a kernel: whether the rule has a `before_step`."""


def follows(memory):
    """In a kernel: whether the rule has an `after_step`."""


def sees_features(memory):
    """In a kernel: whether the rule wants the minibatch's C_oo before each step."""


def set_predictor(run, t, P, B_o, B_t, C_oo, now, memory):
    """In a kernel: the rule before step t of a run, on its P (k, k), with the squared norm of the new one."""


def set_in_lane(run, t, lane, M, E_o, E_t, covariances, scratch, C_oo, now, memory):
    """In a kernel: the same where P is a lane of M (k, k, lanes), as are encoders and C_oo; the rest is work space."""


def follow(run, P, now, memory):
    """In a kernel: the rule after the run's step, on its P (k, k), with the squared norm of the new one."""


def follow_in_lane(run, M, lane, P, now, memory):
    """In a kernel: the same where P is a lane of M (k, k, lanes); the array P (k, k) is work space."""


def _rule(memory: Any) -> Rule:
    """The rule to which a memory of this numba type belongs."""
    return BY_MEMORY[memory.instance_class]


@overload(learns, inline="always")
def _learns(memory):
    if _rule(memory).learns:
        return lambda memory: True
    return lambda memory: False


@overload(sets, inline="always")
def _sets(memory):
    if _rule(memory).before_step is None:
        return lambda memory: False
    return lambda memory: True


@overload(follows, inline="always")
def _follows(memory):
    if _rule(memory).after_step is None:
        return lambda memory: False
    return lambda memory: True


@overload(sees_features, inline="always")
def _sees_features(memory):
    wants = _rule(memory).sees_features
    if wants is None:
        return lambda memory: False
    return lambda memory: wants(memory)


@overload(set_predictor, inline="always")
def _set_predictor(run, t, P, B_o, B_t, C_oo, now, memory):
    before_step = _rule(memory).before_step
    if before_step is None:
        return lambda run, t, P, B_o, B_t, C_oo, now, memory: None

    def set_it(run, t, P, B_o, B_t, C_oo, now, memory):
        before_step(run, t, P, B_o, B_t, C_oo, memory)
        now[run, SQUARE_P] = sum_squares(P)

    return set_it


@overload(set_in_lane, inline="always")
def _set_in_lane(run, t, lane, M, E_o, E_t, covariances, scratch, C_oo, now, memory):
    before_step = _rule(memory).before_step
    if before_step is None:
        return lambda run, t, lane, M, E_o, E_t, covariances, scratch, C_oo, now, memory: None

    def set_it(run, t, lane, M, E_o, E_t, covariances, scratch, C_oo, now, memory):
        P, B_o, B_t = scratch.P, scratch.rows_o, scratch.rows_t
        P[:] = M[:, :, lane]
        B_o[:] = E_o[: B_o.shape[0], : B_o.shape[1], lane]
        B_t[:] = E_t[: B_t.shape[0], : B_t.shape[1], lane]
        C_oo[:] = covariances[:, :, lane]
        before_step(run, t, P, B_o, B_t, C_oo, memory)
        now[run, SQUARE_P] = sum_squares(P)
        M[:, :, lane] = P

    return set_it


@overload(follow, inline="always")
def _follow(run, P, now, memory):
    after_step = _rule(memory).after_step
    if after_step is None:
        return lambda run, P, now, memory: None

    def set_it(run, P, now, memory):
        after_step(run, P, memory)
        now[run, SQUARE_P] = sum_squares(P)

    return set_it


@overload(follow_in_lane, inline="always")
def _follow_in_lane(run, M, lane, P, now, memory):
    after_step = _rule(memory).after_step
    if after_step is None:
        return lambda run, M, lane, P, now, memory: None

    def set_it(run, M, lane, P, now, memory):
        P[:] = M[:, :, lane]
        after_step(run, P, memory)
        now[run, SQUARE_P] = sum_squares(P)
        M[:, :, lane] = P

    return set_it
