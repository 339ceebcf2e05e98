"""What is done for one group of a sweep: compute its records, and write them. Whoever does it, wherever."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byolsim.backends.base import GroupTooLarge
from byolsim.config.run import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.machine.interrupts import raise_again
from byolsim.machine.threads import one_blas_thread
from byolsim.machine.whole import probe
from byolsim.model.metrics import METRICS
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_runs
from byolsim.store.failures import clear_failure
from byolsim.store.files import check_place, is_complete, read_info, save
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
    """

    run_id: str
    path: Path
    status: str
    reason: str = ""
    clips: ClipCounts | None = None
    transient: bool = False
    unwritable: bool = False


@dataclass(frozen=True)
class Failure:
    """A run that could not be computed, in place of its record; `transient` where the run is not to blame."""

    config: RunConfig
    reason: str
    transient: bool = False


@dataclass(frozen=True)
class Writer:
    """Where the runs of a sweep go."""

    out_dir: Path
    force: bool = False
    log_wandb: bool = False

    def path(self, config: RunConfig) -> Path:
        """The file of a run."""
        return run_path(self.out_dir, config)

    def there(self, config: RunConfig) -> Outcome | None:
        """How a run ended whose complete file is there, written by this sweep or by another one."""
        path = self.path(config)
        if self.force or not is_complete(path, config):  # under force it may be what was to be replaced
            return None
        return Outcome(config.run_id, path, read_info(path).status)

    def occupied(self, config: RunConfig) -> Outcome | None:
        """The failure of a run in whose place an intact file of another one stands; nothing is computed for it."""
        try:
            if not self.force:
                check_place(self.path(config), config)
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
            if self.force:
                save(result, path)
            elif not is_complete(path, config):
                check_place(path, config)
                save(result, path)
        except DiskFull as error:
            return Outcome(config.run_id, path, "failed", str(error), transient=True, unwritable=True)
        except UserError as error:  # the folder is to blame, or what stands in the place of the file
            unwritable = not self._takes_files()
            return Outcome(config.run_id, path, "failed", str(error), transient=True, unwritable=unwritable)
        except Exception as error:  # whatever it is, it costs this run alone
            return Outcome(config.run_id, path, "failed", one_line(error))
        clear_failure(self.out_dir, config)
        if self.log_wandb:
            log_run(result, self.out_dir)
        return Outcome(config.run_id, path, result.status, clips=result.clips)

    def _takes_files(self) -> bool:
        """Whether a file can be made in the folder."""
        try:
            probe(self.out_dir)
        except OSError:
            return False
        return True


def compute(group: Sequence[RunConfig], progress: Progress) -> Iterator[list[RunRecord | Failure]]:
    """Train a group: its records, or one failure a run; in parts where the device's memory does not hold it whole."""
    try:
        with one_blas_thread():
            results: list[RunRecord | Failure] = list(
                simulate_runs(group, lambda epochs: progress(epochs * len(group)))
            )
    except GroupTooLarge as error:
        results = [Failure(group[0], one_line(error))] if len(group) == 1 else []
    except MemoryError as error:  # others may have held it: another day there is room
        results = [Failure(config, one_line(error), transient=True) for config in group]
    except Exception as error:  # whatever it is, it costs this group alone
        raise_again()
        results = [Failure(config, one_line(error)) for config in group]
    if results:
        yield results
        return
    # Outside of the handler, which holds on to the memory of the group that was too large.
    half = len(group) // 2
    for part in (group[:half], group[half:]):
        yield from compute(part, progress)


def compute_and_store(group: Sequence[RunConfig], writer: Writer, progress: Progress) -> list[Outcome]:
    """Train a group and write its files."""
    return [outcome for results in compute(group, progress) for outcome in writer.store(results)]


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
