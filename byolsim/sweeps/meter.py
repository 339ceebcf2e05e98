"""How much of a sweep is done, in run-steps: never more than all of it, and never less than was said before."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from byolsim.sweeps.outcome import one_line

Progress = Callable[[int], None]
"""Is told, now and then, how many more run-steps are done."""


@dataclass
class Meter:
    """Adds up what groups tell of themselves, and passes on what is new.

    A group that is tried again begins again: until it has caught up with what was said of it, nothing is said.
    """

    progress: Progress
    _done: int = 0
    _said: int = 0
    _parts: list[Part] = field(default_factory=list)

    def part(self, run_steps: int) -> Part:
        """A group of so many run-steps is begun."""
        part = Part(self, run_steps)
        self._parts.append(part)
        return part

    def say(self) -> None:
        """Pass on what is new."""
        new = self._done + sum(part.told for part in self._parts) - self._said
        if new > 0:
            self._said += new
            self.progress(new)

    def end(self, part: Part, run_steps: int) -> None:
        """A group is no longer in hand; `run_steps` of it are done."""
        self._parts.remove(part)
        self._done += run_steps
        self.say()


@dataclass(eq=False)
class Part:
    """What a group in hand has told so far; called with more of it."""

    meter: Meter
    run_steps: int
    told: int = 0

    def __call__(self, more: int) -> None:
        """So many more run-steps are done."""
        self.told = min(self.run_steps, self.told + more)
        self.meter.say()

    def end(self, run_steps: int) -> None:
        """The group has come to its end: so many of its run-steps need not be done again."""
        self.meter.end(self, run_steps)


def unfailing(progress: Progress) -> Progress:
    """`progress`, which may be anybody's, as it must be in the middle of a run: after its first error it is left alone.

    Where that cannot be said either (standard error is closed), nothing is said.
    """
    asked = True

    def tell(run_steps: int) -> None:
        nonlocal asked
        if not asked:
            return
        try:
            progress(run_steps)
        except Exception as error:
            asked = False
            with contextlib.suppress(Exception):
                warnings.warn(f"progress is not shown any more ({one_line(error)})", stacklevel=2)

    return tell
