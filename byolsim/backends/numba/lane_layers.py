"""`layers` for the reduced form: runs are lanes, and first layers are rows of the coordinates X (docs/moments.md).

The rows of the whole online encoder E = U W_1 are U times those of W_1: outside the structured subspace they lie in the
k directions O_1 of W_1, with all k^2 entries, and those of the target in the first 3k directions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.lane_linalg import lane_sum_squares, multiply, transpose
from byolsim.backends.numba.lanes import load, store, where_positive, zeros
from byolsim.backends.numba.layers import Deep, Shallow, upper_layers
from byolsim.backends.numba.structures import BETA, ETA_B, KEEP, MU_B, SQUARE_B, SQUARE_P, TAU, Real
from byolsim.machine.jit import fma, kernel
from byolsim.model.state import DIVERGENCE_BOUND


class DeepLanes(NamedTuple):
    """`layers.Deep` of packs of runs, and work space of one pack's step, all in lanes."""

    upper: Real  # (packs, L - 1, k, k, lanes)
    V_upper: Real
    upper_t: Real
    lost_upper: Real  # (packs, L - 1, k, k, lanes), or of no columns in double precision
    grads: Real  # (L - 1, k, k)
    U: Real  # (k, k)
    U_t: Real  # (k, k)
    PU: Real  # (k, k)
    E_o: Real  # (k, q + k) the whole encoders
    E_t: Real  # (k, q + 3k)
    Gamma: Real  # (k, q + 4k)
    X_T: Real  # (q + k, k) the first layer's rows, transposed
    inner: Real  # (k, k)
    below: Real  # (k, k)
    spare: Real  # (k, k)
    turned: Real  # (k, k) a transpose
    squares: Real  # (4, 1) squared norms: of P U, the largest of an upper layer, of U, and of whole encoders


