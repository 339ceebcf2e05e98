"""What a run does beside the first model, in three parts whose classes say in a kernel which code it needs.

numba compiles each kernel for the types of its arguments: a step neither asks nor calls anything for a rule, a layer or
a loss that it does not have, and that of the defaults is the code of a shallow encoder whose predictor is learned.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Method(NamedTuple):
    """The parts; each is a tuple of arrays whose first axis is the run, and of work space of one run's step."""

    rule: Any  # how the predictor is set: `rules`
    layers: Any  # of the encoder: `layers`, and in the reduced form `lane_layers`
    loss: Any  # what is differentiated: `losses`
