"""`byolsim export`: many runs in one file."""

from __future__ import annotations

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.skipped import show_skipped
from byolsim.config.commands import ExportConfig
from byolsim.store.export import export_runs


@command_of(
    ExportConfig,
    help="Write all rows of the selected runs to one Parquet or CSV file, in the columns of the run files.",
    epilog="Each run once, also where the folder holds copies; damaged and foreign files are named and skipped.",
)
def command(given: Given) -> int:
    """Parse, export, show."""
    done = export_runs(given.build(ExportConfig))
    show_skipped(done.skipped)
    click.echo(f"wrote {done.path} ({done.rows:,} rows of {done.runs:,} run{'s' * (done.runs != 1)})")
    return 0
