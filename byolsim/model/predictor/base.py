"""What a predictor rule answers, and what it may look at.

A rule is asked twice in a step. Before the step, at the encoders before it, it says which P the step uses: one that the
gradient moved, for a rule that learns, or one that it sets. After the gradient steps it may change P once more. It may
keep a memory of its own, an immutable value that it makes at the start and hands back each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from byolsim.model.state import Array


class Seen(NamedTuple):
    """What a rule may look at before a step, at the encoders before it.

    Attributes
    ----------
    P : (k, k) the predictor.
    C_oo : () -> (k, k) the feature covariance of the step's minibatch, (1/n) sum z_o z_o^T.
    BBT : () -> (k, k) B_o B_o^T.
    optimal : () -> (k, k) the Wiener predictor C_to C_oo^+ of the population.
    """

    P: Array
    C_oo: Callable[[], Array]
    BBT: Callable[[], Array]
    optimal: Callable[[], Array]


class PredictorRule:
    """One way to set the predictor; the defaults are those of a rule that leaves P to its gradient.

    Attributes
    ----------
    learns : whether P takes its gradient step.
    """

    learns: bool = True

    def start(self, seen: Seen) -> tuple[Array, Any]:
        """P and the memory at epoch 0; `seen` holds the population's C_oo, and P as the initial weights have it."""
        return seen.P, None

    def goes_on(self, P: Array, kept: Array | None) -> tuple[Array, Any]:
        """P and the memory of a run that goes on from the end of another one: its P, and what was `kept` there."""
        return P, None

    def kept(self, memory: Any) -> Array | None:
        """What a run's end needs of the memory beside P; None for nothing."""
        return None

    def before_step(self, t: int, seen: Seen, memory: Any) -> tuple[Array, Any]:
        """The P that step t uses, and the memory."""
        return seen.P, memory

    def after_step(self, P: Array, memory: Any) -> tuple[Array, Any]:
        """The P that is left after step t, and the memory for the next one."""
        return P, memory
