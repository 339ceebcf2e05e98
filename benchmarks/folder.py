"""Seconds and peak memory of reading a large runs folder: loading for `figs`, all of `figs`, `ls` and `export`.

    python benchmarks/folder.py [--runs 10000] [--rows 200] [--folder FOLDER]

Makes the folder first, unless it is there: the runs of one sweep with made-up smooth metrics, each file the bytes that
a real run's would have (without the flush to disk, which is the disk's time). Each action is a process of its own, so
that its processor seconds and its peak memory (resident set) are its own; the files are in the cache by then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from byolsim.analysis.select import select_grids
from byolsim.cli import main as byolsim
from byolsim.config.commands import FigsConfig
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.model.metrics import METRICS
from byolsim.record import ClipCounts, RunRecord
from byolsim.store.columns import encode
from byolsim.store.names import run_path

POINTS = 40
"""Runs of one seed: 2 batch sizes, 4 taus, 4 alphas and the auto column."""

EVERY = 10
ACTIONS = ("load for figs", "figs", "ls", "export")


def make(folder: Path, runs: int, rows: int) -> None:
    """A folder of runs that differ in seed, batch size, tau and alpha."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = tuple(range(-(-runs // POINTS)))
    rng = np.random.default_rng(0)
    for config in expand(SweepConfig(seeds=seeds, epochs=EVERY * (rows - 1), log_every=EVERY))[:runs]:
        run_path(folder, config).write_bytes(encode(_made_up(config, rows, rng)))


def _made_up(config: RunConfig, rows: int, rng: np.random.Generator) -> RunRecord:
    decay = np.exp(-np.linspace(0, 5, rows))
    columns = {name: (1 + k) * decay * (1 + 0.01 * rng.normal(size=rows)) for k, name in enumerate(METRICS)}
    return RunRecord(config, EVERY * np.arange(rows), columns, "completed", None, ClipCounts(0, 0, 0), 0.1)


def act(action: str, folder: Path, rows: int, scratch: Path) -> None:
    """One action, in this process."""
    epoch = EVERY * (rows - 1)
    if action == "load for figs":
        metrics = ["W_Fro_aligned", "BA_err_aligned", "erank_encoded", "erank_pred", "loss_pop"]
        select_grids(FigsConfig(runs_dir=str(folder), epoch=epoch), metrics)
        return
    options = {
        "figs": ["--epoch", str(epoch), "--out", str(scratch / "figs")],
        "ls": [],
        "export": ["--to", str(scratch / "runs.parquet"), "--force"],
    }
    byolsim([action, "--runs_dir", str(folder), *options[action]])


def measure(action: str, arguments: list[str]) -> tuple[float, float, float]:
    """Seconds, start of the interpreter included, processor seconds and peak MiB of an action in a fresh process."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, *arguments, "--action", action], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{action} ended with exit code {child.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--action", choices=ACTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "runs"
        if given.action:
            act(given.action, folder, given.rows, Path(scratch))
            return
        if not folder.exists():
            start = time.perf_counter()
            make(folder, given.runs, given.rows)
            print(f"made {given.runs} files of {given.rows} rows in {time.perf_counter() - start:.0f} s")
        arguments = ["--rows", str(given.rows), "--folder", str(folder)]
        print(f"{'action':>14} {'seconds':>8} {'processor':>10} {'peak MiB':>9}")
        for action in ACTIONS:
            seconds, busy, mib = measure(action, arguments)
            print(f"{action:>14} {seconds:>8.1f} {busy:>10.1f} {mib:>9.0f}")


if __name__ == "__main__":
    main()
