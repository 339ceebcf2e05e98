"""What is done for one group of a sweep: compute its records, and write them. Whoever does it, wherever."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from byolsim.backends.base import GroupTooLarge
from byolsim.config.run import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.machine.interrupts import raise_again
from byolsim.machine.threads import one_blas_thread
from byolsim.machine.whole import probe
from byolsim.model.metrics import METRICS
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_group, simulate_runs
from byolsim.store.failures import clear_failure
from byolsim.store.files import check_place, exists, is_complete, read_info, save
from byolsim.store.names import run_path
from byolsim.store.tracking import log_run

Progress = Callable[[int], None]
"""Is told, now and then, how many more run-steps are done."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended.

    Attributes
    ----------
    status : `completed`, `diverged`, `skipped` (already there), `failed` with the reason, or `left` (the sweep stopped
        before it).
    transient : a failure for which the run is not to blame: a sweep that is started again tries it again.
    unwritable : the disk is full or the folder takes no files, so that no other run could be stored either.
    record : what was stored, if it was computed for a caller who waits for it (`Single`).
    """

    run_id: str
    path: Path
    status: str
    reason: str = ""
    clips: ClipCounts | None = None
    transient: bool = False
    unwritable: bool = False
    record: RunRecord | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Failure:
    """A run that could not be computed, in place of its record; `transient` where the run is not to blame."""

    config: RunConfig
    reason: str
    transient: bool = False


def failure_of(config: RunConfig, error: Exception, transient: bool = False) -> Failure:
    """What is kept of an error: not the error itself, which holds on to the memory of its group."""
    return Failure(config, one_line(error), transient)


@dataclass(frozen=True)
class Writer:
    """Where the runs of a sweep go.

    Attributes
    ----------
    shared : other sweeps may fill the folder at the same time: runs in hand are claimed.
    """

    out_dir: Path
    force: bool = False
    log_wandb: bool = False
    shared: ClassVar[bool] = True

    def path(self, config: RunConfig) -> Path:
        """The file of a run."""
        return run_path(self.out_dir, config)

    def failure(self, config: RunConfig, error: Exception, transient: bool = False) -> Failure:
        """What becomes of an error in the training of a run."""
        return failure_of(config, error, transient)

    def there(self, config: RunConfig) -> Outcome | None:
        """How a run ended whose complete file is there, written by this sweep or by another one."""
        path = self.path(config)
        if self.force or not is_complete(path, config):  # under force it may be what was to be replaced
            return None
        return Outcome(config.run_id, path, read_info(path).status)

    def check_place(self, config: RunConfig) -> None:
        """`UserError` where a file stands in the place of a run that is not to be replaced unasked."""
        if not self.force:
            check_place(self.path(config), config)

    def occupied(self, config: RunConfig) -> Outcome | None:
        """The failure of a run in whose place an intact file of another one stands; nothing is computed for it."""
        try:
            self.check_place(config)
        except UserError as error:
            return Outcome(config.run_id, self.path(config), "failed", str(error), transient=True)
        return None

    def store(self, results: Iterable[RunRecord | Failure]) -> list[Outcome]:
        """Write what `compute` gave, one outcome each; a file that another process wrote meanwhile is not touched."""
        return [self._store(result) for result in results]

    def written(self, group: Sequence[RunConfig], outcomes: Any) -> list[Outcome]:
        """What a worker elsewhere says that it wrote: believed of a run whose file is here, whole."""
        said = {outcome.run_id: outcome for outcome in outcomes if isinstance(outcome, Outcome)}
        return [self._written(config, said.get(config.run_id)) for config in group]

    def _written(self, config: RunConfig, said: Outcome | None) -> Outcome:
        path = self.path(config)
        if said is not None and (said.status == "failed" or is_complete(path, config)):
            return said
        reason = "the worker says nothing of this run" if said is None else "the worker's file is not in this folder"
        return Outcome(config.run_id, path, "failed", reason, transient=True)

    def _store(self, result: RunRecord | Failure) -> Outcome:
        config, path = result.config, self.path(result.config)
        if isinstance(result, Failure):
            return Outcome(config.run_id, path, "failed", result.reason, transient=result.transient)
        try:
            self._write(result)
        except DiskFull as error:
            return Outcome(config.run_id, path, "failed", str(error), transient=True, unwritable=True)
        except UserError as error:  # the folder is to blame, or what stands in the place of the file
            unwritable = not self._takes_files()
            return Outcome(config.run_id, path, "failed", str(error), transient=True, unwritable=unwritable)
        except Exception as error:  # whatever it is, it costs this run alone
            return Outcome(config.run_id, path, "failed", one_line(error))
        return self._written_here(result)

    def _write(self, record: RunRecord) -> None:
        if self.force or not is_complete(self.path(record.config), record.config):
            self.check_place(record.config)
            save(record, self.path(record.config))

    def _written_here(self, record: RunRecord) -> Outcome:
        """What is to be done once the file of a run is safe."""
        config = record.config
        clear_failure(self.out_dir, config)
        if self.log_wandb:
            log_run(record, self.out_dir)
        return Outcome(config.run_id, self.path(config), record.status, clips=record.clips)

    def _takes_files(self) -> bool:
        """Whether a file can be made in the folder."""
        try:
            probe(self.out_dir)
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Single(Writer):
    """Where one run goes that a caller waits for, under a name of its own if it has one.

    The caller gets the record, and hears of what goes wrong: it is raised, and not recorded.
    """

    run_name: str | None = None
    shared: ClassVar[bool] = False

    def path(self, config: RunConfig) -> Path:
        """The file of the run."""
        return run_path(self.out_dir, config, self.run_name)

    def check_place(self, config: RunConfig) -> None:
        """As for a sweep; what has the name that was asked for is not replaced either if it is damaged."""
        path = self.path(config)
        if self.run_name is not None and not self.force and exists(path) and not is_complete(path, config):
            raise UserError(f"{path} is there and is another run's: choose another run_name, or --force to replace it")
        super().check_place(config)

    def occupied(self, config: RunConfig) -> None:
        """Raise what is in the way."""
        self.check_place(config)

    def failure(self, config: RunConfig, error: Exception, transient: bool = False) -> NoReturn:
        """Raise it."""
        if isinstance(error, GroupTooLarge):
            raise UserError(f"{error}: lower batch_size, d_obs or hidden") from error
        raise error

    def _store(self, result: RunRecord | Failure) -> Outcome:
        assert isinstance(result, RunRecord)  # a failure was raised
        self._write(result)
        return replace(self._written_here(result), record=result)


def compute(
    group: Sequence[RunConfig],
    progress: Progress,
    failure: Callable[[RunConfig, Exception, bool], Failure] = failure_of,
    elsewhere: bool = False,
) -> Iterator[list[RunRecord | Failure]]:
    """Train a group: its records, or one failure a run; in parts where the device's memory does not hold it whole.

    Parameters
    ----------
    failure : what becomes of an error: run, error, and whether the run is not to blame -> failure.
    elsewhere : this machine may be another one than that of the plan: whether it can run them is asked again.
    """
    train = simulate_runs if elsewhere else simulate_group
    try:
        with one_blas_thread():
            results: list[RunRecord | Failure] = list(train(group, lambda epochs: progress(epochs * len(group))))
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
        yield from compute(part, progress, failure, elsewhere)


def compute_and_store(
    group: Sequence[RunConfig], writer: Writer, progress: Progress, elsewhere: bool = False
) -> list[Outcome]:
    """Train a group and write its files."""
    parts = compute(group, progress, writer.failure, elsewhere)
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
    """Whether a record has all columns, of one length."""
    if isinstance(result, Failure):
        return True
    return set(result.columns) == set(METRICS) and {len(v) for v in result.columns.values()} == {len(result.epochs)}


def unfailing(progress: Progress) -> Progress:
    """`progress`, which may be anybody's, as it must be in the middle of a run: after its first error it is left alone.

    Where that cannot be said either (standard error is closed), nothing is said.
    """
    asked = True

    def tell(run_steps: int) -> None:
        nonlocal asked
        if not asked:
            return
        try:
            progress(run_steps)
        except Exception as error:
            asked = False
            with contextlib.suppress(Exception):
                warnings.warn(f"progress is not shown any more ({one_line(error)})", stacklevel=2)

    return tell


def one_line(error: BaseException) -> str:
    """An error as the reason of a failure."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")
    return (text.splitlines() or [""])[0]
