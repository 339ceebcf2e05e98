"""Sweeps in processes of their own: started as a user starts them, watched, killed, and their files compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from byolsim.config.grid import SweepConfig, expand
from byolsim.store.columns import schema
from byolsim.store.files import read_columns
from byolsim.store.names import run_path

GRID: dict[str, Any] = {
    "d_latent": 2, "d_obs": 4, "latent_spectrum": "flat:1", "epochs": 2000, "log_every": 500,
    "batch_sizes": (3, 5), "lr_pred_logspace": (1e-3, 1e-2, 2), "tau_logspace": (1e-2, 1e-2, 1),
}  # fmt: skip
DEADLINE_S = 120.0
"""Far beyond what anything here takes: a poll that reaches it has found a fault."""


def grid(**options: Any) -> SweepConfig:
    return SweepConfig(**(GRID | options))


def words(config: SweepConfig) -> list[str]:
    """The command line of a grid."""
    values = config.model_dump(exclude_defaults=True)
    return ["sweep", *(word for name, value in values.items() for word in (f"--{name}", *texts(value)))]


def texts(value: object) -> Iterator[str]:
    return map(str, value if isinstance(value, tuple) else (value,))


def start(config: SweepConfig, folder: Path, *options: str) -> subprocess.Popen[str]:
    """`byolsim sweep` in a process of its own, away from the signals of this one's terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "byolsim", *words(config), "--out_dir", str(folder), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def until(condition: Callable[[], object], what: str) -> None:
    """Poll for a condition."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def complaints(err: str) -> str:
    """What a command said on stderr beside its progress, of which it speaks where a machine takes long."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.match(r"byolsim \w+: \d+% of ", line))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def session(pid: int) -> list[int]:
    """The live processes of the session that a process leads: itself, its workers, and what they started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, leader = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(leader) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def workers_of(pid: int) -> list[int]:
    """The worker processes, without the tracker of multiprocessing's resources."""
    return [child for child in session(pid) if child != pid and b"spawn_main" in command_line(child)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def contents(config: SweepConfig, folder: Path) -> dict[str, pa.Table]:
    """Run id -> rows; every file of the folder is a run of the grid, whole, with its checksums verified."""
    runs = expand(config)
    assert sorted(files(folder)) == sorted(run_path(folder, run) for run in runs)
    return {run.run_id: rows(run_path(folder, run)) for run in runs}


def rows(path: Path) -> pa.Table:
    info, table = read_columns(path, schema().names)
    assert info.run_id == path.stem.rpartition("-")[2]
    return table


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Whatever happens in the block, the process and its workers are gone after it."""
    try:
        yield process
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """CPU time of a session so far: what takes more than its start has begun to compute."""
    total = 0
    for member in session(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


LONG = {"epochs": 10**9, "log_every": 10**8, "seeds": (1, 2)}
"""A sweep that would take hours."""
