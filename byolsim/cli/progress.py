"""Progress on stderr: a bar on a terminal, one plain line per 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY_S = 30.0


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more of `total` steps are done."""
    if sys.stderr.isatty():
        yield from _rich_bar(title, total)
    else:
        yield _plain_lines(title, total, time.monotonic)


def _rich_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)


def _plain_lines(title: str, total: int, clock: Callable[[], float]) -> Callable[[int], None]:
    start = last = clock()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        now = clock()
        if now - last >= PLAIN_EVERY_S:
            last = now
            left = (total - done) * (now - start) / max(done, 1)
            print(f"{title}: {100 * done / total:.0f}% of {total:,} steps, {left:.0f} s left", file=sys.stderr)

    return advance
