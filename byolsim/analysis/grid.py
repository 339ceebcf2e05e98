"""Grid: the runs of one figure on its axes, and what is seen of them in each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from byolsim.analysis.axes import Array, Axis, Layout
from byolsim.analysis.overlays import RateRule
from byolsim.config.run import RunConfig

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """What all runs of a selection have in common.

    Attributes
    ----------
    mode : their `lr_enc_mode`.
    layout : which hyperparameter is which direction of the figures.
    epoch, use_last_valid : which row of each run counts, as in `value_at`.
    rule : how the rates follow from the axes.
    where : the `--where` that selected them.
    """

    mode: str
    layout: Layout
    epoch: int
    use_last_valid: bool
    rule: RateRule
    where: str | None = None


@dataclass(frozen=True)
class Grid:
    """The runs of one figure, placed by (panel, y, x, seed); B, T, A and S are the lengths of these axes.

    Attributes
    ----------
    config : one of the runs; its fields other than those of the layout, and those that follow by a rule, are of all.
    panel : the panels, None where there is one alone (B = 1).
    y : the rows.
    x : the columns; a null, the auto column, is set apart.
    present : (B, T, A, S) whether there is such a run.
    diverged : (B, T, A, S) whether it diverged at or before the epoch.
    collapsed : (B, T, A, S) whether its features had vanished by then, relative to epoch 0; False of a diverged run.
    values : metric -> (B, T, A, S), NaN where there is no finite value.
    """

    setting: Setting
    config: RunConfig
    panel: Axis | None
    y: Axis
    x: Axis
    seeds: tuple[int, ...]
    present: Mask
    diverged: Mask
    collapsed: Mask
    values: Mapping[str, Array]

    def shared(self, name: str, b: int) -> Any:
        """The value that a hyperparameter has in all runs of panel b: one that is not on x or y."""
        in_panel = self.panel is not None and self.panel.name == name
        return self.panel.values[b] if self.panel is not None and in_panel else getattr(self.config, name)

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
