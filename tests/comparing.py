"""Two backends' trajectories of one run, quantity by quantity."""

from __future__ import annotations

import numpy as np
from cases import gram

from byolsim.backends.base import LogBlock
from byolsim.model.order import OrderParameters

Array = np.ndarray


def quantities(block: LogBlock) -> dict[str, Array]:
    """What a backend hands over of one run, at its valid rows; Gram matrices, as a factor of rank < k is not unique."""
    order, valid = block.order, block.valid[0]
    assert isinstance(order, OrderParameters)
    named = {name: getattr(order, name) for name in ("P", "b_o", "b_t", "gap")}
    named |= {"Gram of L_o": gram(0 * order.L_o, order.L_o), "Gram of L_t": gram(0 * order.L_t, order.L_t)}
    named |= block.steps
    return {name: values[0][valid].reshape(valid.sum(), -1) for name, values in named.items()}


def sizes_of(expected: dict[str, Array]) -> dict[str, Array]:
    """The largest value that each quantity had so far, at least 1; of the gap, that of the encoders.

    The terms that make up a small value are of that size.
    """

    def size_of(values: Array) -> Array:
        largest = np.nan_to_num(abs(values)).max(axis=1, keepdims=True, initial=0)
        return np.maximum.accumulate(np.maximum(largest, 1.0))

    sizes = {name: size_of(values) for name, values in expected.items()}
    sizes["gap"] = np.maximum(sizes["b_o"], np.sqrt(sizes["Gram of L_o"]))
    return sizes


def assert_close(ours: dict[str, Array], expected: dict[str, Array], tolerance: float) -> None:
    """Every quantity to a tolerance in units of `sizes_of`."""
    for name, size in sizes_of(expected).items():
        np.testing.assert_allclose(ours[name] / size, expected[name] / size, rtol=0, atol=tolerance, err_msg=name)


def errors(ours: LogBlock, expected: LogBlock) -> dict[str, Array]:
    """The deviations of each quantity, in the same units; of a value that neither has, 0."""
    mine, theirs = quantities(ours), quantities(expected)
    return {name: np.nan_to_num(abs(mine[name] - theirs[name]) / size) for name, size in sizes_of(theirs).items()}
