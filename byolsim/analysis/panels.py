"""The frame that all figures share: panels, logarithmic axes, the set-apart auto column, titles, legends.

Figures are built from matplotlib's objects alone, without pyplot or global settings: no display is needed and nothing
is shared between threads.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from byolsim.analysis.select import Array, Grid, Setting
from byolsim.config.grid import SweepConfig
from byolsim.errors import UserError

COLOUR_MAP = "viridis"
"""Perceptually uniform, and readable with the common colour-vision deficiencies and in grey."""

ALPHA_LABEL = "predictor learning rate α  [lr_pred]"
TEXT, SMALL = 9.0, 8.0
"""Font sizes in points."""

_LETTER = 0.54
"""Width of a letter in the size of its font, on the large side of the average."""

_MAX_PANELS = 100
_MAX_TICKS, _MAX_LONG_TICKS = 5, 4
"""Tick labels that fit on an axis: whole decades, other numbers."""

_MAX_COLUMNS = 6
_TOLD = {"d_latent", "d_obs", "sigma_n", "mom_pred", "mom_enc", "sampler"}
"""Hyperparameters that every title tells; others are told where they differ from the default."""

_UNTOLD = {"lr_enc_mode", "epochs", "log_every", "auto_alpha_c", "auto_beta_c", "backend", "device"}


@dataclass(frozen=True)
class Panel:
    """The axes of one beta: fixed alphas on a logarithmic axis, and the auto column beside them; None if not needed."""

    fixed: Axes | None
    auto: Axes | None

    @property
    def axes(self) -> list[Axes]:
        """Those that are there, from left to right."""
        return [ax for ax in (self.fixed, self.auto) if ax is not None]


def new_figure(grid: Grid, size: tuple[float, float]) -> tuple[Figure, list[Panel]]:
    """An empty figure with one panel per beta.

    Parameters
    ----------
    grid : what will be drawn.
    size : inches that titles, legends and labels need beside the panels.

    Raises
    ------
    UserError
        If there are more betas than can be told apart.
    """
    count = len(grid.betas)
    if count > _MAX_PANELS:
        raise UserError(f"the sweep has {count} encoder rates (lr_enc): at most {_MAX_PANELS} panels can be drawn")
    cols = math.ceil(math.sqrt(count)) if count != 2 else 2
    rows = math.ceil(count / cols)
    width, height = (4.9, 3.6) if count == 1 else (2.7, 2.2)
    figure = Figure(figsize=(size[0] + cols * width, size[1] + rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.08, h_pad=0.08)
    fixed = sum(alpha is not None for alpha in grid.alphas)
    outer = figure.add_gridspec(rows, cols)
    panels = []
    labels = power_labels([beta for beta in grid.betas if beta is not None], digits=3)
    for i, beta in enumerate(grid.betas):
        panel = _add_panel(figure, outer[i // cols, i % cols], fixed, auto=fixed < len(grid.alphas))
        if beta is not None:
            panel.axes[0].set_title(f"β = {labels[i]}", fontsize=TEXT)
        panel.axes[0].tick_params(which="both", labelleft=i % cols == 0)
        if panel.fixed is not None and i + cols < count:
            panel.fixed.tick_params(labelbottom=False)
        else:
            panel.axes[0].set_xlabel(ALPHA_LABEL, fontsize=TEXT)
        panels.append(panel)
    return figure, panels


def _add_panel(figure: Figure, cell: Any, fixed: int, auto: bool) -> Panel:
    """Axes for `fixed` columns and, one column wide and set apart by a gap, for the auto column."""
    parts = cell.subgridspec(1, 2, width_ratios=[fixed, 1], wspace=0.02) if fixed and auto else [cell, cell]
    main = figure.add_subplot(parts[0]) if fixed else None
    side = figure.add_subplot(parts[1]) if auto else None
    if main is not None:
        main.set_xscale("log")
    if side is not None:
        side.set_xlim(0, 1)
        side.xaxis.set_major_locator(FixedLocator([0.5]))
        side.xaxis.set_major_formatter(FixedFormatter(["auto"]))
        if main is not None:
            side.tick_params(which="both", left=False, labelleft=False)
    panel = Panel(main, side)
    for ax in panel.axes:
        ax.tick_params(which="both", labelsize=SMALL)
    return panel


def label_rows(panels: Sequence[Panel], text: str) -> None:
    """The label of the vertical axis, on the panels at the left edge only."""
    for panel in panels:
        spec = panel.axes[0].get_subplotspec()
        if spec is not None and spec.get_topmost_subplotspec().is_first_col():
            panel.axes[0].set_ylabel(text, fontsize=TEXT)


def cell_edges(values: Sequence[float]) -> Array:
    """Edges of cells around ascending values, halfway in the logarithm; a single value gets one of a decade in all."""
    logs = np.log10(values)
    if len(logs) == 1:
        return np.asarray(10.0 ** np.array([logs[0] - 0.5, logs[0] + 0.5]))
    middle = (logs[1:] + logs[:-1]) / 2
    first, last = logs[0] - (middle[0] - logs[0]), logs[-1] + (logs[-1] - middle[-1])
    return np.asarray(10.0 ** np.concatenate([[first], middle, [last]]))


def set_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the grid's own values, thinned out or at whole decades where they are many."""
    chosen = list(values)
    decades = [10.0**k for k in range(_ceil_log(values[0]), -_ceil_log(1 / values[-1]) + 1)]
    whole = len(decades) == len(chosen) and np.allclose(decades, chosen)
    if not whole and len(decades) > 1 and len(chosen) > _MAX_LONG_TICKS:
        chosen, whole = decades, True
    chosen = chosen[:: math.ceil(len(chosen) / (_MAX_TICKS if whole else _MAX_LONG_TICKS))]
    axis.set_major_locator(FixedLocator(chosen))
    axis.set_major_formatter(FixedFormatter(power_labels(chosen)))
    axis.set_minor_locator(NullLocator())


