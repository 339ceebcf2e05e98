"""What this process is at, in words: for whoever waits a long time for a single step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_now: list[str] = []


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say what is done in the block."""
    _now.append(what)
    try:
        yield
    finally:
        _now.remove(what)


def now() -> str:
    """What was begun last and is not yet done; empty where nobody has said."""
    return _now[-1] if _now else ""
