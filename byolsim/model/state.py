"""What a step changes and what it computes from its minibatch: the values that samplers, rules and targets share."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]
"""Of the dtype that the run trains in, float64 or float32."""

DIVERGENCE_BOUND = 1e8
"""A run diverges when norm(P)_F or norm(B_o)_F exceeds this or is not a number; checked at every step."""


class State(NamedTuple):
    """Parameters and momentum buffers of one run.

    In the reduced form of the moments sampler the rows of B_o, V_B and B_t have q + 4k coordinates in place of d
    columns (`byolsim.model.moments`); every update below is the same in either.
    """

    P: Array  # (k, k) predictor
    V_P: Array  # (k, k)
    B_o: Array  # (k, d) online encoder
    V_B: Array  # (k, d)
    B_t: Array  # (k, d) target encoder
    lost: Array  # (k, d) what rounding gave B_t too much in its last step, 0 in double precision (`target.towards`)


class Evaluation(NamedTuple):
    """What a sampler computes at the parameters before the step.

    Attributes
    ----------
    G : the residual gradient (1/n) sum delta x^T with delta = P B_o x - B_t x+, of the shape of B_o.
    loss : 1/2 tr (1/n) sum delta delta^T.
    C_oo : (k, k) the feature covariance (1/n) sum z_o z_o^T, z_o = B_o x.
    """

    G: Array
    loss: float
    C_oo: Array