def _ceil_log(value: float) -> int:
    """Smallest k with 10^k >= value; a value one rounding error above a decade counts as that decade."""
    return math.ceil(math.log10(value) - 1e-9)


def power_labels(values: Sequence[float], digits: int = 2) -> list[str]:
    """Values as c x 10^k with that many digits, or as many more as keep them apart."""
    labels = [_power_label(value, digits) for value in values]
    if len(set(labels)) < len(set(values)):
        return power_labels(values, digits + 1)
    return labels


def _power_label(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}{{\times}}{power}$"


def set_title(figure: Figure, grid: Grid, subject: str, notes: Sequence[str] = ()) -> None:
    """What is drawn, the rule for the rates, and the other hyperparameters: one line each, folded to the width."""
    setting = grid.setting
    low, high = grid.seed_counts()
    seeds = f"{high} seed{'s' * (high > 1)}" if low == high else f"{low} to {high} seeds"
    when = f"epoch {setting.epoch}" + (" or last valid before" if setting.use_last_valid else "")
    many = f"mean over {seeds}" if high > 1 else seeds
    lines = [f"{subject}: mode {setting.mode}, batch size {grid.batch_size}, {when}, {many}"]
    lines += [rate_rule(setting), common_settings(setting), *(["; ".join(notes)] if notes else [])]
    lines += [f"runs with {setting.where}"] if setting.where is not None else []
    width = int(figure.get_figwidth() * 72 / (_LETTER * TEXT))
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, width))
    figure.suptitle(text, fontsize=TEXT, linespacing=1.35)


def rate_rule(setting: Setting) -> str:
    """How beta follows from the axes, and what the auto column is."""
    c = "" if setting.beta_factor is None else f"{setting.beta_factor:.6g} "
    rule = {
        "same": f"β = {'' if setting.beta_factor == 1 else c}α",
        "ratio": f"β = {c}α",
        "from_tau": f"β = {c}τ",
        "auto": f"β_t = {c}τ / H_t (auto schedule, c_β = {c.strip()})",
        "logspace": "one panel per encoder rate β",
    }[setting.mode]
    if setting.auto_alpha_c is not None:
        rule += f"; column auto: α_t = {setting.auto_alpha_c:.6g} τ / H_t"
    return rule


def common_settings(setting: Setting) -> str:
    """The hyperparameters of all runs that a reader needs, and those that are not at their defaults."""
    config = setting.config
    told = [
        f"r = {config.d_latent}",
        f"d = {config.d_obs}",
        f"σ = {config.sigma_n:g}",
        f"μ_P = {config.mom_pred:g}",
        f"μ_B = {config.mom_enc:g}",
        f"sampler {config.sampler}",
    ]
    for name, field in SweepConfig.model_fields.items():
        value = getattr(config, name, None)
        if value is not None and name not in (_TOLD | _UNTOLD) and value != field.default:
            told.append(f"{name} = {value}")
    return ", ".join(told)


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
