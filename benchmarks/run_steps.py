"""Microseconds per run-step of the default sweep's groups, beside a torch autograd loop, in one process run.

    python benchmarks/run_steps.py

Draws are included on both sides, metrics on neither: the kernel logs its order parameters at the sweep's own epochs.
The numba backend trains one group of 20 runs on one core, then two groups at once on two threads (the kernels release
the GIL), as two workers of a sweep do. Each figure is the best of 5.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits
from timing import best_seconds, run_steps, train
from torch_loop import microseconds_per_step

from byolsim.config import SweepConfig
from byolsim.grid import expand, tasks


def main() -> None:
    """Print the table."""
    print("microseconds per run-step, float64, d = 100, r = 10, 20 runs a group, draws included")
    print(
        f"{'n':>4} {'numba, 1 core':>14} {'numba, 2 cores':>15} {'torch loop':>11} {'ratio, 1 core':>14} {'2 cores':>8}"
    )
    for n in (32, 64):
        groups = tasks(expand(SweepConfig(batch_sizes=(n,), epochs=1000)), 1)
        with threadpool_limits(1):
            one = 1e6 * best_seconds(lambda groups=groups: train(groups[:1], 1)) / run_steps(groups[:1])
            two = 1e6 * best_seconds(lambda groups=groups: train(groups, 2)) / run_steps(groups)
        loop = min(microseconds_per_step(groups[0][0], threads=threads) for threads in (1, 2))
        print(f"{n:>4} {one:>14.1f} {two:>15.1f} {loop:>11.0f} {loop / one:>14.0f} {loop / two:>8.0f}")
    print("torch loop: the better of 1 and 2 threads")


if __name__ == "__main__":
    main()
