"""Microseconds per run-step of the default 80-run grid with MLP encoder and predictor, batched and one run at a time.

    python benchmarks/mlp.py

Both in torch, in float64 on the CPU, in one run of this program: the torch backend's groups of 20 stacked runs, first
in this process and then in two worker processes of one thread each, as in a sweep, beside one autograd loop per run
(the better of 1 and 2 threads). Draws are included on both sides; logging is at the sweep's last epoch only. Each
figure is the best of 5, after a warm-up.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from timing import best_seconds, run_steps, train, train_one
from torch_loop import microseconds_per_step

from byolsim.config.grid import SweepConfig, expand
from byolsim.sweeps.grid import tasks

EPOCHS = 300


def main() -> None:
    """Print the table."""
    sweep = SweepConfig(enc="mlp", pred="mlp", device="cpu", epochs=EPOCHS, log_every=EPOCHS)
    groups = tasks(expand(sweep), 2)
    one = 1e6 * best_seconds(lambda: train(groups, 1)) / run_steps(groups)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        two = 1e6 * best_seconds(lambda: list(pool.map(train_one, groups))) / run_steps(groups)
    loops = {
        group[0].batch_size: min(microseconds_per_step(group[0], threads=threads) for threads in (1, 2))
        for group in groups
    }
    loop = sum(len(group) * loops[group[0].batch_size] for group in groups) / sum(map(len, groups))
    print(f"80 runs, MLP encoder and predictor, hidden 64, n = 32 and 64, d = 100: {len(groups)} groups")
    print(f"{'':>30} {'us per run-step':>16} {'ratio to the loop':>18}")
    for name, value in (("one autograd loop per run", loop), ("batched, 1 core", one), ("batched, 2 cores", two)):
        print(f"{name:>30} {value:>16.1f} {loop / value:>18.1f}")


if __name__ == "__main__":
    main()
