"""Temporary files: how they are named, and which of them nobody is writing any more.

Several processes and machines may write into one folder. The name of a temporary file says who writes it, so that
whoever starts next can tell what a killed process left from what a live one has in hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import sys
import time
from functools import cache
from pathlib import Path

PREFIX = ".byolsim-"
"""How the names begin: no other program's file is ever taken for one."""

STALE_S = 3600.0
"""Age at which a file counts as left behind where its writer cannot be asked; no write takes an hour."""

_NAME = re.compile(re.escape(PREFIX) + r"(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{16}\.tmp")


def temporary_path(folder: Path) -> Path:
    """A new name in the folder: this machine, this process and a random number."""
    return folder / f"{PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files whose writer has ended; those of other machines once they are an hour old."""
    for path in folder.glob(f"{PREFIX}*.tmp"):
        with contextlib.suppress(OSError):
            if writer_has_ended(path.name) or time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def writer_has_ended(name: str) -> bool:
    """True only where it is certain: the writer was on this machine, and the process is gone."""
    match = _NAME.fullmatch(name)
    return match is not None and match["machine"] == _machine() and not _is_alive(int(match["pid"]))


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # to ask would end it there: age decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[:1] != ["Z"]  # ended, and not yet waited for


@cache
def _machine() -> str:
    """Where process numbers mean the same: host name, boot and, on Linux, the namespace of the numbers."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]