def in_lanes(layers: Shallow | Deep, lanes: int, q: int) -> Shallow | DeepLanes:
    """The layers of whole packs of runs, a run a lane; q is the dimension of the structured subspace."""
    if isinstance(layers, Shallow):
        return layers
    k, dtype = layers.U.shape[0], layers.U.dtype

    def packed(M: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(M.reshape(len(M) // lanes, lanes, *M.shape[1:]), 1, -1))

    def real(*shape: int) -> np.ndarray:
        return np.zeros((*shape, lanes), dtype)

    return DeepLanes(
        *(packed(M) for M in (layers.upper, layers.V_upper, layers.upper_t, layers.lost_upper)),
        grads=real(len(layers.grads), k, k), U=real(k, k), U_t=real(k, k), PU=real(k, k),
        E_o=real(k, q + k), E_t=real(k, q + 3 * k), Gamma=real(k, q + 4 * k), X_T=real(q + k, k),
        inner=real(k, k), below=real(k, k), spare=real(k, k), turned=real(k, k), squares=real(4, 1),
    )  # fmt: skip


def upper_of_lane(p: int, lane: int, layers: Shallow | DeepLanes) -> dict[str, np.ndarray]:
    """`layers.upper_layers` of a lane of pack p."""
    if isinstance(layers, Shallow):
        return upper_layers(0, layers)
    names = ("upper", "V_upper", "upper_t", "lost_upper")
    ends = {name: getattr(layers, name)[p, ..., lane].astype(np.float64) for name in names}
    return ends if ends["lost_upper"].size else ends | {"lost_upper": np.zeros_like(ends["upper"])}


def form_whole(p, X, layers):
    """In a kernel: bring the whole encoders of pack p up to date."""


def online(X, layers):
    """In a kernel: coordinates of the whole online encoder, (k or more rows, q + k or more columns, lanes)."""


def target(X, layers):
    """In a kernel: coordinates of the whole target encoder, (k, q + 3k or more columns, lanes)."""


def through(P, layers):
    """In a kernel: P W_L ... W_2 of each lane, through which the first layer acts."""


def through_square(run, lane, now, layers):
    """In a kernel: the squared norm of that of a run, or a larger number."""


def above(P, layers):
    """In a kernel: W_L ... W_2 of each lane, or for one layer what is of size 0."""


def above_square(lane, layers):
    """In a kernel: the squared norm of that of a lane, or of one layer 1."""


def gradient_of_whole(grad_B, layers):
    """In a kernel: where the gradient in the whole encoder is to be put."""


def to_layers(p, X, grad_B, layers):
    """In a kernel: the gradients of all layers from that in the whole encoder; that of the first stands in grad_B."""


def move_upper(p, factors, enc_steps, layers):
    """In a kernel: heavy ball on the upper layers where the encoder moves, and their average."""


def note_largest(run, lane, now, layers):
    """In a kernel: the largest squared norm of a layer, after the first one's was noted."""


def check_whole(p, start, t, X, diverged, layers):
    """In a kernel: note the epoch t for the lanes of pack p, runs from `start` on, as `layers.check_whole` does."""


def _is_shallow(layers):
    return layers.instance_class is Shallow


@overload(form_whole, inline="always")
def _form_whole(p, X, layers):
    if _is_shallow(layers):
        return lambda p, X, layers: None
    return lambda p, X, layers: _products(p, X, layers)


@overload(online, inline="always")
def _online(X, layers):
    if _is_shallow(layers):
        return lambda X, layers: X
    return lambda X, layers: layers.E_o


@overload(target, inline="always")
def _target(X, layers):
    if _is_shallow(layers):
        return lambda X, layers: X[2 * (X.shape[0] // 3) :]
    return lambda X, layers: layers.E_t


@overload(through, inline="always")
def _through(P, layers):
    if _is_shallow(layers):
        return lambda P, layers: P
    return lambda P, layers: _product(P, layers)


@overload(through_square, inline="always")
def _through_square(run, lane, now, layers):
    if _is_shallow(layers):
        return lambda run, lane, now, layers: now[run, SQUARE_P]
    return lambda run, lane, now, layers: np.float64(layers.squares[0, 0, lane])


@overload(above, inline="always")
def _above(P, layers):
    if _is_shallow(layers):
        return lambda P, layers: P[:0]
    return lambda P, layers: layers.U


@overload(above_square, inline="always")
def _above_square(lane, layers):
    if _is_shallow(layers):
        return lambda lane, layers: 1.0
    return lambda lane, layers: np.float64(layers.squares[2, 0, lane])


@overload(check_whole, inline="always")
def _check_whole(p, start, t, X, diverged, layers):
    if _is_shallow(layers):
        return lambda p, start, t, X, diverged, layers: None
    return lambda p, start, t, X, diverged, layers: _note_unbounded(p, start, t, X, diverged, layers)


@overload(gradient_of_whole, inline="always")
def _gradient_of_whole(grad_B, layers):
    if _is_shallow(layers):
        return lambda grad_B, layers: grad_B
    return lambda grad_B, layers: layers.Gamma


@overload(to_layers, inline="always")
def _to_layers(p, X, grad_B, layers):
    if _is_shallow(layers):
        return lambda p, X, grad_B, layers: None
    return lambda p, X, grad_B, layers: _layer_gradients(p, X, grad_B, layers)


@overload(move_upper, inline="always")
def _move_upper(p, factors, enc_steps, layers):
    if _is_shallow(layers):
        return lambda p, factors, enc_steps, layers: None
    return lambda p, factors, enc_steps, layers: _move(p, factors, enc_steps, layers)


@overload(note_largest, inline="always")
def _note_largest(run, lane, now, layers):
    if _is_shallow(layers):
        return lambda run, lane, now, layers: None

    def note(run, lane, now, layers):
        square = layers.squares[1, 0, lane]
        if not square <= now[run, SQUARE_B]:
            now[run, SQUARE_B] = square

    return note


@kernel
def _products(p, X, layers):
    """E = W_L ... W_1 of both encoders."""
    k = layers.U.shape[0]
    chain(layers.upper[p], layers.upper.shape[1], layers.spare, layers.U)
    chain(layers.upper_t[p], layers.upper.shape[1], layers.spare, layers.U_t)
    multiply(layers.U, 0, X, 0, k, layers.E_o, 0, layers.E_o.shape[1], 1.0)
    multiply(layers.U_t, 0, X[2 * k :], 0, k, layers.E_t, 0, layers.E_t.shape[1], 1.0)


@kernel
def _note_unbounded(p, start, t, X, diverged, layers):
    """Both products must be within the bound; they are formed only where the product of all norms is not."""
    k, bound, squares, are_bounded = layers.U.shape[0], DIVERGENCE_BOUND**2, layers.squares, True
    most_o, most_t = lane_sum_squares(X, 0, k), lane_sum_squares(X, 2 * k, 3 * k)
    for i in range(layers.upper.shape[1]):
        most_o = most_o * lane_sum_squares(layers.upper[p, i], 0, k)
        most_t = most_t * lane_sum_squares(layers.upper_t[p, i], 0, k)
    store(squares, 3, 0, where_positive(most_t - most_o, most_t, most_o))
    for lane in range(squares.shape[2]):
        are_bounded &= diverged[start + lane] >= 0 or squares[3, 0, lane] <= bound
    if are_bounded:
        return
    _products(p, X, layers)
    for whole in (layers.E_o, layers.E_t):
        store(squares, 3, 0, lane_sum_squares(whole, 0, k))
        for lane in range(squares.shape[2]):
            if diverged[start + lane] < 0 and not squares[3, 0, lane] <= bound:
                diverged[start + lane] = t


@kernel
def chain(upper, number, spare, U):
    """U = the product of so many of the lowest layers; `spare` is work space."""
    k = U.shape[0]
    U[:] = upper[0]
    for i in range(1, number):
        multiply(upper[i], 0, U, 0, k, spare, 0, k, 1.0)
        U[:] = spare


@kernel
def _product(P, layers):
    """P U, and its squared norm and that of U."""
    k = P.shape[0]
    multiply(P, 0, layers.U, 0, k, layers.PU, 0, k, 1.0)
    store(layers.squares, 0, 0, lane_sum_squares(layers.PU, 0, k))
    store(layers.squares, 2, 0, lane_sum_squares(layers.U, 0, k))
    return layers.PU


@kernel
def _layer_gradients(p, X, grad_B, layers):
    """`layers`' formulas; a row of X has nothing beyond its first q + k columns."""
    k, columns, inner, turned = layers.U.shape[0], layers.X_T.shape[0], layers.inner, layers.turned
    transpose(layers.U, 0, turned)
    multiply(turned, 0, layers.Gamma, 0, k, grad_B, 0, grad_B.shape[1], 1.0)
    transpose(X, 0, layers.X_T)
    multiply(layers.Gamma, 0, layers.X_T, 0, columns, inner, 0, k, 1.0)
    for i in range(layers.upper.shape[1] - 1, 0, -1):
        chain(layers.upper[p], i, layers.spare, layers.below)
        transpose(layers.below, 0, turned)
        multiply(inner, 0, turned, 0, k, layers.grads[i], 0, k, 1.0)
        transpose(layers.upper[p, i], 0, turned)
        multiply(turned, 0, inner, 0, k, layers.spare, 0, k, 1.0)
        inner[:] = layers.spare
    layers.grads[0] = inner


@kernel
def _move(p, factors, enc_steps, layers):
    """Each layer as the first one moves; the largest squared norm of each lane, or what is no number."""
    largest = zeros(layers.U)
    for i in range(layers.upper.shape[1]):
        W = layers.upper[p, i]
        if enc_steps:
            square = _heavy_ball(W, layers.V_upper[p, i], layers.grads[i], factors)
            largest = where_positive(largest - square, largest, square)
        _average(W, layers.upper_t[p, i], layers.lost_upper[p, i], factors)
    if enc_steps:
        store(layers.squares, 1, 0, largest)


@kernel
def _heavy_ball(W, V, gradient, factors):
    """V <- mu V + gradient + eta W, W <- W - beta V; the new squared norm of each lane."""
    minus_beta, mu, eta = 0.0 - load(factors, BETA, 0), load(factors, MU_B, 0), load(factors, ETA_B, 0)
    square = zeros(W)
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            old = load(W, i, j)
            v = fma(mu, load(V, i, j), fma(eta, old, load(gradient, i, j)))
            store(V, i, j, v)
            new = fma(minus_beta, v, old)
            store(W, i, j, new)
            square = fma(new, new, square)
    return square


@kernel
def _average(W, W_t, lost, factors):
    """`moves.average` of each lane."""
    tau, keep = load(factors, TAU, 0), load(factors, KEEP, 0)
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            new, old = load(W, i, j), load(W_t, i, j)
            step = tau * (new - old)
            if lost.shape[1] > 0:
                step = step - load(lost, i, j)
            slow, fast = old + step, fma(keep, old - new, new)
            if lost.shape[1] > 0:
                store(lost, i, j, where_positive(0.5 - tau, (slow - old) - step, zeros(W)))
            store(W_t, i, j, where_positive(0.5 - tau, slow, fast))
