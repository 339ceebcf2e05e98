"""`python -m byolsim` and `byolsim`: the command line, with the signals in hand before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line as a program of its own; it ends the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from byolsim.machine.interrupts import end_at_once, interrupted_line

    end_at_once(lambda: interrupted_line(sys.argv[1:]))
    from byolsim.cli import main as command_line

    command_line()


def _leave(number: int, frame: object) -> None:
    """Before there is anything to keep or to say."""
    os.write(2, b"byolsim: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
