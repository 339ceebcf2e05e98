"""Encoders of one layer or of several, for samplers that keep their first layers as they are, (k, d).

An encoder of L layers is E = U W_1 with U = W_L ... W_2. The state's B_o, V_B and B_t belong to W_1; what belongs to
the other layers, (k, k) each, stands here. With Gamma the gradient in E (`gradients.layer_gradients`),

    grad W_1 = U^T Gamma,    grad W_l = (W_L ... W_(l+1))^T (Gamma W_1^T) (W_(l-1) ... W_2)^T,

so that a deep step has three more products with d columns than a shallow one, whatever L is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.linalg import sum_squares
from byolsim.backends.numba.moves import average, heavy_ball
from byolsim.backends.numba.structures import SQUARE_B, SQUARE_P, Real
from byolsim.config.run import RunConfig
from byolsim.machine.jit import kernel
from byolsim.model.encoder import initial_weights
from byolsim.model.start import Start
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.model.world import World


class Shallow(NamedTuple):
    """One layer."""


class Deep(NamedTuple):
    """L > 1 layers of each run, and work space of one run's step."""

    upper: Real  # (K, L - 1, k, k) W_2, ..., W_L of the online encoder
    V_upper: Real
    upper_t: Real  # of the target
    lost_upper: Real  # as `State.lost`; (K, L - 1, k, 0) in double precision
    grads: Real  # (L - 1, k, k)
    U: Real  # (k, k) W_L ... W_2
    U_t: Real  # (k, k) of the target
    PU: Real  # (k, k) P U
    E_o: Real  # (k, d) the whole encoders
    E_t: Real  # (k, d)
    Gamma: Real  # (k, d) gradient in the whole online encoder
    inner: Real  # (k, k) (W_L ... W_(l+1))^T Gamma W_1^T
    below: Real  # (k, k) W_(l-1) ... W_2
    spare: Real  # (k, k)
    squares: np.ndarray  # (2,) the squared Frobenius norms of P U and of U


def initial_layers(
    group: Sequence[RunConfig], world: World, columns: int, initial: Start | None = None
) -> Shallow | Deep:
    """The layers above the first one where the runs start; whole encoders have so many columns."""
    config, dtype, K = group[0], np.dtype(group[0].dtype), len(group)
    k, above = config.k, config.depth - 1
    if not above:
        return Shallow()

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    layers = Deep(
        upper=real(K, above, k, k), V_upper=real(K, above, k, k), upper_t=real(K, above, k, k),
        lost_upper=real(K, above, k, k if dtype == np.float32 else 0),
        grads=real(above, k, k), U=real(k, k), U_t=real(k, k), PU=real(k, k),
        E_o=real(k, columns), E_t=real(k, columns), Gamma=real(k, columns),
        inner=real(k, k), below=real(k, k), spare=real(k, k), squares=np.zeros(2),
    )  # fmt: skip
    for run, config in enumerate(group):
        start = initial_weights(config, world, initial)
        for name in ("upper", "V_upper", "upper_t"):
            getattr(layers, name)[run] = getattr(start, name)
        if start.lost_upper is not None and layers.lost_upper.size:
            layers.lost_upper[run] = start.lost_upper
    return layers


def upper_layers(run: int, layers: Shallow | Deep) -> dict[str, np.ndarray]:
    """The fields of `Start` that one layer does not have, in double precision."""
    if isinstance(layers, Shallow):
        return {}
    ends = {name: getattr(layers, name)[run].astype(np.float64) for name in ("upper", "V_upper", "upper_t")}
    lost = layers.lost_upper[run].astype(np.float64)
    return ends | {"lost_upper": lost if lost.size else np.zeros_like(ends["upper"])}


def is_deep(layers):
    """In a kernel, whether there are several layers: what stands under it is not there for one."""


def form_whole(run, B_os, B_ts, layers):
    """In a kernel: bring the whole encoders of a run up to date."""


def online(run, B_os, layers):
    """In a kernel: the whole online encoder (k, d)."""


def target(run, B_ts, layers):
    """In a kernel: the whole target encoder (k, d)."""


def through(P, layers):
    """In a kernel: P W_L ... W_2, through which the first layer acts."""


def through_square(run, now, layers):
    """In a kernel: the squared Frobenius norm of that."""


def above(P, layers):
    """In a kernel: W_L ... W_2, or for one layer what is of size 0."""


def above_square(layers):
    """In a kernel: the squared Frobenius norm of that, or of one layer 1, that of what P acts on in its place."""


def gradient_of_whole(grad_B, layers):
    """In a kernel: where the gradient in the whole encoder is to be put."""


def to_layers(run, B_o, grad_B, layers):
    """In a kernel: the gradients of all layers from that in the whole encoder; that of B_o stands in grad_B."""


def move_upper(run, enc_steps, rate, mu, eta, tau, keep, now, layers):
    """In a kernel: heavy ball on the upper layers where the encoder moves, and their average."""


def check_whole(run, t, B_o, B_t, diverged, layers):
    """In a kernel: note the epoch t if the norm of a whole encoder of layers exceeds the bound (`step.is_bounded`)."""


def _is_shallow(layers):
    return layers.instance_class is Shallow


@overload(is_deep, inline="always")
def _is_deep(layers):
    if _is_shallow(layers):
        return lambda layers: False
    return lambda layers: True


