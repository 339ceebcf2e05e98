"""What a sweep will cost on this machine: a few steps of each kind of group are timed, and the rest is arithmetic."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from byolsim.backends.base import GroupTooLarge, group_operations
from byolsim.config.run import RunConfig
from byolsim.machine.cores import available_cores
from byolsim.model.rows import logged_rows, row_bytes
from byolsim.simulate import group_key, simulate_group, warm_up
from byolsim.store.columns import encode
from byolsim.sweeps.plan import Plan

BUDGET_S = 1.5
"""Seconds of timing in all, shared by the kinds of groups."""

SHORTEST_S = 0.05


@dataclass(frozen=True)
class Trial:
    """A short run of a group: seconds that it takes to begin and a step, and the size and rows of one of its files."""

    group: Sequence[RunConfig]
    begin_s: float
    step_s: float
    file_bytes: int
    file_rows: int

    def seconds(self, group: Sequence[RunConfig]) -> float:
        """Of another group of this kind, on one core; its size enters by the count of operations."""
        return self.begin_s + self.step_s * group[0].epochs * relative_cost(group, self.group)

    def bytes(self, config: RunConfig) -> int:
        """Of the file of a run of this kind that does not diverge."""
        # of a file's rows the metrics, the lists and the epoch hardly compress; what is constant takes next to nothing
        return self.file_bytes + row_bytes(config) * (logged_rows(config) - self.file_rows)


@dataclass(frozen=True)
class Cost:
    """Of the groups of one kind, or of all."""

    runs: int
    groups: int
    run_steps: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """The groups by their batch size, with the seconds of one core; and in all, with the seconds of the workers."""

    by_batch_size: dict[int, Cost]
    total: Cost


def estimate(plan: Plan, measure: Callable[[Sequence[RunConfig], float], Trial] | None = None) -> Estimate:
    """What `plan` costs if no run diverges. Nothing is written.

    The total time is that of groups that are handed to the workers in order, as many at a time as this machine has
    cores; the start of processes and compilation are not counted.
    """
    kinds: dict[object, list[Sequence[RunConfig]]] = {}
    for group in plan.todo:
        kinds.setdefault(_kind(group), []).append(group)
    trials = {
        kind: (measure or time_group)(max(groups, key=len), BUDGET_S / len(kinds)) for kind, groups in kinds.items()
    }
    seconds = [trials[_kind(group)].seconds(group) for group in plan.todo]
    by_size: dict[int, Cost] = {}
    for kind, groups in sorted(kinds.items(), key=lambda item: item[1][0][0].batch_size):
        by_size[groups[0][0].batch_size] = _cost(groups, trials[kind], sum(map(trials[kind].seconds, groups)))
    costs = by_size.values()
    total = Cost(
        runs=sum(cost.runs for cost in costs),
        groups=len(plan.todo),
        run_steps=plan.run_steps,
        seconds=makespan(seconds, min(max(plan.workers, 1), available_cores())),
        bytes=sum(cost.bytes for cost in costs),
    )
    return Estimate(by_size, total)


def _cost(groups: Sequence[Sequence[RunConfig]], trial: Trial, seconds: float) -> Cost:
    count, run = sum(map(len, groups)), groups[0][0]  # the runs of a kind have their epochs and rows in common
    return Cost(count, len(groups), count * run.epochs, seconds, count * trial.bytes(run))


def time_group(group: Sequence[RunConfig], budget_s: float) -> Trial:
    """Time longer and longer starts of a group until one of them takes about the budget."""
    warm_up(group[0])
    first = last = (0, 0.0)
    epochs = 1
    while True:
        begin = time.perf_counter()
        try:
            records = simulate_group([run.model_copy(update={"epochs": epochs}) for run in group], lambda epochs: None)
        except GroupTooLarge:
            if len(group) == 1:
                raise
            group = group[: len(group) // 2]
            continue
        last = (epochs, time.perf_counter() - begin)
        first = first if first[0] else last
        if last[1] > max(budget_s, SHORTEST_S) / 2 or epochs == group[0].epochs:
            break
        epochs = min(4 * epochs, group[0].epochs)
    slope = (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
    step_s = slope if slope > 0 else last[1] / last[0]
    record = max(records, key=lambda record: len(record.epochs))
    return Trial(group, max(0.0, last[1] - step_s * last[0]), step_s, len(encode(record)), len(record.epochs))


def relative_cost(group: Sequence[RunConfig], other: Sequence[RunConfig]) -> float:
    """Operations of a step of one group over those of a step of another."""
    return group_operations(group) / group[0].epochs / (group_operations(other) / other[0].epochs)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of tasks is done that are handed, in order, to whichever worker is free first."""
    free = [0.0] * workers
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def _kind(group: Sequence[RunConfig]) -> object:
    """What makes the steps of two groups cost the same: all that they have in common but the seed."""
    return tuple(item for item in group_key(group[0]) if item[0] != "seed")
