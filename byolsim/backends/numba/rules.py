"""How the predictor is set, in kernels: `byolsim.model.predictor`, a rule here under each name there.

A rule has a memory, a tuple of arrays of a class of its own, whose first axis is the run. Its class says in a kernel
which rule it is: numba compiles each kernel for the types of its arguments, so that a step neither asks nor calls
anything for a rule that it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.linalg import sum_squares
from byolsim.backends.numba.structures import SQUARE_P
from byolsim.config.run import RunConfig


@dataclass(frozen=True)
class Rule:
    """A rule in kernels.

    Attributes
    ----------
    memory : the class of the memory.
    start : the memory at epoch 0, of the runs of a group and their predictors (K, k, k).
    after_step : kernel (run, P, memory) that makes of the run's P (k, k), after its gradient step, the one that the
        rule wants; None for a rule that leaves it.
    """

    memory: type[tuple[Any, ...]]
    start: Callable[[Sequence[RunConfig], np.ndarray], tuple[Any, ...]]
    after_step: Callable[..., None] | None


class LearnedMemory(NamedTuple):
    """`predictor.Learned` remembers nothing."""


RULES = {"learned": Rule(LearnedMemory, lambda group, P: LearnedMemory(), None)}
"""By the value of `pred_rule`."""


def initial_memory(group: Sequence[RunConfig], P: np.ndarray) -> tuple[Any, ...]:
    """The memory of a group's rule at epoch 0, from its predictors (K, k, k)."""
    return RULES[group[0].pred_rule].start(group, P)


def follow(run, P, now, memory):
    """In a kernel: the rule after the run's step, on its P (k, k), with the squared norm of the new one."""


def follow_in_lane(run, M, lane, P, now, memory):
    """In a kernel: the same where P is a lane of M (k, k, lanes); the array P (k, k) is work space."""


def _kernel(memory: Any) -> Any:
    """The kernel of the rule to which a memory of this numba type belongs."""
    (rule,) = (rule for rule in RULES.values() if rule.memory is memory.instance_class)
    return rule.after_step


@overload(follow, inline="always")
def _follow(run, P, now, memory):
    after_step = _kernel(memory)
    if after_step is None:
        return lambda run, P, now, memory: None

    def set_predictor(run, P, now, memory):
        after_step(run, P, memory)
        now[run, SQUARE_P] = sum_squares(P)

    return set_predictor


@overload(follow_in_lane, inline="always")
def _follow_in_lane(run, M, lane, P, now, memory):
    after_step = _kernel(memory)
    if after_step is None:
        return lambda run, M, lane, P, now, memory: None

    def set_predictor(run, M, lane, P, now, memory):
        P[:] = M[:, :, lane]
        after_step(run, P, memory)
        now[run, SQUARE_P] = sum_squares(P)
        M[:, :, lane] = P

    return set_predictor
