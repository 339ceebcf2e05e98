"""`python -m byolsim` and `byolsim`: the command line, with the signals in hand before anything large is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from byolsim.machine.interrupts import end_at_once, interrupted_line


def main() -> NoReturn:
    """Run the command line as a program of its own."""
    end_at_once(lambda: interrupted_line(sys.argv[1:]))
    from byolsim.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
