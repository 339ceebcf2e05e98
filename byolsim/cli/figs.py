"""`byolsim figs`: the pictures of a grid."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.skipped import show_skipped
from byolsim.config.commands import FigsConfig
from byolsim.errors import UserError


@command_of(
    FigsConfig,
    help="Draw heatmaps and slices of a sweep, for each batch size: of stored runs, nothing is computed.",
    epilog="Single runs in the folder are ignored; damaged and foreign files are named and skipped.",
)
def command(given: Given) -> int:
    """Parse, draw, show."""
    draw(given.build(FigsConfig))
    return 0


def check_out(config: FigsConfig) -> None:
    """`UserError` where the folder of the pictures cannot be one, or is the runs', before a large folder is read."""
    out = config.out
    try:
        path = Path(out)
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        inside = path.resolve().is_relative_to(Path(config.runs_dir).resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--out {out!r} cannot be written: {error}") from None
    if not nearest.is_dir():
        raise UserError(f"--out {out!r} cannot be written: {nearest} is not a folder")
    if inside:
        raise UserError(
            f"--out {out!r} is in the runs folder {config.runs_dir!r}, which readers of a whole folder take for runs: "
            "must be a folder outside it"
        )


@contextmanager
def _no_backend_asked_for() -> Iterator[None]:
    """Without MPLBACKEND, which matplotlib refuses at its import if it is unknown: pictures in files need none."""
    asked = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked


def draw(config: FigsConfig, only: Collection[str] | None = None) -> None:
    """Draw as the command does, and say what was written and what was skipped."""
    check_out(config)
    with _no_backend_asked_for():
        from byolsim.analysis.figures import draw_figures
    paths, skipped = draw_figures(config, only)
    show_skipped(skipped)
    for path in paths:
        click.echo(f"wrote {path}")
