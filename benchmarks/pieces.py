"""Where a minibatch run-step's time goes, at the default shape on one core.

    python benchmarks/pieces.py [--shape 64 100] [--dtype float64]

The pieces are timed by themselves, in processor time, each by its best of 5: matrix products of the step's shapes by
the BLAS that the kernels use, called from compiled code and with operands in cache; the stream's draws; and the log's
snapshots, as the difference between logging every 10 steps and only at the end. What remains of the whole is the
elementwise updates and the forming of the views. Draws and views are made once for the 20 runs of a group: a run-step
bears a twentieth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import counts
import numba
import numpy as np
from contestants import RUNS, engine, large_products, operations_per_microsecond
from tables import figure, share, table
from threadpoolctl import threadpool_limits
from timing import REPEATS, costs_in_turns, spent

from byolsim.draws.streams import MinibatchKey, minibatch_blocks

Array = np.ndarray
R = 10
STEPS = 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=(64, 100), metavar=("N", "D"), help="n <= d")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    options = parser.parse_args()
    (n, d), dtype = options.shape, options.dtype
    if n > d:
        parser.error("--shape: a step works on the samples where n <= d")
    whole = {"dtype": dtype}
    trainings = [engine("", whole | {"log_every": every}, n, d, STEPS, 1) for every in (10, STEPS)]
    logging, silent, large = (cost.cpu for cost in costs_in_turns([*trainings, large_products(dtype)]))
    with threadpool_limits(1, user_api="blas"):
        pieces = {
            "feature products: B_o X, B_t X+, D X^T": _feature_products(n, d, dtype),
            "other products: P Z_o, D Z_o^T, P^T G, A Z / 20": _other_products(n, d, dtype),
            "draws / 20": _draws(n, d),
        }
    pieces["elementwise: updates, views / 20; calls"] = silent - sum(pieces.values())
    pieces["snapshots, every 10 steps"] = logging - silent
    pieces["whole"] = logging
    pieces["floor of the products"] = counts.by_sample(n, d, R, RUNS) / operations_per_microsecond(large)
    print(f"n = {n}, d = {d}, r = {R}, {dtype}, {RUNS} runs, one core\n")
    print(table(["", "us per run-step", "share"], [[k, figure(t), share(t / logging)] for k, t in pieces.items()]))


def _feature_products(n: int, d: int, dtype: str) -> float:
    @numba.njit
    def products(count: int, B: Array, X: Array, Z: Array, D: Array, G: Array) -> None:
        for _ in range(count):
            np.dot(B, X, Z)
            np.dot(B, X, D)
            np.dot(D, X.T, G)

    return _timed(products, (R, d), (d, n), (R, n), (R, n), (R, d), dtype=dtype)


def _other_products(n: int, d: int, dtype: str) -> float:
    @numba.njit
    def products(
        count: int, P: Array, Z: Array, D: Array, G: Array, grad_P: Array, grad_B: Array, A: Array, X: Array
    ) -> None:
        for step in range(count):
            np.dot(P, Z, D)
            np.dot(D, Z.T, grad_P)
            np.dot(P.T, G, grad_B)
            if step % RUNS == 0:
                np.dot(A, Z, X)

    return _timed(
        products, (R, R), (R, n), (R, n), (R, d), (R, R), (R, d), (d, R), (d, n), dtype=dtype
    )  # fmt: skip


def _timed(products: Any, *shapes: tuple[int, int], dtype: str) -> float:
    """Microseconds of one call's products, on random operands."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    return _best(lambda: products(STEPS, *arrays)) / STEPS


def _draws(n: int, d: int) -> float:
    key = MinibatchKey(42, n, d, R)

    def draw() -> None:
        for _ in minibatch_blocks(key, STEPS):
            pass

    return _best(draw) / (STEPS * RUNS)


def _best(action: Callable[[], object]) -> float:
    """Microseconds of processor time of one call, after one to compile."""
    action()
    return 1e6 * min(spent(action)[1] for _ in range(REPEATS))


if __name__ == "__main__":
    main()