@overload(form_whole, inline="always")
def _form_whole(run, B_os, B_ts, layers):
    if _is_shallow(layers):
        return lambda run, B_os, B_ts, layers: None
    return lambda run, B_os, B_ts, layers: _products(run, B_os[run], B_ts[run], layers)


@overload(online, inline="always")
def _online(run, B_os, layers):
    if _is_shallow(layers):
        return lambda run, B_os, layers: B_os[run]
    return lambda run, B_os, layers: layers.E_o


@overload(target, inline="always")
def _target(run, B_ts, layers):
    if _is_shallow(layers):
        return lambda run, B_ts, layers: B_ts[run]
    return lambda run, B_ts, layers: layers.E_t


@overload(through, inline="always")
def _through(P, layers):
    if _is_shallow(layers):
        return lambda P, layers: P

    def product(P, layers):
        np.dot(P, layers.U, layers.PU)
        layers.squares[0] = sum_squares(layers.PU)
        layers.squares[1] = sum_squares(layers.U)
        return layers.PU

    return product


@overload(through_square, inline="always")
def _through_square(run, now, layers):
    if _is_shallow(layers):
        return lambda run, now, layers: now[run, SQUARE_P]
    return lambda run, now, layers: layers.squares[0]


@overload(above, inline="always")
def _above(P, layers):
    if _is_shallow(layers):
        return lambda P, layers: P[:0]
    return lambda P, layers: layers.U


@overload(above_square, inline="always")
def _above_square(layers):
    if _is_shallow(layers):
        return lambda layers: 1.0
    return lambda layers: layers.squares[1]


@overload(gradient_of_whole, inline="always")
def _gradient_of_whole(grad_B, layers):
    if _is_shallow(layers):
        return lambda grad_B, layers: grad_B
    return lambda grad_B, layers: layers.Gamma


@overload(to_layers, inline="always")
def _to_layers(run, B_o, grad_B, layers):
    if _is_shallow(layers):
        return lambda run, B_o, grad_B, layers: None
    return lambda run, B_o, grad_B, layers: _layer_gradients(run, B_o, grad_B, layers)


@overload(move_upper, inline="always")
def _move_upper(run, enc_steps, rate, mu, eta, tau, keep, now, layers):
    if _is_shallow(layers):
        return lambda run, enc_steps, rate, mu, eta, tau, keep, now, layers: None
    return lambda run, enc_steps, rate, mu, eta, tau, keep, now, layers: _move(
        run, enc_steps, rate, mu, eta, tau, keep, now, layers
    )


@overload(check_whole, inline="always")
def _check_whole(run, t, B_o, B_t, diverged, layers):
    if _is_shallow(layers):
        return lambda run, t, B_o, B_t, diverged, layers: None

    def check(run, t, B_o, B_t, diverged, layers):
        if not _whole_is_bounded(run, B_o, B_t, layers):
            diverged[run] = t

    return check


@kernel
def _whole_is_bounded(run, B_o, B_t, layers):
    """Whether both products are within the bound; they are formed only where the product of all norms is not."""
    bound = DIVERGENCE_BOUND**2
    most_o, most_t = sum_squares(B_o), sum_squares(B_t)
    for i in range(layers.upper.shape[1]):
        most_o *= sum_squares(layers.upper[run, i])
        most_t *= sum_squares(layers.upper_t[run, i])
    if most_o <= bound and most_t <= bound:
        return True
    _products(run, B_o, B_t, layers)
    return sum_squares(layers.E_o) <= bound and sum_squares(layers.E_t) <= bound


@kernel
def _products(run, B_o, B_t, layers):
    """E = W_L ... W_1 of both encoders."""
    chain(layers.upper[run], layers.spare, layers.U)
    chain(layers.upper_t[run], layers.spare, layers.U_t)
    np.dot(layers.U, B_o, layers.E_o)
    np.dot(layers.U_t, B_t, layers.E_t)


@kernel
def chain(upper, spare, U):
    """U = W_L ... W_2; `spare` is work space."""
    U[:] = upper[0]
    for i in range(1, upper.shape[0]):
        np.dot(upper[i], U, spare)
        U[:] = spare


@kernel
def _layer_gradients(run, B_o, grad_B, layers):
    """The two formulas at the top; the layers from the last to the second, each with the product of those below it."""
    upper, above, spare = layers.upper[run], layers.upper.shape[1], layers.spare
    np.dot(layers.U.T, layers.Gamma, grad_B)
    np.dot(layers.Gamma, B_o.T, layers.inner)
    for i in range(above - 1, -1, -1):
        if i > 0:
            chain(upper[:i], spare, layers.below)
            np.dot(layers.inner, layers.below.T, layers.grads[i])
            np.dot(upper[i].T, layers.inner, spare)
            layers.inner[:] = spare
        else:
            layers.grads[i] = layers.inner


@kernel
def _move(run, enc_steps, rate, mu, eta, tau, keep, now, layers):
    """Each layer as `step.update` moves the first one; the largest squared norm counts for the check of divergence."""
    for i in range(layers.upper.shape[1]):
        W = layers.upper[run, i].reshape(-1)
        if enc_steps:
            square = heavy_ball(W, layers.V_upper[run, i].reshape(-1), layers.grads[i].reshape(-1), rate, mu, eta)
            if not square <= now[run, SQUARE_B]:
                now[run, SQUARE_B] = square
        average(W, layers.upper_t[run, i].reshape(-1), layers.lost_upper[run, i].reshape(-1), tau, keep)
