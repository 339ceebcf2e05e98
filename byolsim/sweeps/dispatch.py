"""The map over the groups of a sweep: each is handed to a pool, and what came of it is kept at once."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from byolsim.config.run import RunConfig
from byolsim.store.failures import save_failure
from byolsim.sweeps.claims import Claims
from byolsim.sweeps.meter import Meter, Part, Progress
from byolsim.sweeps.outcome import Outcome, one_line
from byolsim.sweeps.pools.base import Pool, PoolBroken, PoolLost, WorkerDied
from byolsim.sweeps.writer import Writer

REPORT_S = 0.2
"""Seconds between reports of progress."""

ASK_AGAIN_S = 1.0
"""Seconds until runs that another sweep has in hand are looked at again."""


@dataclass(frozen=True)
class Task:
    """A group, and whether a worker already died of it."""

    group: Sequence[RunConfig]
    retried: bool = False


@dataclass
class Dispatch:
    """Hands groups to a pool until all are done or the sweep has to stop.

    A worker that dies costs its own group: what was stored counts, the rest is tried again in halves, and a run whose
    worker dies again when it is tried by itself has failed. Nothing is submitted any more once the folder takes no
    files, the pool is broken or, with `fail_fast`, a run failed; `stopped` then says why.

    Runs that another sweep has in hand are left to it, and looked at again once nothing else is left: they are there
    then, or that sweep has ended and they are done here. Not with `force`, which makes every sweep do all.
    """

    pool: Pool
    writer: Writer
    fail_fast: bool = False
    progress: Progress = lambda run_steps: None
    outcomes: list[Outcome] = field(default_factory=list)
    stopped: str = ""
    _waiting: deque[Task] = field(default_factory=deque)
    _elsewhere: list[Task] = field(default_factory=list)
    _busy: dict[Future[Any], tuple[Task, Part]] = field(default_factory=dict)

    def run(self, groups: Sequence[Sequence[RunConfig]]) -> None:
        """Do the groups, in this order; fills `outcomes` and `stopped`."""
        self._meter, self._asked = Meter(self.progress), 0.0
        self._waiting.extend(Task(group) for group in groups)
        with self._claiming() as self._claims:
            while (not self.stopped and self._to_do()) or self._busy:
                while self._may_submit():
                    self._submit(self._waiting.popleft())
                for future in self._finished():
                    self._collect(future)
                if self.stopped and self.fail_fast:
                    self._end()
            self._report()

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[Claims | None]:
        if self.writer.force or not self.writer.shared:
            yield None
            return
        with Claims(self.writer.out_dir) as claims:
            yield claims

    def _to_do(self) -> bool:
        """Whether anything waits; what other sweeps have in hand is asked for when nothing else is left."""
        if not self._waiting and time.monotonic() - self._asked >= ASK_AGAIN_S:
            self._asked = time.monotonic()
            self._waiting.extend(self._elsewhere)
            self._elsewhere.clear()
        if not self._waiting and not self._busy and self._elsewhere:
            time.sleep(REPORT_S)
        return bool(self._waiting or self._elsewhere)

    def _finished(self) -> list[Future[Any]]:
        """Futures that are done, after a moment at most."""
        finished, _ = wait(self._busy, timeout=REPORT_S, return_when=FIRST_COMPLETED)
        self._report()
        return [future for future in finished if future in self._busy]

    def _report(self) -> None:
        """Pass on progress; a pool from which nothing comes back any more loses what it has in hand."""
        try:
            self.pool.report()
        except PoolLost as error:
            self.stopped = self.stopped or str(error)
            for task, part in self._busy.values():
                self._fail(task, str(error))
                part.end(0)
            self._busy.clear()
            self.pool.end()

    def _end(self) -> None:
        """End what is in hand; what was finished or stored is kept."""
        for future in [future for future in self._busy if future.done()]:
            self._collect(future)
        self.pool.end()
        for task, _ in self._busy.values():
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
        """Hand over what another process has neither in hand nor finished meanwhile."""
        group = self._free(task, self._mine(task))
        if not group:
            return
        task = replace(task, group=group)
        part = self._meter.part(sum(config.epochs for config in group))
        try:
            self._busy[self.pool.submit(group, part)] = task, part
        except PoolBroken as error:
            self._fail(task, str(error))
            part.end(0)
            self.stopped = str(error)

    def _mine(self, task: Task) -> tuple[RunConfig, ...]:
        """The runs of a task that are to be done here; first claimed, then looked for, so that none slips between."""
        claims = self._claims
        if claims is None:
            return tuple(task.group)
        claimed = [claims.take(config) for config in task.group]
        others = tuple(config for config, mine in zip(task.group, claimed, strict=True) if not mine)
        if others:
            self._elsewhere.append(replace(task, group=others))
        group = [config for config, mine in zip(task.group, claimed, strict=True) if mine]
        found = [self.writer.there(config) for config in group]
        for config, outcome in zip(group, found, strict=True):
            if outcome:
                self.outcomes.append(replace(outcome, status="skipped"))
                self._meter.part(config.epochs).end(config.epochs)
                claims.release(config)
        return tuple(config for config, outcome in zip(group, found, strict=True) if not outcome)

    def _free(self, task: Task, group: tuple[RunConfig, ...]) -> tuple[RunConfig, ...]:
        """Those in whose place no intact file of another run stands; the others have failed."""
        occupied = list(filter(None, map(self.writer.occupied, group)))
        self._add(task, occupied)
        taken = {outcome.run_id for outcome in occupied}
        for config in group:
            if config.run_id in taken:
                self._meter.part(config.epochs).end(config.epochs)
        return tuple(config for config in group if config.run_id not in taken)

    def _collect(self, future: Future[Any]) -> None:
        """Keep what came of a task."""
        task, part = self._busy.pop(future)
        again: list[Task] = []
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
        undone = {config.run_id for one in again for config in one.group}
        part.end(sum(config.epochs for config in task.group if config.run_id not in undone))

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
        ended = {outcome.run_id: outcome for outcome in outcomes}
        for config in task.group:
            outcome = ended.get(config.run_id)
            if outcome is not None and outcome.status == "failed":
                self._failed(config, outcome)
            if outcome is not None and self._claims is not None:
                self._claims.release(config)

    def _failed(self, config: RunConfig, outcome: Outcome) -> None:
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
