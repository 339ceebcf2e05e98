"""Select: a folder of run files -> the grids of values that figures show, one for each batch size.

What may differ within one figure is what its axes, its panels and its mean over seeds stand for (`Layout`), and what
follows from them by a rule. Runs that differ in anything else are refused, never averaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from byolsim.analysis.axes import Axis, Layout, layout_of
from byolsim.analysis.grid import Grid, Setting
from byolsim.analysis.overlays import by_rule, check_rates, on_rates, rate_rule, rule_values, schedule_constants
from byolsim.config.commands import FigsConfig
from byolsim.config.fields import hyperparameters
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS, has_collapsed
from byolsim.model.modes import SPECTRA
from byolsim.store.details import RunInfo
from byolsim.store.folder import each_run, value_at, values_at
from byolsim.store.listing import run_facts
from byolsim.store.where import last_row, parse_where

_SCALE = "Hmax_exact"
"""The column that tells whether the features of a run have vanished."""

_SHOWN = 4
"""Values of one field that an error names."""


@dataclass(frozen=True)
class Selection:
    """The grid of each figure, in the order of the values of `Layout.figure`, and a line for each skipped file."""

    grids: list[Grid]
    skipped: list[str]


@dataclass(frozen=True)
class _Point:
    """One run of a sweep, reduced to its values at the epoch."""

    run_id: str
    numerics: int
    config: RunConfig
    diverged: bool
    collapsed: bool
    values: Mapping[str, float]


def select_grids(
    config: FigsConfig, metrics: Sequence[str], only: Collection[str] | None = None, layout: Layout | None = None
) -> Selection:
    """Read a folder once and place the runs of one sweep on their grids.

    Single runs (without `lr_enc_mode`) are ignored, a second copy of a run too.

    Parameters
    ----------
    config : the folder, the mode, the epoch and how it is read.
    metrics : columns to select.
    only : ids of the runs to draw, where the caller knows them; all others are ignored.
    layout : which hyperparameter is which direction; by default that of the mode's own grid (`layout_of`).

    Raises
    ------
    UserError
        If a metric is unknown; `where` cannot be read or selects nothing; the folder holds no run of a sweep, or of
        several modes and none is chosen; runs differ in what no axis shows, or share a place; or the epoch was not
        logged.
    """
    for name in metrics:
        check_metric(name)
    skipped: list[str] = []
    points = _read(config, metrics, only, skipped)
    mode = _mode(config, points)
    points = [point for point in points if point.config.lr_enc_mode == mode]
    layout = layout_of(mode) if layout is None else layout
    configs = [point.config for point in points]
    if on_rates(layout):
        for one in configs:
            check_rates(one)
    _check_unmixed(config.runs_dir, configs, layout)
    if not config.use_last_valid:
        _check_logged(config.epoch, configs[0])
    setting = Setting(
        mode=mode,
        layout=layout,
        epoch=config.epoch,
        use_last_valid=config.use_last_valid,
        rule=rate_rule(configs),
        where=config.where,
    )
    return Selection([_grid(setting, part, metrics) for part in _by_figure(layout, points)], skipped)


def _read(config: FigsConfig, metrics: Sequence[str], only: Collection[str] | None, skipped: list[str]) -> list[_Point]:
    """The runs of sweeps, of all modes, that the caller and the `where` ask for."""
    chosen, points, seen = parse_where(config.where), list[_Point](), 0
    columns = list(dict.fromkeys(["epoch", *metrics, _SCALE, *chosen.metrics]))
    for info, table in each_run(config.runs_dir, columns, skipped):
        if info.config.lr_enc_mode is None or (only is not None and info.run_id not in only):
            continue
        seen += 1
        if chosen({**run_facts(info), **last_row(table, chosen.metrics)}):
            points.append(_point(info, table, config, metrics))
    if seen and not points:
        raise UserError(f"--where {config.where!r} selects none of the {seen} runs of a sweep in {config.runs_dir!r}")
    return points


def _by_figure(layout: Layout, points: Sequence[_Point]) -> list[list[_Point]]:
    """The runs of each figure."""
    name = layout.figure
    if name is None:
        return [list(points)]
    values = Axis.of(name, (getattr(point.config, name) for point in points)).values
    return [[point for point in points if getattr(point.config, name) == value] for value in values]


def _point(info: RunInfo, table: pa.Table, config: FigsConfig, metrics: Sequence[str]) -> _Point:
    diverged = info.diverged_epoch is not None and info.diverged_epoch <= config.epoch
    epochs, scale = table["epoch"].to_numpy(), table[_SCALE].to_numpy()
    now = value_at(epochs, scale, config.epoch, config.use_last_valid)
    return _Point(
        run_id=info.run_id,
        numerics=info.details["numerics_version"],
        config=info.config,
        diverged=diverged,
        collapsed=not diverged and bool(has_collapsed(now, value_at(epochs, scale, 0, use_last_valid=False))),
        values=values_at(table, metrics, config.epoch, config.use_last_valid),
    )


def check_metric(name: str, option: str = "metric") -> None:
    """`UserError` that lists the known metrics if this is none."""
    if name in SPECTRA:
        raise UserError(f"--{option} {name} is a list of numbers, of which a heatmap shows none: must be one number")
    if name not in METRICS:
        raise UserError(f"--{option} {name!r} is not allowed: must be one of {', '.join(METRICS)}")


def _mode(config: FigsConfig, points: Sequence[_Point]) -> str:
    modes = sorted({str(point.config.lr_enc_mode) for point in points})
    if not modes:
        raise UserError(f"runs folder {config.runs_dir!r} holds single runs only: must hold runs of `byolsim sweep`")
    if config.lr_enc_mode is None and len(modes) > 1:
        raise UserError(f"runs folder {config.runs_dir!r} holds several modes: --lr_enc_mode must be {_one_of(modes)}")
    if config.lr_enc_mode is not None and config.lr_enc_mode not in modes:
        raise UserError(
            f"--lr_enc_mode {config.lr_enc_mode} has no run in {config.runs_dir!r}: must be {_one_of(modes)}"
        )
    return config.lr_enc_mode or modes[0]


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if len(names) > 1 else names[0]


def _check_unmixed(runs_dir: str, configs: Sequence[RunConfig], layout: Layout) -> None:
    """Refuse runs that differ in what no axis of the figure shows."""
    ruled = by_rule(str(configs[0].lr_enc_mode)) if on_rates(layout) else frozenset[str]()
    alike = [name for name in hyperparameters(RunConfig) if name not in layout.names | ruled]
    fields: dict[str, set[Any]] = {name: {getattr(config, name) for config in configs} for name in alike}
    fields |= {name: values for name, values in schedule_constants(configs).items() if name not in layout.names}
    if on_rates(layout):
        fields |= rule_values(configs)
    mixed = [f"{name} = {_listed(values)}" for name, values in fields.items() if len(values) > 1]
    if mixed:
        raise UserError(
            f"runs of lr_enc_mode {configs[0].lr_enc_mode!r} in {runs_dir!r} differ in {' and '.join(mixed)}, which no "
            "axis shows: choose one sweep by --where, or keep each in a folder of its own (--out_dir) and give "
            "one of them as --runs_dir"
        )


def _listed(values: Iterable[Any]) -> str:
    shown = sorted(values, key=lambda v: (isinstance(v, str), v is None, v if v is not None else 0))
    text = ", ".join(format(v, "g") if isinstance(v, float) else str(v) for v in shown[:_SHOWN])
    return text + (f", ... ({len(shown)} values)" if len(shown) > _SHOWN else "")


def _check_logged(epoch: int, config: RunConfig) -> None:
    """Refuse an epoch at which no run has a row; asked of the configuration, as all runs may have diverged before."""
    last, every = config.epochs, config.log_every
    if epoch > last or (epoch % every and epoch != last):
        raise UserError(
            f"--epoch {epoch} was not logged: the runs have a row every {every} epochs, the last at {last}; give "
            f"--epoch {last if epoch > last else epoch - epoch % every}, or --use_last_valid"
        )


def _grid(setting: Setting, points: Sequence[_Point], metrics: Sequence[str]) -> Grid:
    names = (setting.layout.panel, setting.layout.y, setting.layout.x, "seed")
    places = [tuple(None if name is None else getattr(point.config, name) for name in names) for point in points]
    of_panel, of_y, of_x, of_seed = zip(*places, strict=True)
    panel = None if names[0] is None else Axis.of(names[0], of_panel)
    y, x = Axis.of(setting.layout.y, of_y), Axis.of(setting.layout.x, of_x, apart=True)
    seeds = tuple(sorted(set(of_seed)))
    axes = ((None,) if panel is None else panel.values, y.values, x.values, seeds)
    index = [{value: i for i, value in enumerate(axis)} for axis in axes]
    shape = tuple(len(axis) for axis in axes)
    present, diverged, collapsed = (np.zeros(shape, dtype=np.bool_) for _ in range(3))
    values = {name: np.full(shape, np.nan) for name in metrics}
    taken: dict[tuple[int, ...], _Point] = {}
    for point, place in zip(points, places, strict=True):
        at = tuple(where[value] for where, value in zip(index, place, strict=True))
        if at in taken:
            raise _shared_place(point, taken[at])
        taken[at] = point
        present[at], diverged[at], collapsed[at] = True, point.diverged, point.collapsed
        for name in metrics:
            values[name][at] = point.values[name]
    return Grid(setting, points[0].config, panel, y, x, seeds, present, diverged, collapsed, values)


def _shared_place(one: _Point, other: _Point) -> UserError:
    """Of one configuration under two versions of the numerics; or of rates that differ in the last digits only."""
    if one.numerics != other.numerics:
        old, new = sorted((one, other), key=lambda point: point.numerics)
        return UserError(
            f"runs {old.run_id} and {new.run_id} are one grid point under numerics versions {old.numerics} and "
            f"{new.numerics}, whose numbers are not those of one sweep: take the files of one version out of the folder"
        )
    return UserError(f"run {one.config.run_id} has the grid point of another run: take one of them out")
