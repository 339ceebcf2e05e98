"""The rows that a run logs: how many, and whether the memory of this process holds them."""

from __future__ import annotations

from collections.abc import Sequence

from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.memory import available_memory
from byolsim.model.metrics import METRICS
from byolsim.model.modes import spectrum_sizes

ROW_BYTES = 8 * (len(METRICS) + 1)
"""A row in memory without spectra: its metrics and its epoch."""

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


def row_bytes(config: RunConfig) -> int:
    """A row of a run in memory, the lists that it logs included."""
    return ROW_BYTES + 8 * sum(spectrum_sizes(config).values())


def group_limit(config: RunConfig) -> int:
    """Runs of this kind whose rows a process holds at a time."""
    return max(1, GROUP_BYTES // (row_bytes(config) * logged_rows(config)))


def check_rows(group: Sequence[RunConfig], processes: int = 1) -> None:
    """`UserError` if memory does not hold the rows of a group while its runs are computed and written.

    Parameters
    ----------
    group : runs that log at the same epochs.
    processes : how many such groups are in memory at a time.
    """
    rows = logged_rows(group[0])
    # the rows of all runs, and the copies of the one that is being written
    needed = processes * row_bytes(group[0]) * rows * (len(group) + COPIES - 1)
    memory = available_memory()
    room = max(memory // 2, memory - processes * PROCESS_BYTES)
    if needed > room:
        config, several = group[0], f" in {processes} processes" if processes > 1 else ""
        fewer = (", or leave out log_spectra" if config.log_spectra else "") + (", or fewer workers" * (processes > 1))
        raise UserError(
            f"epochs = {config.epochs} and log_every = {config.log_every} make {rows:,} rows a run, which need "
            f"{needed / 2**30:.1f} GiB{several}: must be at most {room / 2**30:.1f} GiB, the memory that there is; "
            f"raise log_every or lower epochs{fewer}"
        )
