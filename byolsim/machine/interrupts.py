"""Ctrl-C and SIGTERM: one line and an exit code; never in the middle of a compilation, never answered by a worker."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # a worker ignores Ctrl-C
    before = {number: signal.signal(number, hold) for number in heard}
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


_came: list[int] = []


def came() -> int | None:
    """The signal that came first, if one came: whatever exception arrives then, it is the signal's doing."""
    return _came[0] if _came else None


def raise_again() -> None:
    """Raise for a signal that came and whose exception was lost, or came out as another one, in some library."""
    number = came()
    if number is not None:
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)


def interrupted_line(typed: Sequence[str]) -> str:
    """What is kept, and the line that goes on from there, as it was typed but for `--force`, which would not."""
    rest = [word for word in typed if word != "--force"]
    if not rest or rest[0] not in ("run", "sweep", "all"):
        return "interrupted"
    program = f"{Path(sys.executable).name} -m byolsim" if Path(sys.argv[0]).name == "__main__.py" else "byolsim"
    return f"interrupted; finished runs are kept. To compute what is missing: {program} {shlex.join(rest)}"


def end_at_once(line: Callable[[], str]) -> None:
    """From now on a signal ends the process on the spot, with one line: for times in which nothing is in hand.

    An exception in the middle of an import can be lost, or leave half of a library behind.
    """

    def leave(number: int, frame: Any) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        first = came() or number
        with suppress(OSError):
            os.write(2, f"byolsim: {line()}\n".encode(errors="backslashreplace"))
        os._exit(128 + first)

    _on_signals(leave)


def end_by_exception(line: Callable[[], str]) -> None:
    """From now on the first signal raises `KeyboardInterrupt` or `Terminated`; a second one does not wait for its end.

    What a process that ends on the spot leaves unfinished, the next one removes.
    """

    def leave(number: int, frame: Any) -> None:
        _came.append(number)
        end_at_once(line)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)

    _on_signals(leave)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Whatever handles the signals in the block, after it they are handled as before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _came.clear()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def _on_signals(handler: Callable[[int, Any], None]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)
