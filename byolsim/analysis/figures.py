"""All figures of a sweep, from a folder of runs to a folder of pictures; and the catalogue that they are in."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from byolsim.analysis.grid import Grid
from byolsim.analysis.heatmaps import heatmap
from byolsim.analysis.select import check_metric, select_grids
from byolsim.analysis.slices import LOSS, OLD_LOSS, loss_slices
from byolsim.config.commands import FigsConfig
from byolsim.machine.whole import write_whole

DPI = 150


@dataclass(frozen=True)
class Picture:
    """One figure: what draws it from a grid, and the metrics that it needs there."""

    draw: Callable[[Grid], Figure]
    metrics: tuple[str, ...]


def catalogue(config: FigsConfig) -> dict[str, Picture]:
    """The figures of each grid by the names of their files, in the order in which they are drawn."""
    metrics = dict.fromkeys((config.metric, config.enc_metric, "erank_encoded", "erank_pred"))
    return {
        **{f"heatmap_{metric}": Picture(partial(heatmap, metric=metric), (metric,)) for metric in metrics},
        "slices_loss_vs_alpha": Picture(loss_slices, (LOSS, OLD_LOSS)),
    }


def draw_figures(config: FigsConfig, only: Collection[str] | None = None) -> tuple[list[Path], list[str]]:
    """Draw every figure of the catalogue for each batch size; nothing is simulated.

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
    pictures = catalogue(config)
    needed = dict.fromkeys(metric for picture in pictures.values() for metric in picture.metrics)
    selection = select_grids(config, list(needed), only)
    out = Path(config.out)
    # one at a time, so that few are in memory
    paths = [
        _write(picture.draw(grid), out / f"{name}_bs{grid.config.batch_size}_epoch{config.epoch}.png")
        for grid in selection.grids
        for name, picture in pictures.items()
    ]
    return paths, selection.skipped


def _write(figure: Figure, path: Path) -> Path:
    """Draw in memory, then write the file whole."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, facecolor="white")
    return write_whole(path, picture.getvalue())
