"""What the benchmark programs share: the groups of a sweep, trained and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from byolsim.backends import get_backend
from byolsim.config.run import RunConfig
from byolsim.model.world import World

REPEATS = 5


def train(groups: Sequence[Sequence[RunConfig]], threads: int) -> None:
    """Train groups, `threads` of them at once; order parameters are logged, metrics are not computed.

    Raises
    ------
    RuntimeError
        If a run diverges: its later steps are skipped, so the time would flatter.
    """

    def one(group: Sequence[RunConfig]) -> None:
        backend = get_backend(group[0].backend)
        for block in backend.simulate(World.from_config(group[0]), group, lambda epochs: None):
            if (block.diverged_epoch >= 0).any():
                raise RuntimeError(f"a run of the group diverged: {group[0]}")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, groups))


def train_one(group: Sequence[RunConfig]) -> None:
    """Train one group; for a pool of processes."""
    train([group], 1)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def best_seconds(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest of some runs, after one to compile and warm up."""
    action()
    return min(seconds(action) for _ in range(repeats))


def run_steps(groups: Sequence[Sequence[RunConfig]]) -> int:
    """Training steps, summed over runs."""
    return sum(config.epochs for group in groups for config in group)


@dataclass(frozen=True)
class Contestant:
    """One way to train, to be timed in turns with others.

    Attributes
    ----------
    cores : what it uses, in words.
    run_steps : training steps, summed over runs, of one call of `action`.
    action : trains.
    start : the part of `action` that is no step (world, initial weights), to be timed beside it and subtracted.
    """

    name: str
    cores: str
    run_steps: int
    action: Callable[[], object]
    start: Callable[[], object] | None = None


class Cost(NamedTuple):
    """Microseconds per run-step: wall time, and processor time of all threads together.

    On a busy machine the wall time of a thread grows and its processor time hardly does.
    """

    wall: float
    cpu: float


def costs_in_turns(contestants: Sequence[Contestant], repeats: int = REPEATS) -> list[Cost]:
    """Best cost of each, all of them once a round, so that a busy moment of the machine hits all alike.

    Each must be compiled and warm already. The best wall time and the best processor time are taken by themselves.
    """
    whole, start = ([(float("inf"), float("inf"))] * len(contestants) for _ in range(2))
    for _ in range(repeats):
        for i, contestant in enumerate(contestants):
            start[i] = _least(start[i], spent(contestant.start)) if contestant.start else (0.0, 0.0)
            whole[i] = _least(whole[i], spent(contestant.action))
    return [
        Cost(*(1e6 * (all_ - before) / contestant.run_steps for all_, before in zip(w, s, strict=True)))
        for w, s, contestant in zip(whole, start, contestants, strict=True)
    ]


def spent(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def _least(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return min(a[0], b[0]), min(a[1], b[1])
