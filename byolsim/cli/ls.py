"""`byolsim ls`: what a runs folder holds."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import click

from byolsim.cli.options import Given, command_of
from byolsim.cli.skipped import show_skipped
from byolsim.cli.tables import table
from byolsim.config.commands import LsConfig
from byolsim.model.metrics import METRICS
from byolsim.store.listing import Listed, Listing, list_runs, table_columns
from byolsim.store.where import NAMES, STATUSES, null_word


@command_of(
    LsConfig,
    help="List stored runs and recorded failures, one a line. Every byte of each file is checked on the way.",
    epilog="The table shows key hyperparameters and all others in which the runs listed differ; auto is a rate of the "
    "auto schedule, - what does not apply. For a diverged run, reached is the epoch at which it diverged. Metrics "
    "that --where names are shown too.",
)
def command(given: Given) -> int:
    """Parse, list, show."""
    config = given.build(LsConfig)
    listing = list_runs(config)
    click.echo({"table": _table, "csv": _csv, "json": _json}[config.format](listing), nl=False)
    show_skipped(listing.skipped)
    click.echo(_count(listing), err=config.format != "table")
    return 0


def _table(listing: Listing) -> str:
    """Columns as wide as their widest value, so that a line is never cut."""
    names = [*table_columns(listing.runs), *listing.metrics]
    head = [*names, "file"]
    rows = [[*(_cell(name, run.facts[name]) for name in names), _where_from(run)] for run in listing.runs]
    return "".join(f"{line}\n" for line in table(head, rows, left=range(len(head))))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return null_word(name) or "-"
    if name in METRICS:
        return f"{value:.4g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _where_from(run: Listed) -> str:
    return f"{run.file}: {run.reason}" if run.reason else run.file


def _csv(listing: Listing) -> str:
    sheet, names = io.StringIO(), [*NAMES, *listing.metrics]
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([*names, "file", "reason"])
    writer.writerows([*(run.facts[name] for name in names), run.file, run.reason] for run in listing.runs)
    return sheet.getvalue()


def _json(listing: Listing) -> str:
    """One array, one run a line."""
    lines = [json.dumps({**run.facts, "file": run.file, "reason": run.reason or None}) for run in listing.runs]
    return "[" + ",\n ".join(lines) + "]\n"


def _count(listing: Listing) -> str:
    shown, total = len(listing.runs), listing.total
    counts = [f"{n} {status}" for status in STATUSES if (n := listing.count(status))]
    of = "" if shown == total else f" of {total}"
    return f"{shown}{of} run{'s' * (total != 1)}" + (f": {', '.join(counts)}" if counts else "")
