"""How the predictors of a group are set: one short file a rule of `byolsim.model.predictor`, and their catalogue."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from byolsim.backends.torch.rules.base import PredictorRule, Seen
from byolsim.backends.torch.rules.identity import Identity
from byolsim.backends.torch.rules.learned import Learned
from byolsim.backends.torch.rules.optimal import Optimal
from byolsim.backends.torch.rules.spectral import Spectral
from byolsim.config.run import RunConfig
from byolsim.model.world import World

PREDICTOR_RULES: dict[str, Callable[[RunConfig, World, Tensor], PredictorRule]] = {
    "learned": Learned,
    "identity": Identity,
    "optimal": Optimal,
    "directpred": Spectral,
    "directcopy": Spectral,
    "spectral": Spectral,
}
"""By the value of `pred_rule`, from a configuration of the group, its world, and `Sampler.basis`."""

__all__ = ["PREDICTOR_RULES", "PredictorRule", "Seen"]
