"""What the benchmark programs share: the groups of a sweep, trained and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from byolsim.backends import get_backend
from byolsim.config import RunConfig
from byolsim.world import World

REPEATS = 5


def train(groups: Sequence[Sequence[RunConfig]], threads: int) -> None:
    """Train groups, `threads` of them at once; order parameters are logged, metrics are not computed."""

    def one(group: Sequence[RunConfig]) -> None:
        backend = get_backend(group[0].backend)
        for _ in backend.simulate(World.from_config(group[0]), group, lambda epochs: None):
            pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, groups))


def train_one(group: Sequence[RunConfig]) -> None:
    """Train one group; for a pool of processes."""
    train([group], 1)


def best_seconds(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest of some runs, after one to compile and warm up."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def run_steps(groups: Sequence[Sequence[RunConfig]]) -> int:
    """Training steps, summed over runs."""
    return sum(config.epochs for group in groups for config in group)
