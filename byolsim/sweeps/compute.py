"""One group of a sweep: its records, whoever computes them, wherever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from byolsim.backends.base import GroupTooLarge
from byolsim.config.run import RunConfig
from byolsim.machine.interrupts import raise_again
from byolsim.machine.threads import one_blas_thread
from byolsim.model.metrics import METRICS
from byolsim.model.modes import spectrum_sizes
from byolsim.model.start import Start
from byolsim.record import RunRecord
from byolsim.simulate import simulate_group, simulate_runs
from byolsim.sweeps.meter import Progress
from byolsim.sweeps.outcome import Failure, Outcome, failure_of
from byolsim.sweeps.writer import Writer


def compute(
    group: Sequence[RunConfig],
    progress: Progress,
    failure: Callable[[RunConfig, Exception, bool], Failure] = failure_of,
    elsewhere: bool = False,
    initial: Start | None = None,
    keep_final: bool = False,
) -> Iterator[list[RunRecord | Failure]]:
    """Train a group: its records, or one failure a run; in parts where the device's memory does not hold it whole.

    Parameters
    ----------
    failure : what becomes of an error: run, error, and whether the run is not to blame -> failure.
    elsewhere : this machine may be another one than that of the plan: whether it can run them is asked again.
    initial, keep_final : as in `simulate.simulate_runs`.
    """
    train = simulate_runs if elsewhere else simulate_group
    try:
        with one_blas_thread():
            results: list[RunRecord | Failure] = list(
                train(group, lambda epochs: progress(epochs * len(group)), initial=initial, keep_final=keep_final)
            )
    except GroupTooLarge as error:
        results = [failure(group[0], error, False)] if len(group) == 1 else []
    except MemoryError as error:  # others may have held it: another day there is room
        results = [failure(config, error, True) for config in group]
    except Exception as error:  # whatever it is, it costs this group alone
        raise_again()
        results = [failure(config, error, False) for config in group]
    if results:
        yield results
        return
    # Outside of the handler, which holds on to the memory of the group that was too large.
    half = len(group) // 2
    for part in (group[:half], group[half:]):
        yield from compute(part, progress, failure, elsewhere, initial, keep_final)


def compute_and_store(
    group: Sequence[RunConfig], writer: Writer, progress: Progress, elsewhere: bool = False
) -> list[Outcome]:
    """Train a group and write its files."""
    parts = compute(group, progress, writer.failure, elsewhere, writer.initial, writer.save_state)
    return [outcome for results in parts for outcome in writer.store(results)]


def checked(group: Sequence[RunConfig], results: Any) -> list[RunRecord | Failure]:
    """What came back for a group from elsewhere: each result is that of its run, whole, or its run has failed."""
    if not isinstance(results, list) or len(results) != len(group):
        count = f"{len(results)} results" if isinstance(results, list) else "no list of results"
        reason = f"{count} came back for a group of {len(group)}"
        return [Failure(config, reason, transient=True) for config in group]
    return [
        result
        if isinstance(result, RunRecord | Failure) and result.config == config and _is_whole(result)
        else Failure(config, "what came back is not the record of this run", transient=True)
        for config, result in zip(group, results, strict=True)
    ]


def _is_whole(result: RunRecord | Failure) -> bool:
    """Whether a record has all columns, of one length, and the lists that it logs."""
    if isinstance(result, Failure):
        return True
    rows = len(result.epochs)
    lists = {name: (rows, size) for name, size in spectrum_sizes(result.config).items()}
    whole = set(result.columns) == set(METRICS) and {len(v) for v in result.columns.values()} == {rows}
    return whole and {name: numbers.shape for name, numbers in result.spectra.items()} == lists
