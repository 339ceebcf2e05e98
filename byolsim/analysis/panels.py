"""The frame that all figures share: panels, their axes, the set-apart auto column, titles, legends.

Figures are built from matplotlib's objects alone, without pyplot or global settings: no display is needed and nothing
is shared between threads.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ruler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from byolsim.analysis.axes import Array, Axis, fact, number_labels, text_of
from byolsim.analysis.grid import Grid
from byolsim.analysis.overlays import by_rule, on_rates
from byolsim.config.fields import hyperparameters
from byolsim.config.run import RunConfig
from byolsim.errors import UserError

Extend = Literal["neither", "both", "min", "max"]

COLOUR_MAP = "viridis"
"""Perceptually uniform, and readable with the common colour-vision deficiencies and in grey."""

TEXT, SMALL = 9.0, 8.0
"""Font sizes in points."""

_LETTER = 0.54
"""Width of a letter in the size of its font, on the large side of the average."""

_MAX_PANELS = 100
_MAX_TICKS, _MAX_LONG_TICKS = 5, 4
"""Tick labels that fit on an axis: whole decades, other numbers."""

_MAX_COLUMNS = 6


@dataclass(frozen=True)
class Panel:
    """The axes of one panel: those of values on the scale of x, and beside them the auto column; None if not needed."""

    fixed: Axes | None
    auto: Axes | None

    @property
    def axes(self) -> list[Axes]:
        """Those that are there, from left to right."""
        return [ax for ax in (self.fixed, self.auto) if ax is not None]


@dataclass(frozen=True)
class Block:
    """Some columns of a grid on the axes that they lie on: the edges of their cells, and whether these are in log."""

    ax: Axes
    columns: slice
    edges: Array
    log: bool


def new_figure(grid: Grid, size: tuple[float, float]) -> tuple[Figure, list[Panel]]:
    """An empty figure with its panels.

    Parameters
    ----------
    grid : what will be drawn.
    size : inches that titles, legends and labels need beside the panels.

    Raises
    ------
    UserError
        If there are more panels than can be told apart.
    """
    count = 1 if grid.panel is None else len(grid.panel.values)
    if grid.panel is not None and count > _MAX_PANELS:
        raise UserError(
            f"the sweep has {count} {grid.panel.title}s ({grid.panel.name}): at most {_MAX_PANELS} panels can be drawn"
        )
    cols = math.ceil(math.sqrt(count)) if count != 2 else 2
    rows = math.ceil(count / cols)
    width, height = (4.9, 3.6) if count == 1 else (2.7, 2.2)
    figure = Figure(figsize=(size[0] + cols * width, size[1] + rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.08, h_pad=0.08)
    outer = figure.add_gridspec(rows, cols)
    panels = []
    labels = [None] if grid.panel is None else [f"{grid.panel.symbol} = {text}" for text in grid.panel.texts(digits=3)]
    for i, label in enumerate(labels):
        panel = _add_panel(figure, outer[i // cols, i % cols], grid.x)
        if label is not None:
            panel.axes[0].set_title(label, fontsize=TEXT)
        panel.axes[0].tick_params(which="both", labelleft=i % cols == 0)
        if panel.fixed is not None and i + cols < count:
            panel.fixed.tick_params(labelbottom=False)
        else:
            panel.axes[0].set_xlabel(grid.x.label, fontsize=TEXT)
        panels.append(panel)
    return figure, panels


def _add_panel(figure: Figure, cell: Any, x: Axis) -> Panel:
    """Axes for the values along x and, one column wide and set apart by a gap, for the auto column."""
    fixed, auto = len(x.along), len(x.along) < len(x.values)
    parts = cell.subgridspec(1, 2, width_ratios=[fixed, 1], wspace=0.02) if fixed and auto else [cell, cell]
    main = figure.add_subplot(parts[0]) if fixed else None
    side = figure.add_subplot(parts[1]) if auto else None
    if main is not None and x.scale == "log":
        main.set_xscale("log")
    if side is not None:
        side.set_xlim(0, 1)
        side.xaxis.set_major_locator(FixedLocator([0.5]))
        side.xaxis.set_major_formatter(FixedFormatter([text_of(x.name, None)]))
        if main is not None:
            side.tick_params(which="both", left=False, labelleft=False)
    panel = Panel(main, side)
    for ax in panel.axes:
        ax.tick_params(which="both", labelsize=SMALL)
    return panel


def cell_blocks(panel: Panel, grid: Grid) -> list[Block]:
    """The axes of a panel, limits and ticks set, for cells whose rows are those of y: `grid.y.edges` bounds them."""
    count, blocks = len(grid.x.along), []
    if panel.fixed is not None:
        blocks.append(Block(panel.fixed, slice(0, count), grid.x.edges, grid.x.scale == "log"))
        set_ticks(panel.fixed.xaxis, grid.x)
    if panel.auto is not None:
        blocks.append(Block(panel.auto, slice(count, None), np.array([0.0, 1.0]), log=False))
    for block in blocks:
        if grid.y.scale == "log":
            block.ax.set_yscale("log")
        block.ax.set_xlim(block.edges[0], block.edges[-1])
        block.ax.set_ylim(grid.y.edges[0], grid.y.edges[-1])
        block.ax.tick_params(which="minor", left=False, bottom=False)
        set_ticks(block.ax.yaxis, grid.y)
    return blocks


def add_colour_bar(figure: Figure, panels: Sequence[Panel], norm: Normalize, extend: Extend, label: str) -> None:
    """One colour bar beside all panels; `extend` names the ends beyond which there are values."""
    axes = [ax for panel in panels for ax in panel.axes]
    bar = figure.colorbar(ScalarMappable(norm, COLOUR_MAP), ax=axes, extend=extend)
    bar.ax.tick_params(which="both", labelsize=SMALL)
    bar.set_label(label, fontsize=TEXT)


def label_rows(panels: Sequence[Panel], text: str) -> None:
    """The label of the vertical axis, on the panels at the left edge only."""
    for panel in panels:
        spec = panel.axes[0].get_subplotspec()
        if spec is not None and spec.get_topmost_subplotspec().is_first_col():
            panel.axes[0].set_ylabel(text, fontsize=TEXT)


def set_ticks(ruler: Ruler, axis: Axis) -> None:
    """Ticks at the grid's own values, thinned out where they are many, or at whole decades of a logarithmic axis."""
    if axis.scale == "log":
        chosen = _log_ticks(axis.along)
        labels = number_labels(chosen, "log")
    else:
        step = math.ceil(len(axis.along) / _MAX_TICKS)
        chosen, labels = list(axis.positions[::step]), axis.texts()[: len(axis.along) : step]
    ruler.set_major_locator(FixedLocator(chosen))
    ruler.set_major_formatter(FixedFormatter(labels))
    ruler.set_minor_locator(NullLocator())


