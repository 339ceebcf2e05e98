"""What is differentiated: the gradient in the whole encoder, from the residual gradient G and from G_plus.

`gradients.encoder_gradient`: P^T G, or G where the Jacobian of the predictor is left out (straight), less
G_plus = (1/n) sum delta x+^T where the target is no constant. The symmetric loss is the mean of both orders of the
views: their G, G_plus and C_oo are averaged (`state.Evaluation.and_exchanged`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.linalg import spectral_norm_squared, subtract
from byolsim.backends.numba.structures import Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel


class Closed(NamedTuple):
    """The target is a constant, and the views have one order."""


class Straight(NamedTuple):
    """The same, with the Jacobian of the identity in place of the predictor's."""


class Open(NamedTuple):
    """Gradients through the target, or both orders of the views; work space of one run's step."""

    straight: bool
    symmetric: bool
    through_target: bool
    G_plus: Real  # (k, d)
    G_exchanged: Real  # (k, d) G of the exchanged views
    G_plus_exchanged: Real  # (k, d)
    grad_P_exchanged: Real  # (k, k)
    C_exchanged: Real  # (k, k)


def loss_of(config: RunConfig, columns: int) -> Closed | Straight | Open:
    """The loss of a group whose whole encoders have so many columns."""
    straight, symmetric = config.pred_jacobian == "straight", bool(config.symmetric_loss)
    if config.stop_grad and not symmetric:
        return Straight() if straight else Closed()
    dtype, k = np.dtype(config.dtype), config.k
    return Open(
        straight,
        symmetric,
        not config.stop_grad,
        *(np.zeros((k, columns), dtype) for _ in range(3)),
        *(np.zeros((k, k), dtype) for _ in range(2)),
    )


def encoder_gradient(P, G, out, loss):
    """In a kernel: the gradient in the whole encoder."""


def first_layer_gain(PU, U, square, loss):
    """In a kernel: the squared gain of `schedule.AutoRates.beta` by spectral norms, with `square` (k, k) work space.

    U is the product of the layers above the first one, or of size 0 where there is none.
    """


def gain_bound(square_PU, square_U, loss):
    """In a kernel: the same by squared Frobenius norms, which is at least as much; square_U is 1 where U = I."""


@overload(encoder_gradient, inline="always")
def _encoder_gradient(P, G, out, loss):
    if loss.instance_class is Closed:
        return lambda P, G, out, loss: np.dot(P.T, G, out)
    if loss.instance_class is Straight:

        def straight(P, G, out, loss):
            out[:] = G

        return straight

    def open_gradient(P, G, out, loss):
        if loss.straight:
            out[:] = G
        else:
            np.dot(P.T, G, out)
        if loss.through_target:
            subtract(out, loss.G_plus)

    return open_gradient


@overload(first_layer_gain, inline="always")
def _first_layer_gain(PU, U, square, loss):
    if loss.instance_class is Closed:
        return lambda PU, U, square, loss: spectral_norm_squared(PU, square)

    def gain(PU, U, square, loss):
        return gain_bound(spectral_norm_squared(PU, square), _norm_squared_above(U, square), loss)

    return gain


@overload(gain_bound, inline="always")
def _gain_bound(square_PU, square_U, loss):
    if loss.instance_class is Closed:
        return lambda square_PU, square_U, loss: square_PU
    if loss.instance_class is Straight:
        return lambda square_PU, square_U, loss: np.sqrt(square_U * square_PU)
    return lambda square_PU, square_U, loss: _open_gain(square_PU, square_U, loss.straight, loss.through_target)


@kernel
def _norm_squared_above(U, square):
    return spectral_norm_squared(U, square) if U.size > 0 else 1.0


@kernel
def _open_gain(square_PU, square_U, straight, through_target):
    u, both = np.sqrt(square_U), np.sqrt(square_PU)
    if through_target:
        both += u
    if not straight:
        return both * both
    return 2.0 * u * both if through_target else u * both
