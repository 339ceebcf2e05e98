"""What is done for one group of a sweep: compute its records, and write them. Whoever does it, wherever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from byolsim.backends.base import GroupTooLarge
from byolsim.config import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.failures import clear_failure
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_runs
from byolsim.store import check_place, is_complete, read_info, run_path, save
from byolsim.temporary import temporary_path
from byolsim.threads import one_blas_thread
from byolsim.tracking import log_run

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
    """A run that could not be computed, in place of its record."""

    config: RunConfig
    reason: str


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

    def _store(self, result: RunRecord | Failure) -> Outcome:
        config, path = result.config, self.path(result.config)
        if isinstance(result, Failure):
            return Outcome(config.run_id, path, "failed", result.reason)
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
            log_run(result)
        return Outcome(config.run_id, path, result.status, clips=result.clips)

    def _takes_files(self) -> bool:
        """Whether a file can be made in the folder."""
        probe = temporary_path(self.out_dir)
        try:
            probe.touch()
            probe.unlink()
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
    except Exception as error:  # whatever it is, it costs this group alone
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


def one_line(error: BaseException) -> str:
    """An error as the reason of a failure."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")
    return (text.splitlines() or [""])[0]
