"""Ctrl-C and SIGTERM: never in the middle of a compilation, never answered by a worker."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Hold signals back until the block is left: an exception in the middle of a compilation is lost, or breaks it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if not seen:
            print("byolsim: interrupted; ends after the compilation, some seconds", file=sys.stderr)
        seen.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    for first in seen[:1]:
        signal.raise_signal(first)


@contextmanager
def ignored_interrupt() -> Iterator[None]:
    """Ignore Ctrl-C; processes started meanwhile ignore it for good (on POSIX), which leaves it to their parent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Terminated(SystemExit):
    """SIGTERM came."""


def exit_on_sigterm() -> None:
    """From now on SIGTERM leaves the program as Ctrl-C does, by an exception, with exit code 143."""

    def leave(number: int, frame: Any) -> None:
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, leave)
