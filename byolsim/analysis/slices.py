"""Slices: the population loss against x, one line for each value of y.

The loss is `loss_rel`, which is 1 for a predictor that says nothing: the bare loss of a collapsing run tends to 0 with
its features. Points whose features have vanished are triangles pointing down.

Points are means over seeds, bars go from the smallest to the largest seed. A point of which a seed diverged at or
before the epoch is a cross outside every line: at the mean of its finite values where that lies within the range of
the others, in a strip along the top where it does not or where none is left.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from byolsim.analysis.axes import Array, between
from byolsim.analysis.grid import Grid
from byolsim.analysis.panels import (
    COLOUR_MAP,
    Panel,
    add_legend,
    collapsed_label,
    label_rows,
    new_figure,
    set_ticks,
    set_title,
)
from byolsim.model.metrics import METRICS

LOSS, OLD_LOSS = "loss_rel", "loss_pop"
"""What is shown, and what of files that were written before there was a `loss_rel`."""

_LISTED = 10
"""Lines that the legend names."""


@dataclass(frozen=True)
class _Range:
    """The visible range of the loss: the data between `low` and `high`, the strip of diverged points above `high`."""

    log: bool
    low: float
    high: float
    top: float


def loss_slices(grid: Grid) -> Figure:
    """Slices of `LOSS`, of old files `OLD_LOSS`, with the auto column at the right."""
    loss = LOSS if np.isfinite(grid.values[LOSS]).any() else OLD_LOSS
    figure, panels = new_figure(grid, size=(1.4, 1.9))
    limits = _range(grid, loss)
    for b, panel in enumerate(panels):
        _draw_panel(grid, loss, b, panel, limits)
    label_rows(panels, textwrap.fill(METRICS[loss], 22) + f"\n[{loss}]")
    notes = ["bars: smallest to largest seed"] if len(grid.seeds) > 1 else []
    if limits.top > limits.high:
        notes.append("crosses above the dotted line: no value, or off the scale")
    if not np.isfinite(grid.mean(loss)).any():
        notes.append("no run has a finite loss")
    set_title(figure, grid, f"{loss} against {grid.x.symbol}", notes)
    step = math.ceil(len(grid.y.values) / _LISTED)
    title = grid.y.label + (f" (1 line in {step} is named)" if step > 1 else "")
    add_legend(figure, _legend_handles(grid, step), title=title)
    return figure


def _range(grid: Grid, loss: str) -> _Range:
    """Limits from the points without divergence, if any has a value; the strip only where a cross needs it."""
    mean, diverged = grid.mean(loss), grid.any_diverged()
    trusted = np.isfinite(mean) & ~diverged
    used = trusted if trusted.any() else np.isfinite(mean)
    low_of, high_of = grid.spread(loss)
    log = not np.any(low_of[used] <= 0)
    if not used.any():
        return _Range(True, 0.1, 1.0, _top(True, 0.1, 1.0, len(grid.y.values) if diverged.any() else 0))
    low, high = float(low_of[used].min()), float(high_of[used].max())
    if log:
        room = 10 ** max(0.04 * math.log10(high / low), 0.02)
        low, high = low / room, high * room
    else:
        room = max(0.04 * (high - low), 0.05 * abs(high)) or 1.0
        low, high = low - room, high + room
    outside = diverged & ~((mean > low) & (mean < high))
    return _Range(log, low, high, _top(log, low, high, len(grid.y.values) if outside.any() else 0))


def _top(log: bool, low: float, high: float, rows: int) -> float:
    """The upper end of the axis with a strip of that many rows above `high`."""
    if rows == 0:
        return high
    stretch = 1 / (1 - min(0.05 * rows + 0.03, 0.35))
    return float(low * (high / low) ** stretch) if log else low + (high - low) * stretch


def _draw_panel(grid: Grid, loss: str, b: int, panel: Panel, limits: _Range) -> None:
    count, rows = len(grid.x.along), len(grid.y.values)
    if panel.fixed is not None:
        panel.fixed.set_xlim(grid.x.edges[0], grid.x.edges[-1])
        set_ticks(panel.fixed.xaxis, grid.x)
    for ax in panel.axes:
        if limits.log:
            ax.set_yscale("log")
        ax.set_ylim(limits.low, limits.top)
        if not np.isfinite(grid.mean(loss)).any():  # the range is made up
            ax.yaxis.set_major_locator(NullLocator())
            ax.yaxis.set_minor_locator(NullLocator())
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        if limits.top > limits.high:
            ax.axhline(limits.high, color="0.6", linewidth=0.8, linestyle=":")
    for t in range(rows):
        if panel.fixed is not None:
            _draw_line(panel.fixed, grid, loss, (b, t, slice(0, count)), grid.x.positions, limits)
        if panel.auto is not None:
            # side by side, so that points of equal loss are all seen
            at = np.array([(t + 1) / (rows + 1)])
            _draw_line(panel.auto, grid, loss, (b, t, slice(count, None)), at, limits)


def _draw_line(ax: Axes, grid: Grid, loss: str, where: tuple[int, int, slice], x: Array, limits: _Range) -> None:
    """One value of y: the line with its bars, and its diverged points."""
    mean, diverged = grid.mean(loss)[where], grid.any_diverged()[where]
    low, high = (side[where] for side in grid.spread(loss))
    row, colour = where[1], _colour(grid, where[1])
    good = ~diverged & np.isfinite(mean)
    height = np.where(good, mean, np.nan)
    ax.plot(x, height, color=colour, linewidth=1.4, marker="o", markersize=4)
    vanished = good & grid.any_collapsed()[where]
    ax.plot(x[vanished], mean[vanished], linestyle="none", color=colour, **_TRIANGLE)
    if len(grid.seeds) > 1 and good.any():
        bars = np.maximum([mean[good] - low[good], high[good] - mean[good]], 0.0)
        ax.errorbar(x[good], mean[good], yerr=bars, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.5)
    inside = (mean > limits.low) & (mean < limits.high)
    ax.plot(x[diverged & inside], mean[diverged & inside], linestyle="none", color=colour, **_CROSS)
    strip = (row + 0.7) / (len(grid.y.values) + 0.4)
    y = between(limits.high, limits.top, strip, limits.log)
    lost = x[diverged & ~inside]
    ax.plot(lost, np.full(len(lost), y), linestyle="none", color=colour, **_CROSS)


_CROSS: dict[str, Any] = {"marker": "x", "markersize": 5.5, "markeredgewidth": 1.5}
_TRIANGLE: dict[str, Any] = {"marker": "v", "markersize": 6.5, "markerfacecolor": "white", "zorder": 3}


def _colour(grid: Grid, row: int) -> str:
    """Of one line; the map's light end would not be seen on white."""
    rows = len(grid.y.values)
    return mpl.colors.to_hex(mpl.colormaps[COLOUR_MAP](0.88 * row / max(rows - 1, 1)))


def _legend_handles(grid: Grid, step: int) -> list[Artist]:
    """The lines from top to bottom in y, one in `step`, and the marks that occur."""
    rows, labels = len(grid.y.values), grid.y.texts(digits=3)
    handles: list[Artist] = [
        Line2D([], [], color=_colour(grid, t), linewidth=1.4, marker="o", markersize=4, label=labels[t])
        for t in range(rows - 1, -1, -step)
    ]
    if grid.any_diverged().any():
        label = "diverged" if len(grid.seeds) == 1 else "a seed diverged"
        handles.append(Line2D([], [], linestyle="none", color="0.35", label=label, **_CROSS))
    if grid.any_collapsed().any():
        handles.append(Line2D([], [], linestyle="none", color="0.35", label=collapsed_label(grid), **_TRIANGLE))
    return handles
