"""RunRecord: one finished run, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.machine.code import versions
from byolsim.machine.processor import processor
from byolsim.model.metrics import has_collapsed
from byolsim.model.start import Start

TABLES = "byolsim.store.columns"
"""Who knows the columns of a file: found by its name when it is asked for, since a record is there without files."""


@dataclass(frozen=True)
class ClipCounts:
    """How many steps the auto schedule's bounds were active in."""

    lr_pred_limit: int
    lr_enc_limit: int
    H_floor: int


@dataclass(frozen=True)
class RunRecord:
    """The configuration, the logged columns and how the run ended.

    Attributes
    ----------
    epochs : (L,) the logged epochs.
    columns : metric name -> (L,) values, NaN where a metric has no value.
    spectra : name of a list -> (L, number), NaN likewise; empty where the run does not log them (`log_spectra`).
    status : `diverged` where the parameters stopped being finite or exceeded the bound; the rows before are kept.
    diverged_epoch : that epoch, else None.
    clips : steps at which a bound of the auto schedule was active.
    wall_s : this run's share of its group's wall time, in seconds.
    versions : of the program and its libraries in the process that made the record.
    processor : its kind, as far as bits depend on it.
    final : where it ended, to look into or to go on from (`simulate_runs(..., initial=record.final)`); None if it
        diverged, if its model is an MLP, or if it was not kept.
    """

    config: RunConfig
    epochs: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]
    status: Literal["completed", "diverged"]
    diverged_epoch: int | None
    clips: ClipCounts
    wall_s: float
    versions: Mapping[str, str] = field(default_factory=versions)
    processor: Mapping[str, str] = field(default_factory=processor)
    final: Start | None = field(default=None, repr=False, compare=False)
    spectra: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def collapsed(self) -> bool:
        """Whether the features have vanished at the last row, relative to epoch 0 (`metrics.has_collapsed`)."""
        H = self.columns["Hmax_exact"]
        return bool(H.size and has_collapsed(H[-1], H[0]))

    def to_arrow(self) -> Any:
        """The rows as a `pyarrow.Table`, those of the run's file: epoch, columns, hyperparameters and spectra.

        NaN is null. A spectrum is a column of lists, null in a row without a value; a run that logs none has no such
        column.
        """
        return import_module(TABLES).to_arrow(self)

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`; a spectrum is a column of arrays, None in a row without a value.

        Raises
        ------
        ModuleNotFoundError
            If pandas is not installed.
        """
        return self.to_arrow().to_pandas()
