"""Runs that failed for a reason other than divergence: `_failed/<id>.failed.json` in the runs folder .

The leading underscore of the folder hides it from readers of the whole runs folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.errors import UserError, printable
from byolsim.machine.whole import write_whole
from byolsim.store.details import LONGEST, first_line, parse_json, stored_config

FOLDER = "_failed"
SUFFIX = ".failed.json"


def failure_path(out_dir: str | Path, config: RunConfig) -> Path:
    """Where the failure of a run is recorded."""
    return Path(out_dir) / FOLDER / f"{config.run_id}{SUFFIX}"


def save_failure(out_dir: str | Path, config: RunConfig, reason: str, transient: bool = False) -> None:
    """Record a failed run; where even that cannot be written, the caller's message is all there is.

    `transient` where the run is not to blame (a full disk, a broken executor): a sweep that is started again tries it.
    """
    record = {"run_id": config.run_id, "reason": reason, "transient": transient, "config": config.hyperparameters}
    data = f"{json.dumps(record, indent=1)}\n".encode()
    for _ in range(2):  # another process may remove the folder, empty, at this moment
        with contextlib.suppress(UserError):
            write_whole(failure_path(out_dir, config), data)
            return


def clear_failure(out_dir: str | Path, config: RunConfig) -> None:
    """Forget an earlier failure of a run that is now complete."""
    path = failure_path(out_dir, config)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()  # only where it is empty


def lasting_failures(out_dir: str | Path) -> Mapping[str, str]:
    """Run id -> reason of the recorded failures that are not transient; damaged records are none."""
    found = {}
    try:
        paths = list((Path(out_dir) / FOLDER).glob(f"*{SUFFIX}"))
    except (OSError, ValueError):
        return {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = _read(path)
            if not record.get("transient", False):
                found[str(record["run_id"])] = _reason(record)
    return found


def failed_files(out_dir: Path) -> list[Path]:
    """The recorded failures of a folder, sorted by name; none where they cannot be listed."""
    try:
        return sorted(out_dir.glob(f"{FOLDER}/*{SUFFIX}"))
    except (OSError, ValueError):
        return []


def read_failure(path: Path) -> tuple[str, RunConfig, str]:
    """Id, configuration and reason of a failed run; `UserError` if the file is not what `save_failure` writes."""
    try:
        record = _read(path)
        return _run_id(record["run_id"]), stored_config(record["config"]), _reason(record)
    except (OSError, KeyError, ValueError, UserError) as error:
        raise UserError(f"{path}: not a record of a failed run ({first_line(error)})") from error


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a record. A pipe or a device of that name would never come to its end: only a file is read."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        return parse_json(file.read(LONGEST + 1))


def _run_id(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{12}", value):
        raise ValueError("run_id is none")
    return value


def _reason(record: Mapping[str, Any]) -> str:
    """Why the run failed, as one line of any terminal."""
    return printable(" ".join(str(record["reason"]).split()))
