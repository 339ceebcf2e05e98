"""Standard streams as the commands need them: there, able to show any name, and unable to fail a run."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class Forgiving:
    """Standard error whose reader may go away: what cannot be said any more is not said."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is still possible."""
        with contextlib.suppress(OSError, ValueError):  # a closed pipe, a closed file
            return int(self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, if that is still possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """In the block all three streams can be used.

    One that was closed is the null device: the next file that is opened, perhaps a run's, would take its place, and
    whatever is written to it. A name that the encoding of standard output lacks is shown with escapes.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    before, sys.stderr = sys.stderr, Forgiving(sys.stderr)
    try:
        yield
    finally:
        sys.stderr = before
