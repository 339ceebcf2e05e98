"""How one run of a sweep ended, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.record import ClipCounts, RunRecord


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended.

    Attributes
    ----------
    status : `completed`, `diverged`, `skipped` (already there), `failed` with the reason, or `left` (the sweep stopped
        before it).
    transient : a failure for which the run is not to blame: a sweep that is started again tries it again.
    unwritable : the disk is full or the folder takes no files, so that no other run could be stored either.
    record : what was stored, if it was computed for a caller who waits for it (`Single`).
    """

    run_id: str
    path: Path
    status: str
    reason: str = ""
    clips: ClipCounts | None = None
    transient: bool = False
    unwritable: bool = False
    record: RunRecord | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Failure:
    """A run that could not be computed, in place of its record; `transient` where the run is not to blame."""

    config: RunConfig
    reason: str
    transient: bool = False


def failure_of(config: RunConfig, error: Exception, transient: bool = False) -> Failure:
    """What is kept of an error: not the error itself, which holds on to the memory of its group."""
    return Failure(config, one_line(error), transient)


def one_line(error: BaseException) -> str:
    """An error as the reason of a failure."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")
    return (text.splitlines() or [""])[0]
