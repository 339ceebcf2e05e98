"""Where the runs of a sweep go: their files, and what is done once a file is safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from byolsim.backends.base import GroupTooLarge
from byolsim.config.run import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.machine.whole import probe
from byolsim.model.start import Start
from byolsim.record import RunRecord
from byolsim.store.failures import clear_failure
from byolsim.store.files import check_place, exists, is_complete, read_info, save
from byolsim.store.names import run_path
from byolsim.store.states import save_state
from byolsim.store.tracking import log_run
from byolsim.sweeps.outcome import Failure, Outcome, failure_of, one_line


@dataclass(frozen=True)
class Writer:
    """Where the runs of a sweep go.

    Attributes
    ----------
    save_state : whether where a run ended is written too.
    initial : where the runs start, if that is not where their configurations say.
    shared : other sweeps may fill the folder at the same time: runs in hand are claimed.
    """

    out_dir: Path
    force: bool = False
    log_wandb: bool = False
    save_state: bool = False
    initial: Start | None = None
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
            if self.save_state and record.final is not None:  # first: a run that is there has its state
                save_state(record.final, self.path(record.config))
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
