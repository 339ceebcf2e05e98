"""Microseconds per run-step of the default sweep's groups, beside a torch autograd loop, in one process run.

    python benchmarks/run_steps.py

Draws are included on both sides, metrics on neither: the kernel logs its order parameters at the sweep's own epochs.
The numba backend trains one group of 20 runs on one core, then two groups at once on two threads (the kernels release
the GIL), as two workers of a sweep do. Each figure is the best of 5.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from threadpoolctl import threadpool_limits
from torch_loop import microseconds_per_step

from byolsim.backends import get_backend
from byolsim.config import RunConfig, SweepConfig
from byolsim.grid import expand, tasks
from byolsim.world import World

EPOCHS = 1000
REPEATS = 5


def main() -> None:
    """Print the table."""
    rows = []
    for n in (32, 64):
        config = SweepConfig(batch_sizes=(n,), epochs=EPOCHS)
        groups = tasks(expand(config), 1)
        with threadpool_limits(1):
            one = best(lambda groups=groups: train(groups[:1])) / (len(groups[0]) * EPOCHS)
            two = best(lambda groups=groups: train(groups)) / (sum(map(len, groups)) * EPOCHS)
        world = World.from_config(groups[0][0])
        loops = {t: microseconds_per_step(world.A, world.lam, world.sigma, n, threads=t) for t in (1, 2)}
        rows.append((n, 1e6 * one, 1e6 * two, loops))
    print("microseconds per run-step, float64, d = 100, r = 10, 20 runs a group, draws included")
    print(
        f"{'n':>4} {'numba, 1 core':>14} {'numba, 2 cores':>15} {'torch loop':>11} {'ratio, 1 core':>14} {'2 cores':>8}"
    )
    for n, one, two, loops in rows:
        loop = min(loops.values())
        print(f"{n:>4} {one:>14.1f} {two:>15.1f} {loop:>11.0f} {loop / one:>14.0f} {loop / two:>8.0f}")
    print("torch loop: the better of", ", ".join(f"{t} thread{'s' * (t > 1)}" for t in (1, 2)))


def train(groups: Sequence[Sequence[RunConfig]]) -> None:
    """Train groups at once, one thread each."""

    def one(group: Sequence[RunConfig]) -> None:
        backend = get_backend(group[0].backend)
        for _ in backend.simulate(World.from_config(group[0]), group, lambda epochs: None):
            pass

    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(one, groups))


def best(action) -> float:
    """Shortest of `REPEATS` runs in seconds, after one to compile."""
    action()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
