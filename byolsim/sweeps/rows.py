"""The rows that a run logs: how many, and whether the memory of this process holds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS

ROW_BYTES = 8 * (len(METRICS) + 1)
"""A row in memory: its metrics and its epoch."""

COPIES = 3
"""Rows of a run that is being written, times over: the record, the file, and room in which the file grows."""

GROUP_BYTES = 2**28
"""What the rows of a group may take, where it holds more than one run."""

PROCESS_BYTES = 300 * 2**20
"""What a process needs beside the rows: mostly libraries."""


def logged_rows(config: RunConfig, before: int | None = None) -> int:
    """Logged epochs of a run: 0, the multiples of `log_every`, and the last; or those `before` an epoch >= 0."""
    if before is not None and before <= config.epochs:
        return -(-before // config.log_every)
    return config.epochs // config.log_every + 1 + (config.epochs % config.log_every > 0)


def group_limit(config: RunConfig) -> int:
    """Runs of this kind whose rows a process holds at a time."""
    return max(1, GROUP_BYTES // (ROW_BYTES * logged_rows(config)))


def check_rows(group: Sequence[RunConfig], processes: int = 1) -> None:
    """`UserError` if memory does not hold the rows of a group while its runs are computed and written.

    Parameters
    ----------
    group : runs that log at the same epochs.
    processes : how many such groups are in memory at a time.
    """
    rows = logged_rows(group[0])
    # the rows of all runs, and the copies of the one that is being written
    needed = processes * ROW_BYTES * rows * (len(group) + COPIES - 1)
    memory = available_memory()
    room = max(memory // 2, memory - processes * PROCESS_BYTES)
    if needed > room:
        config, several = group[0], f" in {processes} processes" if processes > 1 else ""
        fewer = ", or fewer workers" if processes > 1 else ""
        raise UserError(
            f"epochs = {config.epochs} and log_every = {config.log_every} make {rows:,} rows a run, which need "
            f"{needed / 2**30:.1f} GiB{several}: must be at most {room / 2**30:.1f} GiB, the memory that there is; "
            f"raise log_every or lower epochs{fewer}"
        )


def available_memory() -> int:
    """Bytes that this process may use: of the machine, its control group and its own limit."""
    found = [2**63 - 1]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # a system that does not say
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found + _group_limits() + _own_limits())


def _own_limits() -> list[int]:
    try:
        import resource
    except ImportError:  # no POSIX system
        return []
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def _group_limits(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """The limits of the control groups that hold this process, each with those above it; versions 1 and 2."""
    try:
        lines = proc.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        folder = top / name.strip("/")
        # in a container the name may be the host's, and only the top is there
        for place in (place for place in (folder, *folder.parents) if place.is_relative_to(top)):
            try:
                found.append(int((place / file).read_text(encoding="ascii")))
            except (OSError, ValueError):  # not there, or `max`
                continue
    return found
