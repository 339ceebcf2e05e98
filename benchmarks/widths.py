"""Microseconds per run-step of the reduced form by the width of the encoder and the size of the world.

    python benchmarks/widths.py [--repeats 5]

Processor time of one thread, best of some rounds, in groups of 20 runs that share their draws. k is the number of rows
of the encoder, q the dimension of the structured subspace; d does not matter (docs/moments.md, section 3).
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from tables import figure, table
from threadpoolctl import threadpool_limits
from timing import REPEATS, Contestant, costs_in_turns, train_one

from byolsim.config.run import RunConfig

WIDTHS = ((10, 10), (4, 10), (10, 20), (32, 32), (10, 64))
SAMPLES = (64, 1024)
RUNS = 20


def group(k: int, q: int, n: int, dtype: Any, steps: int) -> list[RunConfig]:
    """Runs that differ in their rates."""
    return [
        RunConfig(
            sampler="moments", moments_form="reduced", d_latent=q, d_embed=k, d_obs=q + 4 * k, batch_size=n,
            dtype=dtype, epochs=steps, log_every=steps, lr_pred=1e-3 * (1 + run / RUNS), lr_enc=1e-3,
        )
        for run in range(RUNS)
    ]  # fmt: skip


def contestant(k: int, q: int, n: int, dtype: str) -> Contestant:
    """A group of one shape, compiled and warm; what comes before the first step is timed beside it."""
    steps = max(100, 200_000 // ((q + 2 * k) * k))
    train_one(group(k, q, n, dtype, 2))
    return Contestant(
        f"{k}, {q}",
        "1",
        RUNS * (steps - 1),
        partial(train_one, group(k, q, n, dtype, steps)),
        partial(train_one, group(k, q, n, dtype, 1)),
    )


def report(repeats: int) -> str:
    """Measure, and return the table."""
    columns = [(n, dtype) for dtype in ("float64", "float32") for n in SAMPLES]
    contestants = [contestant(k, q, n, dtype) for k, q in WIDTHS for n, dtype in columns]
    costs = [figure(cost.cpu) for cost in costs_in_turns(contestants, repeats)]
    rows = [[f"{k}, {q}", *costs[i * len(columns) : (i + 1) * len(columns)]] for i, (k, q) in enumerate(WIDTHS)]
    return table(["k, q", *(f"n = {n:,}, {dtype}" for n, dtype in columns)], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds, of which the best counts")
    with threadpool_limits(1, user_api="blas"):
        print(report(parser.parse_args().repeats))


if __name__ == "__main__":
    main()
