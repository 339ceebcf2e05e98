"""What the commands that read a runs folder say of files that they could not use."""

from __future__ import annotations

from collections.abc import Sequence

import click


def show_skipped(skipped: Sequence[str]) -> None:
    """Name the files and count them."""
    for line in skipped:
        click.echo(f"skipped {line}", err=True)
    if skipped:
        click.echo(f"{len(skipped)} file{'s' * (len(skipped) > 1)} skipped", err=True)
