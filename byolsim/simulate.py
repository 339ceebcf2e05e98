"""Configurations that share a stream -> backend -> records. One run is a group of one; there is no second path."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from byolsim.backends import get_backend
from byolsim.backends.base import LogBlock
from byolsim.config.fields import names
from byolsim.config.run import RunConfig
from byolsim.machine.doing import doing
from byolsim.machine.interrupts import deferred_interrupt
from byolsim.machine.threads import one_blas_thread
from byolsim.model.metrics import METRICS, Measured, measure
from byolsim.model.modes import spectrum_sizes
from byolsim.model.rows import check_rows, logged_rows
from byolsim.model.start import Start, check_start, start_of_arrays
from byolsim.model.world import World
from byolsim.record import ClipCounts, RunRecord

_PER_RUN = frozenset(names(RunConfig, "per_run"))


def group_key(config: RunConfig) -> tuple[tuple[str, object], ...]:
    """What the runs of one group have in common: equal keys may be trained together, on the same draws."""
    return tuple((name, value) for name, value in config.model_dump().items() if name not in _PER_RUN)


def resolve(config: RunConfig) -> RunConfig:
    """The configuration as its backend runs it, with a concrete device.

    Done once, where configurations come in: in `simulate_runs` and in the plan of a run or of a sweep.

    Raises
    ------
    UserError
        If the backend is not there or cannot run it.
    """
    return get_backend(config.backend).resolve(config)


def simulate_runs(
    group: Sequence[RunConfig],
    progress: Callable[[int], None] = lambda epochs: None,
    *,
    initial: Start | Mapping[str, ArrayLike] | None = None,
    keep_final: bool = True,
) -> list[RunRecord]:
    """Train runs that share a world and a data stream, and return their records in the same order.

    A run's columns are the same bits in any group. BLAS runs on one thread meanwhile: with more, the last bits depend
    on their number.

    Parameters
    ----------
    group : configurations with one `group_key`.
    progress : called now and then with the number of epochs done since the last call.
    initial : where all runs start, in place of what their configurations say: the `final` of a record, which they then
        go on from with the draws after it, or arrays by the names of `model.start.Start`, of which P (k, k) and B_o
        (k, d) are needed. Its digest is part of their ids (`RunConfig.initial`).
    keep_final : whether records hold where their runs ended.

    Raises
    ------
    ValueError
        If the configurations do not share a stream, or cannot start there.
    byolsim.errors.UserError
        If the backend cannot run them.
    """
    if not group:
        return []
    start = as_start(initial)
    group = [started(config, start) for config in group]
    _check_shared(group)
    return simulate_group([resolve(config) for config in group], progress, initial=start, keep_final=keep_final)


def as_start(initial: Start | Mapping[str, ArrayLike] | None) -> Start | None:
    """What may be given for `initial`, as a start; `ValueError` for arrays that make none."""
    return initial if initial is None or isinstance(initial, Start) else start_of_arrays(initial)


def started(config: RunConfig, initial: Start | None) -> RunConfig:
    """The configuration of a run that starts there: it holds the digest.

    Raises
    ------
    ValueError
        If it cannot start there, or names another start.
    """
    if initial is None:
        if config.initial is not None:
            raise ValueError(f"initial = {config.initial!r} is the digest of a start that was not given: give initial=")
        return config
    check_start(initial, config)
    if config.initial not in (None, initial.digest):
        raise ValueError(f"initial = {config.initial!r} is the digest of another start than the one that was given")
    return RunConfig(**(config.model_dump() | {"initial": initial.digest}))


def _check_shared(group: Sequence[RunConfig]) -> None:
    """`ValueError` that names the first field in which a run differs from the first run and must not."""
    first = group_key(group[0])
    for config in group:
        for (name, value), (_, other) in zip(first, group_key(config), strict=True):
            if other != value:
                raise ValueError(
                    "the runs of a group must share their world, data key, logged epochs and dtype: "
                    f"{name} = {value!r} and {other!r}"
                )


def simulate_group(
    group: Sequence[RunConfig],
    progress: Callable[[int], None],
    *,
    initial: Start | None = None,
    keep_final: bool = False,
) -> list[RunRecord]:
    """As `simulate_runs`, of configurations that are resolved and known to share a stream: those of a plan."""
    check_rows(group)
    warm_up(group[0])
    backend = get_backend(group[0].backend)
    start = time.perf_counter()
    with one_blas_thread():
        with doing("making the world"):
            world = World.from_config(group[0])
        # Laid out once, not gathered in parts: of a long run the rows are most of what the process holds.
        rows = logged_rows(group[0])
        logged = np.empty(rows, dtype=np.int64)
        columns = {name: np.empty((len(group), rows)) for name in METRICS}
        spectra = {name: np.empty((len(group), rows, size)) for name, size in spectrum_sizes(group[0]).items()}
        done = 0
        for block in backend.simulate(world, group, progress, initial, keep_final):
            here = slice(done, done + len(block.epochs))
            logged[here] = block.epochs
            with doing(f"metrics of {len(block.epochs)} logged epochs"):
                found = _measured(block, world, group[0])
            for name, values in columns.items():
                values[:, here] = found.columns[name]
            for name, numbers in spectra.items():
                numbers[:, here] = found.spectra[name]
            done = here.stop
    wall_s = (time.perf_counter() - start) / len(group)
    return [_record(k, config, logged[:done], columns, spectra, block, wall_s) for k, config in enumerate(group)]


def warm_up(config: RunConfig) -> None:
    """Compile what a configuration needs, once: before the clock starts, and before processes race for the cache."""
    _warm_up(get_backend(config.backend).tiny(config))


@cache
def _warm_up(tiny: RunConfig) -> None:
    with deferred_interrupt(), doing("compiling"):
        get_backend(tiny.backend).warm(tiny)


def _measured(block: LogBlock, world: World, config: RunConfig) -> Measured:
    """All columns of one block, (K, L), and its spectra; the loss of epoch 0 is the population loss."""
    found = measure(block.order, world, config.dtype, config.log_spectra)
    columns = {**found.columns, **block.steps}
    columns["loss"] = np.where(block.epochs == 0, columns["loss_pop"], columns["loss"])
    return Measured(columns, found.spectra)


def _record(
    k: int,
    config: RunConfig,
    epochs: NDArray[np.int64],
    columns: dict[str, NDArray[np.float64]],
    spectra: dict[str, NDArray[np.float64]],
    last: LogBlock,
    wall_s: float,
) -> RunRecord:
    ended = int(last.diverged_epoch[k])
    rows = len(epochs) if ended < 0 else int(np.searchsorted(epochs, ended))
    return RunRecord(
        config=config,
        epochs=epochs[:rows],
        columns={name: values[k, :rows] for name, values in columns.items()},
        spectra={name: numbers[k, :rows] for name, numbers in spectra.items()},
        status="completed" if ended < 0 else "diverged",
        diverged_epoch=None if ended < 0 else ended,
        clips=ClipCounts(*(int(count) for count in last.clips[k])),
        wall_s=wall_s,
        final=None if last.final is None else last.final[k],
    )
