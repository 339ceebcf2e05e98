"""No predictor: P = I."""

from __future__ import annotations

from typing import Any

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.model.predictor.base import PredictorRule, Seen
from byolsim.model.state import Array


class Identity(PredictorRule):
    """P = I, held: the encoder predicts its target directly, and must collapse (docs/derivation.md, section 11)."""

    learns = False

    def __init__(self, config: RunConfig) -> None:
        pass

    def start(self, seen: Seen) -> tuple[Array, Any]:
        """I."""
        return np.eye(len(seen.P), dtype=seen.P.dtype), None

    def goes_on(self, P: Array, kept: Array | None) -> tuple[Array, Any]:
        """I too."""
        return np.eye(len(P), dtype=P.dtype), None
