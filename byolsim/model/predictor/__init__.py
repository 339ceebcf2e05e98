"""How the predictor is set: one short file a rule, and the catalogue of them."""

from __future__ import annotations

from collections.abc import Callable

from byolsim.config.run import RunConfig
from byolsim.model.predictor.base import PredictorRule, Seen
from byolsim.model.predictor.identity import Identity
from byolsim.model.predictor.learned import Learned
from byolsim.model.predictor.optimal import Optimal
from byolsim.model.predictor.spectral import Spectral

PREDICTOR_RULES: dict[str, Callable[[RunConfig], PredictorRule]] = {
    "learned": Learned,
    "identity": Identity,
    "optimal": Optimal,
    "directpred": Spectral,
    "directcopy": Spectral,
    "spectral": Spectral,
}
"""By the value of `pred_rule`; a rule takes its constants from the configuration."""

__all__ = ["PREDICTOR_RULES", "PredictorRule", "Seen"]