def _log_ticks(values: Sequence[float]) -> list[float]:
    chosen = list(values)
    decades = [10.0**k for k in range(_ceil_log(values[0]), -_ceil_log(1 / values[-1]) + 1)]
    whole = len(decades) == len(chosen) and np.allclose(decades, chosen)
    if not whole and len(decades) > 1 and len(chosen) > _MAX_LONG_TICKS:
        chosen, whole = decades, True
    return chosen[:: math.ceil(len(chosen) / (_MAX_TICKS if whole else _MAX_LONG_TICKS))]


def _ceil_log(value: float) -> int:
    """Smallest k with 10^k >= value; a value one rounding error above a decade counts as that decade."""
    return math.ceil(math.log10(value) - 1e-9)


def set_title(figure: Figure, grid: Grid, subject: str, notes: Sequence[str] = ()) -> None:
    """What is drawn, the rule for the rates, and the other hyperparameters: one line each, folded to the width."""
    setting = grid.setting
    low, high = grid.seed_counts()
    seeds = f"{high} seed{'s' * (high > 1)}" if low == high else f"{low} to {high} seeds"
    when = f"epoch {setting.epoch}" + (" or last valid before" if setting.use_last_valid else "")
    many = f"mean over {seeds}" if high > 1 else seeds
    name = setting.layout.figure
    which = "" if name is None else f" {fact(name, 'title', name)} {text_of(name, getattr(grid.config, name))},"
    lines = [f"{subject}: mode {setting.mode},{which} {when}, {many}"]
    lines += [setting.rule.text(setting.layout), common_settings(grid), *(["; ".join(notes)] if notes else [])]
    lines += [f"runs with {setting.where}"] if setting.where is not None else []
    width = int(figure.get_figwidth() * 72 / (_LETTER * TEXT))
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, width))
    figure.suptitle(text, fontsize=TEXT, linespacing=1.35)


def common_settings(grid: Grid) -> str:
    """The hyperparameters of all runs that a reader needs, and those that are not at their defaults.

    What a grid could have varied is always told: the axes and the rule say it where they are of it.
    """
    layout, config = grid.setting.layout, grid.config
    explained = layout.names | (by_rule(grid.setting.mode) if on_rates(layout) else frozenset())
    needed, changed = [], []
    for name, field in hyperparameters(RunConfig).items():
        value, told = getattr(config, name), fact(name, "told")
        if name in explained or told == "never":
            continue
        if told == "always" or fact(name, "point"):
            needed.append(name)
        elif value is not None and value != field.default:
            changed.append(f"{name} = {value}")
    # letters before words, and of the letters first those of the world, which all runs of a group share
    needed.sort(key=lambda name: (fact(name, "symbol") is None, bool(fact(name, "per_run"))))
    return ", ".join([_told(name, getattr(config, name)) for name in needed] + changed)


def _told(name: str, value: Any) -> str:
    symbol = fact(name, "symbol")
    return f"{symbol} = {text_of(name, value)}" if symbol else f"{name} {text_of(name, value)}"


def collapsed_label(grid: Grid) -> str:
    """Legend of the mark for cells and points whose features have vanished."""
    return "collapsed" if len(grid.seeds) == 1 else "a seed collapsed"


def add_legend(figure: Figure, handles: Sequence[Artist], title: str | None = None) -> None:
    """A legend below the panels, in as many columns as fit; nothing where there is nothing to explain."""
    for columns in range(min(len(handles), _MAX_COLUMNS), 0, -1):
        legend = figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False, title=title
        )
        legend.get_title().set_fontsize(SMALL)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()
