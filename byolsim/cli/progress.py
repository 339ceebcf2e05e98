"""Progress on stderr: a bar on a terminal, one plain line per 30 seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from byolsim.machine.doing import now as doing_now

PLAIN_EVERY_S = 30.0
TICK_S = 1.0


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more of `total` steps are done; it shows life also while it is told nothing."""
    if sys.stderr.isatty():
        yield from _rich_bar(title, total)
        return
    lines = PlainLines(title, total, time.monotonic)
    ended = threading.Event()
    ticks = threading.Thread(target=_tick, args=(lines, ended), daemon=True)
    ticks.start()
    try:
        yield lines.advance
    finally:
        ended.set()


def _rich_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Doing(ProgressColumn):
        """What is done at the moment."""

        def render(self, task: Task) -> Text:
            return Text(doing_now())

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, Doing(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)


class PlainLines:
    """At most one line per 30 seconds, whether steps are done or not."""

    def __init__(self, title: str, total: int, clock: Callable[[], float]) -> None:
        self.title, self.total, self.clock = title, total, clock
        self.start = self.last = clock()
        self.done = 0

    def advance(self, steps: int) -> None:
        """So many more steps are done."""
        self.done += steps
        self.tick()

    def tick(self) -> None:
        """Show where it stands, if it is time."""
        now = self.clock()
        if now - self.last < PLAIN_EVERY_S:
            return
        self.last = now
        spent = now - self.start
        left = f"{(self.total - self.done) * spent / self.done:.0f} s left" if self.done else f"{spent:.0f} s so far"
        at = f": {doing_now()}" if doing_now() else ""
        print(f"{self.title}: {100 * self.done / self.total:.0f}% of {self.total:,} steps, {left}{at}", file=sys.stderr)


def _tick(lines: PlainLines, ended: threading.Event) -> None:
    while not ended.wait(TICK_S):
        lines.tick()
