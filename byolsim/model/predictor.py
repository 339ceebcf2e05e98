"""How the predictor is set: one short class a rule, and the catalogue of them.

A rule is told the state at every step, when both parameters have moved by their gradients and before the target
follows; the next step starts from the P that it hands back. It may keep a memory of its own, an immutable value that it
makes at the start and hands back after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from byolsim.config.run import RunConfig
from byolsim.model.state import Evaluation, State


class PredictorRule(Protocol):
    """One way to set the predictor."""

    def start(self, state: State) -> Any:
        """The memory at epoch 0; None for a rule without one."""

    def after_step(self, state: State, evaluation: Evaluation, memory: Any) -> tuple[State, Any]:
        """The state with the predictor that the rule wants, and the memory for the next step."""


class Learned:
    """P follows its own gradient and nothing else."""

    def start(self, state: State) -> None:
        """No memory."""

    def after_step(self, state: State, evaluation: Evaluation, memory: None) -> tuple[State, None]:
        """The state as it is."""
        return state, None


PREDICTOR_RULES: dict[str, Callable[[RunConfig], PredictorRule]] = {"learned": lambda config: Learned()}
"""By the value of `pred_rule`; a rule with constants of its own takes them from the configuration."""
