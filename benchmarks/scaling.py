"""Cost of a run-step against the batch size and against the observed dimension, as a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from contestants import RUNS, SAMPLERS, engine, is_offered
from tables import figure, table
from timing import costs_in_turns

N, D = 64, 100
SIZES_N = (1, 3, 10, 30, 100, 300, 1000, 3000, 10**4, 3 * 10**4, 10**5, 3 * 10**5, 10**6)
SIZES_D = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10**4)
LINES = ("minibatch, float64", "moments, direct", "moments, reduced")
COLOURS = ("#777777", "#d1781f", "#1f5fa8")
GENTLE = {"lr_pred_logspace": (1e-6, 1e-4, 4), "tau_logspace": (1e-6, 1e-4, 4)}
"""Rates at which nothing diverges, not even at n = 1."""

AFFORDABLE = 5000.0
"""Microseconds per run-step beyond which a line ends."""

BUDGET = 2e5
"""Microseconds of steps in one timing, about."""


class Point(NamedTuple):
    """One measurement: microseconds of processor time per run-step, on one thread."""

    line: str
    n: int
    d: int
    cost: float


def report(path: Path) -> str:
    """Measure, write the figure, and return the table as text."""
    against_n = [p for line in LINES for p in _measure(line, [(n, D) for n in SIZES_N])]
    against_d = [p for line in LINES for p in _measure(line, [(N, d) for d in SIZES_D])]
    draw(against_n, against_d, path)
    caption = f"Microseconds per run-step on one core, {RUNS} runs sharing a data stream, r = 10; drawn in {path.name}"
    tables = [_table(against_n, "n", f"d = {D}"), _table(against_d, "d", f"n = {N}")]
    return "\n\n".join([caption, *tables])


def _measure(line: str, shapes: Sequence[tuple[int, int]]) -> Iterator[Point]:
    """The points of one line, best of 3 each, up to the first that is not affordable."""
    options = SAMPLERS[line] | GENTLE
    for n, d in shapes:
        if not is_offered(options, n, d):
            continue
        (trial,) = costs_in_turns([engine(line, options, n, d, 11, 1)], 1)
        if trial.cpu > AFFORDABLE:
            return
        steps = min(1000, max(10, int(BUDGET / (RUNS * max(trial.cpu, 1.0)))))
        (cost,) = costs_in_turns([engine(line, options, n, d, steps, 1)], 3)
        yield Point(line, n, d, cost.cpu)


def _table(points: Sequence[Point], axis: str, fixed: str) -> str:
    sizes = sorted({getattr(p, axis) for p in points})
    cost = {(p.line, getattr(p, axis)): p.cost for p in points}
    lines = [line for line in LINES if any(p.line == line for p in points)]
    rows = [[f"{axis} = {size:,}", *(figure(cost.get((line, size))) for line in lines)] for size in sizes]
    return table([fixed, *lines], rows)


def spread(heights: Sequence[float], least: float) -> list[float]:
    """Heights moved up where needed, so that they keep their order and lie at least `least` apart."""
    placed = list(heights)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    for low, high in pairwise(order):
        placed[high] = max(placed[high], placed[low] + least)
    return placed


def draw(against_n: Sequence[Point], against_d: Sequence[Point], path: Path) -> None:
    """Two log-log panels with one scale of cost; each line is labelled at its end."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    axes = (("n", against_n, f"batch size n   (d = {D})"), ("d", against_d, f"observed dimension d   (n = {N})"))
    for panel, (axis, points, label) in zip(panels, axes, strict=True):
        panel.set(xscale="log", yscale="log", xlabel=label)
        panel.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(which="both", length=0)
        ends = []
        for line, colour in zip(LINES, COLOURS, strict=True):
            xs, ys = ([getattr(p, name) for p in points if p.line == line] for name in (axis, "cost"))
            if xs:
                panel.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=4)
                ends.append((line.removesuffix(", float64"), colour, xs[-1], ys[-1]))
        heights = spread([math.log10(y) for *_, y in ends], 0.17)
        for (name, colour, x, _), height in zip(ends, heights, strict=True):
            panel.annotate(
                name,
                (x, 10**height),
                (8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                annotation_clip=False,
            )
    panels[0].set_ylabel("microseconds per run-step, one core")
    picture.suptitle(f"Cost of a training step ({RUNS} runs share a data stream, r = 10, float64)", fontsize=11)
    picture.savefig(path)
