"""The map over the groups of a sweep: each is handed to a pool, and what came of it is kept at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from byolsim.config import RunConfig
from byolsim.failures import save_failure
from byolsim.pools import Pool, PoolBroken, WorkerDied
from byolsim.work import Outcome, Writer, one_line

REPORT_S = 0.2
"""Seconds between reports of progress."""


@dataclass(frozen=True)
class Task:
    """A group, and whether a worker already died of it."""

    group: tuple[RunConfig, ...]
    retried: bool = False


@dataclass
class Dispatch:
    """Hands groups to a pool until all are done or the sweep has to stop.

    A worker that dies costs its own group: what was stored counts, the rest is tried again in halves, and a run whose
    worker dies again when it is tried by itself has failed. Nothing is submitted any more once the folder takes no
    files, the pool is broken or, with `fail_fast`, a run failed; `stopped` then says why.
    """

    pool: Pool
    writer: Writer
    fail_fast: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: str = ""
    _waiting: deque[Task] = field(default_factory=deque)
    _busy: dict[Future[Any], Task] = field(default_factory=dict)

    def run(self, groups: Sequence[Sequence[RunConfig]]) -> None:
        """Do the groups, in this order; fills `outcomes` and `stopped`."""
        self._waiting.extend(Task(tuple(group)) for group in groups)
        while self._busy or (self._waiting and not self.stopped):
            while self._may_submit():
                self._submit(self._waiting.popleft())
            finished, _ = wait(self._busy, timeout=REPORT_S, return_when=FIRST_COMPLETED)
            self.pool.report()
            for future in finished:
                self._collect(self._busy.pop(future), future)
            if self.stopped and self.fail_fast:
                self._end()
        self.pool.report()

    def _end(self) -> None:
        """End what is in hand; what was finished or stored is kept."""
        for future in [future for future in self._busy if future.done()]:
            self._collect(self._busy.pop(future), future)
        self.pool.end()
        for task in self._busy.values():
            self.outcomes += filter(None, map(self.writer.there, task.group))
        self._busy.clear()

    def _may_submit(self) -> bool:
        """Whether a task waits and the pool has room for it."""
        try:
            return bool(self._waiting) and not self.stopped and len(self._busy) < self.pool.size
        except PoolBroken as error:
            self.stopped = str(error)
            return False

    def _submit(self, task: Task) -> None:
        """Hand over what another process has not finished meanwhile."""
        group = task.group
        if not self.writer.force:
            found = [self.writer.there(config) for config in group]
            self.outcomes += [replace(outcome, status="skipped") for outcome in found if outcome]
            group = tuple(config for config, outcome in zip(group, found, strict=True) if not outcome)
            occupied = list(filter(None, map(self.writer.occupied, group)))
            self._add(task, occupied)
            taken = {outcome.run_id for outcome in occupied}
            group = tuple(config for config in group if config.run_id not in taken)
        if not group:
            return
        task = replace(task, group=group)
        try:
            self._busy[self.pool.submit(group)] = task
        except PoolBroken as error:
            self._fail(task, str(error))
            self.stopped = str(error)

    def _collect(self, task: Task, future: Future[Any]) -> None:
        """Keep what came of a task."""
        try:
            self._add(task, self.pool.outcomes(task.group, future))
        except WorkerDied:
            outcomes, again = after_death(task, self.writer)
            self._add(task, outcomes)
            self._waiting.extendleft(again)
        except PoolBroken as error:
            self._fail(task, str(error))
            self.stopped = self.stopped or str(error)
        except Exception as error:  # the way to the worker and back: the group could not be sent, or not its results
            self._fail(task, one_line(error))

    def _fail(self, task: Task, reason: str) -> None:
        """The runs of a task failed through no fault of theirs."""
        outcomes = [
            self.writer.there(config)
            or Outcome(config.run_id, self.writer.path(config), "failed", reason, transient=True)
            for config in task.group
        ]
        self._add(task, outcomes)

    def _add(self, task: Task, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes of a task, record the failures, and see whether the sweep goes on."""
        self.outcomes += outcomes
        failed = {outcome.run_id: outcome for outcome in outcomes if outcome.status == "failed"}
        for config in task.group if failed else ():
            outcome = failed.get(config.run_id)
            if outcome is None:
                continue
            save_failure(self.writer.out_dir, config, outcome.reason, outcome.transient)
            if outcome.unwritable:
                self.stopped = self.stopped or outcome.reason
            elif self.fail_fast:
                self.stopped = self.stopped or f"run {outcome.run_id} failed"


def after_death(task: Task, writer: Writer) -> tuple[list[Outcome], list[Task]]:
    """What the task of a dead worker had stored, and what is to be tried again."""
    found = [writer.there(config) for config in task.group]
    stored = [outcome for outcome in found if outcome]
    rest = [config for config, outcome in zip(task.group, found, strict=True) if not outcome]
    if len(rest) == 1 and task.retried:
        reason = "its worker process was killed again when it was tried by itself (out of memory?)"
        return [*stored, Outcome(rest[0].run_id, writer.path(rest[0]), "failed", reason)], []
    half = -(-len(rest) // 2)
    return stored, [Task(tuple(part), retried=True) for part in (rest[:half], rest[half:]) if part]
