"""Weights & Biases, if it is installed: after a run's file is safe, and never in its way."""

from __future__ import annotations

import math
import warnings
from importlib import import_module

from byolsim.record import RunRecord

_given_up = False


def log_run(record: RunRecord) -> None:
    """Log a run's configuration and rows to Weights & Biases (offline mode too); any trouble is one warning.

    The network, a missing key or a broken client must never stop a run, so every exception is caught here, and a
    process in which the client failed does not try again.
    """
    global _given_up
    if _given_up:
        return
    try:
        wandb = import_module("wandb")
        session = wandb.init(project="byolsim", name=record.config.run_id, config=record.config.model_dump())
        for row, epoch in enumerate(record.epochs):
            values = {name: float(column[row]) for name, column in record.columns.items()}
            session.log({name: value for name, value in values.items() if math.isfinite(value)}, step=int(epoch))
        session.finish()
    except Exception as error:  # anything that a third-party client may raise
        _given_up = True
        reason = "install byolsim[wandb]" if isinstance(error, ImportError) else (str(error).splitlines() or [""])[0]
        warnings.warn(f"W&B does not log: {reason}", stacklevel=2)
