"""What a predictor rule is in kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.world import World


class Rows(NamedTuple):
    """What an encoder's row e (columns) says of the views, as a sampler keeps encoders: e x of both views.

    With g the white latents of x, e x = (e signal) g + sigma (e Pi) eps, and e x+ is (e signal_plus) g and what x+ has
    alone.
    """

    signal: np.ndarray  # (columns, q)
    signal_plus: np.ndarray  # (columns of a target or fewer, q)
    hole: np.ndarray  # (columns, q) orthonormal directions that Pi takes away, or (columns, 0)
    sigma: float


class At(NamedTuple):
    """Where a group starts."""

    group: Sequence[RunConfig]
    P: np.ndarray  # (K, k, k) initial predictors; a rule that sets them writes here
    world: World
    rows: Rows
    initial: Start | None

    @property
    def goes_on(self) -> bool:
        """Whether the runs go on where others ended: their predictors are those in force."""
        return self.initial is not None and self.initial.epoch > 0


@dataclass(frozen=True)
class Rule:
    """A rule in kernels; its memory's class says in a kernel which rule it is.

    Attributes
    ----------
    memory : the class of the memory, a tuple of arrays whose first axis is the run, constants, and work space.
    start : the memory at epoch 0; it also sets the predictors there, where the rule does.
    learns : whether P takes its gradient step.
    sees_features : kernel (memory) that says whether `before_step` wants the minibatch's C_oo; None where it does not.
    before_step : kernel (run, t, P, B_o, B_t, C_oo, memory) that sets the P that step t uses; None if it leaves it. The
        whole encoders B_o and B_t are as the sampler keeps them.
    after_step : kernel (run, P, memory) that changes the P that is left after a step; None if it leaves it.
    kept : the memory of a run that its end needs beside P (`Start.memory`), or None.
    """

    memory: type[tuple[Any, ...]]
    start: Callable[[At], tuple[Any, ...]]
    learns: bool = False
    sees_features: Callable[..., Any] | None = None
    before_step: Callable[..., None] | None = None
    after_step: Callable[..., None] | None = None
    kept: Callable[[int, Any], np.ndarray | None] = lambda run, memory: None


def whole_rows(world: World) -> Rows:
    """Of encoders with a column for each observed dimension."""
    hole = np.zeros((world.d, 0)) if world.hole is None else np.ascontiguousarray(world.hole)
    root = np.sqrt(world.lam)
    signal, signal_plus = world.A * root, world.loadings_plus[:, : world.q] * root
    return Rows(np.ascontiguousarray(signal), np.ascontiguousarray(signal_plus), hole, world.sigma)


def reduced_rows(world: World, k: int) -> Rows:
    """Of encoders in coordinates: q inside the structured subspace, k outside; of a target those inside say all."""
    q, root = world.q, np.sqrt(world.lam)
    signal = np.vstack([world.R * root, np.zeros((k, q))])
    hole = np.eye(q + k, 0 if world.noise_inside else q)
    return Rows(signal, np.ascontiguousarray(world.R_plus[:, :q] * root), hole, world.sigma)
