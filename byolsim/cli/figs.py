"""`byolsim figs`: the pictures of a grid."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import click

from byolsim.analysis.figures import draw_figures
from byolsim.cli.options import Given, command_of
from byolsim.cli.skipped import show_skipped
from byolsim.errors import UserError
from byolsim.output import FigsConfig


@command_of(
    FigsConfig,
    help="Draw heatmaps and slices of a sweep, for each batch size: of stored runs, nothing is computed.",
    epilog="Single runs in the folder are ignored; damaged and foreign files are named and skipped.",
)
def command(given: Given) -> int:
    """Parse, draw, show."""
    draw(given.build(FigsConfig))
    return 0


def _check_out(out: str) -> None:
    """`UserError` where the folder of the pictures cannot be one, before a large folder is read."""
    try:
        path = Path(out)
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except (OSError, ValueError) as error:
        raise UserError(f"--out {out!r} cannot be written: {error}") from None
    if not nearest.is_dir():
        raise UserError(f"--out {out!r} cannot be written: {nearest} is not a folder")


def draw(config: FigsConfig, only: Collection[str] | None = None) -> None:
    """Draw as the command does, and say what was written and what was skipped."""
    _check_out(config.out)
    paths, skipped = draw_figures(config, only)
    show_skipped(skipped)
    for path in paths:
        click.echo(f"wrote {path}")
