"""What a step changes and what it computes from its minibatch: the values that samplers, rules and targets share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Of the dtype that the run trains in, float64 or float32."""

DIVERGENCE_BOUND = 1e8
"""A run diverges when norm(P)_F or norm(B_o)_F exceeds this or is not a number; checked at every step.

Of an encoder of layers each layer and both products, W_L ... W_1 and that of the target, must be within it.
"""


class State(NamedTuple):
    """Parameters and momentum buffers of one run.

    An encoder of L layers is W_L ... W_1; `B_o` and what belongs to it is the first layer, the others, (k, k), stand in
    `upper` in the order W_2, ..., W_L. In the reduced form of the moments sampler the rows of B_o, V_B and B_t have
    q + 4k coordinates in place of d columns (`byolsim.model.moments`); every update below is the same in either.
    """

    P: Array  # (k, k) predictor
    V_P: Array  # (k, k)
    B_o: Array  # (k, d) first layer of the online encoder
    V_B: Array  # (k, d)
    B_t: Array  # (k, d) first layer of the target encoder
    lost: Array  # (k, d) what rounding gave B_t too much in its last step, 0 in double precision (`target.towards`)
    upper: Array  # (L - 1, k, k) the other layers of the online encoder
    V_upper: Array  # (L - 1, k, k)
    upper_t: Array  # (L - 1, k, k) the other layers of the target encoder
    lost_upper: Array  # (L - 1, k, k)

    @property
    def whole(self) -> State:
        """The state with the whole encoders W_L ... W_1 as first layers: what samplers and metrics look at."""
        if not len(self.upper):
            return self
        return self._replace(B_o=product(self.upper) @ self.B_o, B_t=product(self.upper_t) @ self.B_t)


def product(upper: Array) -> Array:
    """W_L ... W_2 (k, k) of at least one layer (L - 1, k, k)."""
    result = upper[0]
    for W in upper[1:]:
        result = np.asarray(W @ result)
    return np.asarray(result)


class Evaluation(NamedTuple):
    """What a sampler computes at the parameters before the step, with B the whole encoders.

    Attributes
    ----------
    G : the residual gradient (1/n) sum delta x^T with delta = P B_o x - B_t x+, of the shape of B_o.
    loss : 1/2 tr (1/n) sum delta delta^T.
    C_oo : (k, k) the feature covariance (1/n) sum z_o z_o^T, z_o = B_o x.
    G_plus : (1/n) sum delta x+^T, of the shape of B_o, where the target is no constant (`stop_grad` off); else None.
    """

    G: Array
    loss: float
    C_oo: Array
    G_plus: Array | None = None

    def and_exchanged(self, other: Evaluation) -> Evaluation:
        """The mean of this and of what the exchanged views give: gradients of the symmetric loss.

        `other` has x+ where this has x: its G is (1/n) sum delta x+^T. Rates and rules see the features of both views.
        """
        both = None if self.G_plus is None or other.G_plus is None else (self.G_plus + other.G_plus) / 2
        return Evaluation((self.G + other.G) / 2, (self.loss + other.loss) / 2, (self.C_oo + other.C_oo) / 2, both)
