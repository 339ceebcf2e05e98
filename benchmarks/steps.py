"""Microseconds per run-step of every contestant, in turns, and the share of the arithmetic floor that is reached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import counts
from contestants import (
    RUNS,
    SAMPLERS,
    engine,
    is_offered,
    jax_scan,
    large_products,
    operations_per_microsecond,
    torch_loop,
)
from tables import figure, share, table
from timing import Contestant, Cost, costs_in_turns

SMALL, MEDIUM, LARGE = (64, 100), (1024, 1000), (10**6, 10**4)
SHAPES = (SMALL, MEDIUM, LARGE)
R = 10
BASELINES = ("JAX float64", "JAX float32", "JAX float64 twice", "JAX float32 twice", "torch")
"""The rows that others are compared with, by the beginning of their names; of two that fit, the first."""

Shape = tuple[int, int]


def report(repeats: int) -> str:
    """Measure, and return all tables as text."""
    entries = [(shape, contestant) for shape in SHAPES for contestant in contestants_at(shape)]
    rates = [large_products(dtype) for dtype in ("float64", "float32")]
    *times, double, single = costs_in_turns([c for _, c in entries] + rates, repeats)
    measured = [(shape, c, t) for (shape, c), t in zip(entries, times, strict=True)]
    peak = {"float64": operations_per_microsecond(double.cpu), "float32": operations_per_microsecond(single.cpu)}
    parts = [
        f"Microseconds per run-step, n = {n:,}, d = {d:,}, r = {R}, {RUNS} runs share a data stream; ratios: how many "
        f"times faster than each baseline\n\n" + comparison([(c, t) for shape, c, t in measured if shape == (n, d)])
        for n, d in SHAPES
    ]
    return "\n\n".join([*parts, "Floor of the minibatch step's own products, one core\n\n" + floors(measured, peak)])


def contestants_at(shape: Shape) -> list[Contestant]:
    """Everything that is timed at a shape; at the largest only the form whose cost does not grow with it."""
    n, d = shape
    found = []
    for name, options in SAMPLERS.items():
        if (shape == LARGE and name != "moments, reduced") or not is_offered(options, n, d):
            continue
        found += [engine(name, options, n, d, _steps(name, d, threads), threads) for threads in (1, 2)]
    if shape == LARGE:
        return found
    found.append(torch_loop(n, d, _steps("", d)))
    # At the larger shape one grid's products fill both cores, and a second one at once gains nothing.
    for streams, dtype in product((1, 2) if shape == SMALL else (1,), ("float64", "float32")):
        found.append(jax_scan(n, d, _steps("", d), dtype, streams))
    return found


def _steps(name: str, d: int, threads: int = 2) -> int:
    """At least 300, more where they are short; fewer where one core alone, for the floor, would take long."""
    if d <= 100 or name == "moments, reduced":
        return 1000
    return 100 if threads == 1 and name.startswith("minibatch") else 300


def comparison(rows: Sequence[tuple[Contestant, Cost]]) -> str:
    """One shape's table: each contestant's time, and the ratio of its wall time to each baseline that is there."""
    baselines = {}
    for prefix in BASELINES:
        found = [cost.wall for contestant, cost in rows if contestant.name.startswith(prefix)]
        if found:
            baselines[prefix] = found[0]
    header = ["", "cores", "wall, us", "CPU, us", *(f"x {name}" for name in baselines)]
    cells = [
        [c.name, c.cores, figure(cost.wall), figure(cost.cpu), *(figure(b / cost.wall) for b in baselines.values())]
        for c, cost in rows
    ]
    return table(header, cells)


def floors(measured: Sequence[tuple[Shape, Contestant, Cost]], peak: dict[str, float]) -> str:
    """For each minibatch row of one core: operations over the rate of large products, and the share reached.

    `peak` is in operations per microsecond. All times are processor times of one thread.
    """
    rows = []
    for (n, d), contestant, cost in measured:
        kind, _, dtype = contestant.name.partition(", ")
        if kind == "minibatch" and contestant.cores == "1":
            operations = counts.minibatch(n, d, R, RUNS)
            floor = operations / peak[dtype]
            numbers = map(figure, (operations / 1e3, peak[dtype] / 1e3, floor, cost.cpu))
            rows.append([f"n = {n:,}, d = {d:,}, {dtype}", *numbers, share(floor / cost.cpu)])
    return table(["", "kflop per run-step", "product rate, Gflop/s", "floor, us", "CPU, us", "reached"], rows)
