"""Heatmaps: one metric over the plane of two axes, the mean over seeds in each cell.

- coloured: the mean over the seeds that have a finite value (of a log10 metric: the mean of the logarithms);
- hatched: at least one seed diverged at or before the epoch. The cell is coloured too where a finite value is left: of
  the other seeds, or with `use_last_valid` also of the diverged run before it diverged;
- blank: no run; blank with a ring: a run that has no value (a null);
- a triangle pointing down: the features of at least one seed have vanished (`metrics.has_collapsed`).

Colour limits come from the cells that neither diverged nor collapsed, if two of them have a value: what such a run
passes through would leave no colour for the others. Values beyond them are shown as the colour bar's pointed ends.
"""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Stroke

from byolsim.analysis.axes import Array, between
from byolsim.analysis.grid import Grid, Mask
from byolsim.analysis.overlays import RateLine, on_rates, rate_lines
from byolsim.analysis.panels import (
    COLOUR_MAP,
    Block,
    Extend,
    add_colour_bar,
    add_legend,
    cell_blocks,
    collapsed_label,
    label_rows,
    new_figure,
    set_title,
)
from byolsim.model.metrics import METRICS

_HATCH = "////"
_LOG_FROM = 10.0
"""Positive values that span more than this factor get a logarithmic colour scale."""


def heatmap(grid: Grid, metric: str) -> Figure:
    """The heatmap of one metric: one colour scale for all panels and the auto column."""
    mean = grid.mean(metric)
    figure, panels = new_figure(grid, size=(1.7, 1.8))
    norm, extend = colour_scale(mean, grid.any_diverged() | grid.any_collapsed())
    lines: dict[str, RateLine] = {}
    for b, panel in enumerate(panels):
        for block in cell_blocks(panel, grid):
            _draw_cells(grid, metric, b, block, norm)
        if panel.fixed is not None and on_rates(grid.setting.layout):
            for line in rate_lines(panel.fixed.get_xlim(), panel.fixed.get_ylim(), grid.shared("mom_pred", b)):
                panel.fixed.add_line(_line_artist(line, [*line.alphas], [*line.taus]))
                lines[line.label] = line
    label_rows(panels, grid.y.label)
    if norm is not None:
        add_colour_bar(figure, panels, norm, extend, metric_label(grid, metric, log=isinstance(norm, LogNorm)))
    notes = [] if norm is not None else [f"no run has a finite value of {metric}"]
    set_title(figure, grid, metric, notes)
    add_legend(figure, _legend_handles(grid, metric, list(lines.values())))
    return figure


def metric_label(grid: Grid, metric: str, log: bool = False) -> str:
    """Title, column name and what the scale needs, in short lines."""
    text = textwrap.fill(METRICS[metric], 48) + f"\n[{metric}]"
    if metric.startswith("erank") and "d_latent" not in grid.setting.layout.names:
        text += f", 1 to {grid.config.d_latent} dimensions"
    return text + (", logarithmic scale" if log else "")


def colour_scale(mean: Array, ended: Mask) -> tuple[Normalize | None, Extend]:
    """Colour limits from the finite cells, without the `ended` ones if others are left; None where nothing is finite.

    `ended` are the cells that diverged or collapsed. One cell alone makes no scale: then all count.

    Returns the norm and the ends of the colour bar beyond which there are values, as matplotlib's `extend`.
    """
    finite = mean[np.isfinite(mean)]
    if not finite.size:
        return None, "neither"
    trusted = mean[np.isfinite(mean) & ~ended]
    shown = trusted if trusted.size > 1 else finite
    low, high = float(shown.min()), float(shown.max())
    below, above = bool(finite.min() < low), bool(finite.max() > high)
    extend: Extend = "both" if below and above else "min" if below else "max" if above else "neither"
    if low > 0 and high / low > _LOG_FROM:
        return LogNorm(low, high), extend
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: a scale around it, no rounding noise in colour
        room = 0.1 * max(abs(low), abs(high)) or 1.0
        low, high = low - room, high + room
    return Normalize(low, high), extend


def _draw_cells(grid: Grid, metric: str, b: int, block: Block, norm: Normalize | None) -> None:
    """The cells of one axes: colours, hatches over diverged ones, rings and triangles."""
    ax, x, y, columns = block.ax, block.edges, grid.y.edges, block.columns
    mean = grid.mean(metric)[b, :, columns]
    mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(mean), cmap=COLOUR_MAP, norm=norm)
    for i, j in np.argwhere(grid.any_diverged()[b, :, columns]):
        ink = _ink(mesh.to_rgba(mean[i, j])) if norm is not None and np.isfinite(mean[i, j]) else "0.35"
        corner, size = (x[j], y[i]), (x[j + 1] - x[j], y[i + 1] - y[i])
        ax.add_patch(Rectangle(corner, *size, fill=False, hatch=_HATCH, edgecolor=ink, linewidth=0))
    ax.vlines(x[1:-1], y[0], y[-1], color="0.9", linewidth=0.6)
    ax.hlines(y[1:-1], x[0], x[-1], color="0.9", linewidth=0.6)
    # rings in the middle of a cell, triangles at a quarter of its height: both may be there
    for cells, height, style in ((grid.no_value(metric), 0.5, _RING), (grid.any_collapsed(), 0.25, _TRIANGLE)):
        for i, j in np.argwhere(cells[b, :, columns]):
            middle = between(x[j], x[j + 1], 0.5, block.log)
            up = between(y[i], y[i + 1], height, grid.y.scale == "log")
            ax.plot([middle], [up], linestyle="none", **style)


_RING: dict[str, Any] = {"marker": "o", "color": "0.35", "markerfacecolor": "none", "markersize": 4.0}
_TRIANGLE: dict[str, Any] = {"marker": "v", "color": "black", "markerfacecolor": "white", "markersize": 5.0}
"""Black round white, to be seen on every colour of the map."""


def _ink(colour: object) -> str:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = mpl.colors.to_rgb(tuple(np.ravel(np.asarray(colour))[:3]))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _line_artist(line: RateLine, x: list[float], y: list[float]) -> Line2D:
    """Black on a white band, to be seen on every colour of the map."""
    artist = Line2D(x, y, color="black", linewidth=1.3, linestyle="--" if line.dashed else "-", label=line.label)
    band = Stroke(linewidth=3.0, foreground="white")
    artist.set_path_effects([band, Stroke(linewidth=1.3, foreground="black")])
    return artist


def _legend_handles(grid: Grid, metric: str, lines: list[RateLine]) -> list[Artist]:
    """Only what occurs in the figure."""
    handles: list[Artist] = [_line_artist(line, [], []) for line in lines]
    if grid.any_diverged().any():
        label = "diverged" if len(grid.seeds) == 1 else "a seed diverged"
        handles.append(Patch(fill=False, hatch=_HATCH, edgecolor="0.35", linewidth=0, label=label))
    if grid.any_collapsed().any():
        handles.append(Line2D([], [], linestyle="none", label=collapsed_label(grid), **_TRIANGLE))
    if grid.no_value(metric).any():
        handles.append(Line2D([], [], linestyle="none", label="run without a value", **_RING))
    if grid.missing().any():
        handles.append(Patch(facecolor="white", edgecolor="0.6", linewidth=0.6, label="no run"))
    return handles
