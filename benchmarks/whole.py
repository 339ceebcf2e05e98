"""Wall time of whole commands, each a process of its own: Python's start, imports, work and files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tables import figure, table
from timing import seconds

HELP = ("--help",)
RUN = ("run", "--epochs", "100")
SWEEP = ("sweep",)


def report(repeats: int) -> str:
    """Measure, and return the table as text."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        cold = [command_seconds(SWEEP, base / f"cold-{i}", base / f"sweep-{i}") for i in range(2)]
        cache = base / "cold-0"
        command_seconds(RUN, cache, base / "run")
        warm = {
            command: min(command_seconds(command, cache, base / f"{command[0]}-warm-{i}") for i in range(repeats))
            for command in (HELP, RUN, SWEEP)
        }
    rows = [[f"byolsim {' '.join(command)}", f"warm, best of {repeats}", figure(t)] for command, t in warm.items()]
    rows.append(["byolsim sweep", "nothing compiled yet, best of 2", figure(min(cold))])
    return "Whole commands, seconds (the sweep: 80 runs x 2000 epochs, all files written)\n\n" + table(
        ["", "compiled code", "s"], rows
    )


def command_seconds(command: tuple[str, ...], cache: Path, out: Path) -> float:
    """Wall time of one `byolsim` command that keeps its compiled code in `cache` and writes to `out`."""
    arguments = [] if command == HELP else ["--out_dir", str(out)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    call = [sys.executable, "-m", "byolsim", *command, *arguments]
    return seconds(lambda: subprocess.run(call, env=environment, check=True, capture_output=True))
