"""Weights & Biases, if it is installed: after a run's file is safe, and never in its way."""

from __future__ import annotations

import contextlib
import math
import netrc
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from byolsim.record import RunRecord

FOLDER = "_wandb"
"""The client's own files, in the runs folder; the leading underscore hides them from its readers."""

INIT_S = 10
"""Seconds for the first answer of the server; the client's own default is 90."""

_given_up = False


def log_run(record: RunRecord, out_dir: str | Path) -> None:
    """Log a run's configuration and rows to Weights & Biases (offline mode too), and say so in one line on stderr.

    The network, a missing key or a broken client must never stop a run, so every exception is caught here: any
    trouble is one warning, and a process in which the client failed does not try again. Nobody is asked for a key.
    """
    global _given_up
    if _given_up:
        return
    try:
        os.environ.setdefault("WANDB_SILENT", "true")  # what it says before it has its settings
        wandb = import_module("wandb")
        session = _session(wandb, record, Path(out_dir) / FOLDER)
        for row, epoch in enumerate(record.epochs):
            values = {name: float(column[row]) for name, column in record.columns.items()}
            session.log({name: value for name, value in values.items() if math.isfinite(value)}, step=int(epoch))
        where = f"{_mode()}, in {Path(out_dir) / FOLDER}" if _mode() != "online" else session.url
        session.finish()
    except Exception as error:  # anything that a third-party client may raise
        _given_up = True
        reason = "install byolsim[wandb]" if isinstance(error, ImportError) else (str(error).splitlines() or [""])[0]
        warnings.warn(f"W&B does not log: {reason}", stacklevel=2)
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed
        print(f"byolsim: W&B logged run {record.config.run_id} ({where})", file=sys.stderr)


def _session(wandb: Any, record: RunRecord, folder: Path) -> Any:
    """A run of the client: no question, no long wait, no message of its own, its files not in the working folder."""
    if _mode() == "online" and not _has_key():
        raise RuntimeError("no API key: wandb login, or WANDB_API_KEY, or WANDB_MODE=offline")
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "byolsim"),
        name=record.config.run_id,
        config=record.config.hyperparameters,
        dir=os.environ.get("WANDB_DIR") or str(folder),
        settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_S),
    )


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "online"


def _has_key() -> bool:
    """Whether the client would find a key, where `wandb login` and its environment variable put it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in names:
        with contextlib.suppress(OSError, ValueError, RuntimeError, netrc.NetrcParseError):
            if netrc.netrc(str(Path(name).expanduser())).authenticators(host):
                return True
    return False
