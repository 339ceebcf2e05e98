"""All figures of a sweep, from a folder of runs to a folder of pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from byolsim.analysis.heatmaps import heatmap
from byolsim.analysis.select import Grid, check_metric, select_grids
from byolsim.analysis.slices import LOSS, loss_slices
from byolsim.config.commands import FigsConfig
from byolsim.machine.whole import write_whole

DPI = 150
_OLD_LOSS = "loss_pop"
"""What the slices show of files that were written before there was a `loss_rel`."""


def draw_figures(config: FigsConfig, only: Collection[str] | None = None) -> tuple[list[Path], list[str]]:
    """Draw the heatmaps and slices of each batch size; nothing is simulated.

    Every file is read once, and only the columns that are drawn. A picture appears complete or not at all, and replaces
    an older one of its name. `only` holds the ids of the runs to draw, where the caller knows them.

    Returns
    -------
    The pictures' paths, and one line for each run file that was damaged or foreign and therefore skipped.

    Raises
    ------
    UserError
        As `select_grids`, or if a picture cannot be written.
    """
    check_metric(config.metric)
    check_metric(config.enc_metric, "enc_metric")
    metrics = list(dict.fromkeys([config.metric, config.enc_metric, "erank_encoded", "erank_pred"]))
    selection = select_grids(config, list(dict.fromkeys([*metrics, LOSS, _OLD_LOSS])), only)
    out = Path(config.out)
    paths = [
        _write(draw(), out / f"{name}_bs{grid.batch_size}_epoch{config.epoch}.png")
        for grid in selection.grids
        for name, draw in figures_of(grid, metrics)
    ]
    return paths, selection.skipped


def figures_of(grid: Grid, metrics: list[str]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Name and drawing of each figure; drawn one at a time, so that few are in memory."""
    for metric in metrics:
        yield f"heatmap_{metric}", partial(heatmap, grid, metric)
    loss = LOSS if np.isfinite(grid.values[LOSS]).any() else _OLD_LOSS
    yield "slices_loss_vs_alpha", partial(loss_slices, grid, loss)


def _write(figure: Figure, path: Path) -> Path:
    """Draw in memory, then write the file whole."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, facecolor="white")
    return write_whole(path, picture.getvalue())
