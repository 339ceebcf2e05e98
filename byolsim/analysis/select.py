"""Select: a folder of run files -> for each batch size the grid of values that a figure shows.

What may differ within one figure is what its axes, its panels and its mean over seeds stand for. Runs that differ in
anything else are refused, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from byolsim.config.commands import FigsConfig
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS, has_collapsed
from byolsim.store.details import RunInfo
from byolsim.store.folder import each_run, value_at, values_at
from byolsim.store.listing import run_facts
from byolsim.store.where import last_row, parse_where

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FREE = {"seed", "batch_size", "tau", "lr_pred", "lr_enc", "auto_alpha_c", "auto_beta_c", "lr_enc_mode"}
"""Hyperparameters that differ between the points of one grid; the constants of the schedule are checked apart."""

_SCALE = "Hmax_exact"
"""The column that tells whether the features of a run have vanished."""

_SHOWN = 4
"""Values of one field that an error names."""


@dataclass(frozen=True)
class Setting:
    """What all runs of a selection have in common.

    Attributes
    ----------
    mode : their `lr_enc_mode`.
    epoch, use_last_valid : which row of each run counts, as in `value_at`.
    config : one of the runs; its fields other than seed, batch_size, tau and the rates are those of all.
    beta_factor : beta / alpha (modes same and ratio), beta / tau (from_tau), c_beta (auto), None (logspace).
    auto_alpha_c : c_alpha of the runs whose alpha follows the schedule, None where there is no such run.
    where : the `--where` that selected them.
    """

    mode: str
    epoch: int
    use_last_valid: bool
    config: RunConfig
    beta_factor: float | None
    auto_alpha_c: float | None
    where: str | None = None


@dataclass(frozen=True)
class Grid:
    """The runs of one batch size, placed by (beta, tau, alpha, seed); B, T, A and S are the lengths of these axes.

    Attributes
    ----------
    betas : the panels, ascending; (None,) unless the mode is logspace.
    taus : the rows, ascending.
    alphas : the columns, ascending; None, the auto column, is the last where it occurs.
    present : (B, T, A, S) whether there is such a run.
    diverged : (B, T, A, S) whether it diverged at or before the epoch.
    collapsed : (B, T, A, S) whether its features had vanished by then, relative to epoch 0; False of a diverged run.
    values : metric -> (B, T, A, S), NaN where there is no finite value.
    """

    setting: Setting
    batch_size: int
    betas: tuple[float | None, ...]
    taus: tuple[float, ...]
    alphas: tuple[float | None, ...]
    seeds: tuple[int, ...]
    present: Mask
    diverged: Mask
    collapsed: Mask
    values: Mapping[str, Array]

    def mean(self, metric: str) -> Array:
        """(B, T, A) mean over the seeds that have a finite value, NaN where none has."""
        finite = np.isfinite(self.values[metric])
        count = finite.sum(axis=-1, keepdims=True)
        # divided before the sum: losses of runs about to diverge may be near the largest float
        parts = np.where(finite, self.values[metric], 0.0) / np.maximum(count, 1)
        return np.asarray(np.where(count[..., 0] > 0, parts.sum(axis=-1), np.nan))

    def spread(self, metric: str) -> tuple[Array, Array]:
        """(B, T, A) smallest and largest finite value over seeds, NaN where there is none."""
        values = self.values[metric]
        low = np.where(np.isfinite(values), values, np.inf).min(axis=-1)
        high = np.where(np.isfinite(values), values, -np.inf).max(axis=-1)
        return np.where(low <= high, low, np.nan), np.where(low <= high, high, np.nan)

    def any_diverged(self) -> Mask:
        """(B, T, A) cells to hatch: at least one seed diverged at or before the epoch."""
        return np.asarray(self.diverged.any(axis=-1))

    def any_collapsed(self) -> Mask:
        """(B, T, A) cells to mark: the features of at least one seed have vanished."""
        return np.asarray(self.collapsed.any(axis=-1))

    def missing(self) -> Mask:
        """(B, T, A) cells without a run."""
        return np.asarray(~self.present.any(axis=-1))

    def no_value(self, metric: str) -> Mask:
        """(B, T, A) cells whose runs are there and did not diverge, but have no value (null, or no such row)."""
        return ~self.missing() & ~self.any_diverged() & np.isnan(self.mean(metric))

    def seed_counts(self) -> tuple[int, int]:
        """Smallest and largest number of seeds over the cells that have a run."""
        counts = self.present.sum(axis=-1)
        return int(counts[counts > 0].min()), int(counts.max())


@dataclass(frozen=True)
class Selection:
    """The grid of each batch size in ascending order, and one line for each file that was skipped."""

    grids: list[Grid]
    skipped: list[str]


@dataclass(frozen=True)
class _Point:
    """One run of a sweep, reduced to its values at the epoch."""

    config: RunConfig
    diverged: bool
    collapsed: bool
    values: Mapping[str, float]


def select_grids(config: FigsConfig, metrics: Sequence[str], only: Collection[str] | None = None) -> Selection:
    """Read a folder once and place the runs of one sweep on their grids.

    Single runs (without `lr_enc_mode`) are ignored, a second copy of a run too.

    Parameters
    ----------
    config : the folder, the mode, the epoch and how it is read.
    metrics : columns to select.
    only : ids of the runs to draw, where the caller knows them; all others are ignored.

    Raises
    ------
    UserError
        If a metric is unknown; `where` cannot be read or selects nothing; the folder holds no run of a sweep, or of
        several modes and none is chosen; runs differ
        in what no axis shows; or the epoch was not logged.
    """
    for name in metrics:
        check_metric(name)
    chosen, skipped, points, seen = parse_where(config.where), list[str](), list[_Point](), 0
    columns = list(dict.fromkeys(["epoch", *metrics, _SCALE, *chosen.metrics]))
    for info, table in each_run(config.runs_dir, columns, skipped):
        if info.config.lr_enc_mode is None or (only is not None and info.run_id not in only):
            continue
        seen += 1
        if chosen({**run_facts(info), **last_row(table, chosen.metrics)}):
            points.append(_point(info, table, config, metrics))
    if seen and not points:
        raise UserError(f"--where {config.where!r} selects none of the {seen} runs of a sweep in {config.runs_dir!r}")
    mode = _mode(config, points)
    points = [point for point in points if point.config.lr_enc_mode == mode]
    for point in points:
        _check_point(point.config)
    _check_unmixed(config.runs_dir, points)
    if not config.use_last_valid:
        _check_logged(config.epoch, points[0].config)
    setting = Setting(
        mode=mode,
        epoch=config.epoch,
        use_last_valid=config.use_last_valid,
        config=points[0].config,
        beta_factor=_beta_factor(points[0].config),
        auto_alpha_c=next((p.config.auto_alpha_c for p in points if p.config.lr_pred is None), None),
        where=config.where,
    )
    sizes = sorted({point.config.batch_size for point in points})
    grids = [_grid(setting, n, [p for p in points if p.config.batch_size == n], metrics) for n in sizes]
    return Selection(grids, skipped)


def _point(info: RunInfo, table: pa.Table, config: FigsConfig, metrics: Sequence[str]) -> _Point:
    diverged = info.diverged_epoch is not None and info.diverged_epoch <= config.epoch
    epochs, scale = table["epoch"].to_numpy(), table[_SCALE].to_numpy()
    now = value_at(epochs, scale, config.epoch, config.use_last_valid)
    return _Point(
        config=info.config,
        diverged=diverged,
        collapsed=not diverged and bool(has_collapsed(now, value_at(epochs, scale, 0, use_last_valid=False))),
        values=values_at(table, metrics, config.epoch, config.use_last_valid),
    )


def check_metric(name: str, option: str = "metric") -> None:
    """`UserError` that lists the known metrics if this is none."""
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


def _check_point(config: RunConfig) -> None:
    """A run made in Python may claim a mode that its rates do not have, or have no place on a logarithmic axis."""
    auto = config.lr_enc_mode == "auto"
    fits = (config.lr_enc is None) == auto and (auto or config.lr_pred is not None)
    if not fits or config.tau == 0 or config.lr_pred == 0:
        rates = ", ".join(
            f"{name} = {'auto' if value is None else format(value, 'g')}"
            for name, value in (("tau", config.tau), ("lr_pred", config.lr_pred), ("lr_enc", config.lr_enc))
        )
        raise UserError(
            f"run {config.run_id} ({rates}) is no grid point of lr_enc_mode {config.lr_enc_mode!r}: tau and lr_pred "
            "must be positive, and rates are auto in mode 'auto' only; take it out of the folder"
        )


def _check_unmixed(runs_dir: str, points: Sequence[_Point]) -> None:
    """Refuse runs that differ in what no axis of the figure shows."""
    configs = [point.config for point in points]
    fields: dict[str, set[Any]] = {
        name: {getattr(config, name) for config in configs} for name in RunConfig.model_fields if name not in _FREE
    }
    fields["auto_alpha_c"] = {config.auto_alpha_c for config in configs if config.lr_pred is None}
    kind = {"same": "lr_enc / lr_pred", "ratio": "lr_enc / lr_pred", "from_tau": "lr_enc / tau", "auto": "auto_beta_c"}
    rule = kind.get(str(configs[0].lr_enc_mode), "lr_enc")
    fields[rule] = {_beta_factor(config) for config in configs}
    mixed = [f"{name} = {_listed(values)}" for name, values in fields.items() if len(values) > 1]
    if mixed:
        raise UserError(
            f"runs of lr_enc_mode {configs[0].lr_enc_mode!r} in {runs_dir!r} differ in {' and '.join(mixed)}, which no "
            "axis shows: choose one sweep by --where, or keep each in a folder of its own (--out_dir) and give "
            "one of them as --runs_dir"
        )


def _beta_factor(config: RunConfig) -> float | None:
    """Constant c of the rule beta = c alpha, beta = c tau or beta_t = c tau / H_t; None where the mode has no rule."""
    if config.lr_enc is None:
        return config.auto_beta_c
    over = {"same": config.lr_pred, "ratio": config.lr_pred, "from_tau": config.tau}.get(str(config.lr_enc_mode))
    # grid points are rounded to 12 digits, so their ratio is the user's number in fewer digits only
    return float(f"{config.lr_enc / over:.9g}") if over else None


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


def _grid(setting: Setting, batch_size: int, points: Sequence[_Point], metrics: Sequence[str]) -> Grid:
    places = [_place(setting.mode, point.config) for point in points]
    axes = [sorted(set(axis), key=lambda v: math.inf if v is None else v) for axis in zip(*places, strict=True)]
    index = [{value: i for i, value in enumerate(axis)} for axis in axes]
    shape = tuple(len(axis) for axis in axes)
    present, diverged, collapsed = (np.zeros(shape, dtype=np.bool_) for _ in range(3))
    values = {name: np.full(shape, np.nan) for name in metrics}
    for point, place in zip(points, places, strict=True):
        at = tuple(where[value] for where, value in zip(index, place, strict=True))
        if present[at]:  # rates that differ in the last digits only, which no sweep makes
            raise UserError(f"run {point.config.run_id} has the grid point of another run: take one of them out")
        present[at], diverged[at], collapsed[at] = True, point.diverged, point.collapsed
        for name in metrics:
            values[name][at] = point.values[name]
    betas, taus, alphas, seeds = (tuple(axis) for axis in axes)
    return Grid(setting, batch_size, betas, taus, alphas, seeds, present, diverged, collapsed, values)


def _place(mode: str, config: RunConfig) -> tuple[Any, ...]:
    """(beta, tau, alpha, seed): the point of the grid that a run belongs to."""
    return config.lr_enc if mode == "logspace" else None, config.tau, config.lr_pred, config.seed
