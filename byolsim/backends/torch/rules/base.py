"""What a predictor rule answers for a group; the conventions are those of `byolsim.model.predictor.base`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from byolsim.config.run import RunConfig
from byolsim.model.state import Array
from byolsim.model.world import World


class Seen(NamedTuple):
    """What a rule may look at before a step, of K runs, at the encoders before it; nothing of it has a gradient.

    Attributes
    ----------
    P : (K, k, k) the predictors, where they are linear.
    C_oo : () -> (K, k, k) the feature covariances of the step.
    encoders : () -> the whole online and target encoders of linear models, in the coordinates of the sampler.
    """

    P: Tensor
    C_oo: Callable[[], Tensor]
    encoders: Callable[[], tuple[Tensor, Tensor]]


class PredictorRule:
    """One way to set the predictors of a group; it keeps its memory. None leaves them as they are.

    Attributes
    ----------
    learns : whether the predictors take their gradient step.
    """

    learns: bool = True

    def __init__(self, config: RunConfig, world: World, basis: Tensor) -> None:
        self.config = config

    def start(self, seen: Seen) -> Tensor | None:
        """P (K, k, k) at epoch 0."""
        return None

    def goes_on(self, P: Tensor, kept: Array | None) -> Tensor | None:
        """P (K, k, k) of runs that go on from the end of another one; `kept` (k, k) is what was kept there."""
        return None

    def kept(self, run: int) -> Array | None:
        """What the end of a run needs of the memory beside P, in double precision; None for nothing."""
        return None

    def before_step(self, t: int, seen: Seen) -> Tensor | None:
        """The P that step t uses."""
        return None

    def after_step(self, P: Tensor) -> Tensor | None:
        """The P that is left after a step."""
        return None
