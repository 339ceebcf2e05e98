"""The memory that this process may use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def machine_memory() -> int:
    """Bytes of memory of the machine; a number beyond any need where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63 - 1


def available_memory() -> int:
    """Bytes that this process may use: of the machine, its control group and its own limit."""
    return min([machine_memory(), *_group_limits(), *_own_limits()])


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
