"""Groups of 64, 1,024 and 4,096 runs on a CUDA device: parity first, then run-steps per second.

    python benchmarks/cuda.py [--device cuda] [--groups 64 1024 4096] [--epochs 300]

Linear and MLP models at the sweep's default shape (d = 100, r = 10, n = 64, hidden 64), float64 and float32, draws
included, logging at the last epoch only, best of 3. Beside each figure: the floating-point operations of the step's
products over the rate that the same device reaches on one large product (compute), the bytes that a step must move at
least over the rate of a large copy (copy), and the linear model on the numba backend with two CPU threads in the same
process run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from timing import best_seconds, run_steps, train

from byolsim.config.parsing import round12
from byolsim.config.run import RunConfig
from byolsim.simulate import simulate_runs

LINEAR = {"enc": "linear", "pred": "linear"}
MLP = {"enc": "mlp", "pred": "mlp"}


def main() -> None:
    """Check parity, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--groups", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--epochs", type=int, default=300)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure (--device cpu runs the program on the CPU)")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one thread"
    print(f"device: {name}; torch {torch.__version__}")
    check_parity(options.device)
    groups = [grid(LINEAR | {"backend": "numba"}, 20, options.epochs, seed=seed) for seed in (1, 2)]
    numba = run_steps(groups) / best_seconds(lambda: train(groups, 2), 3)
    print(f"numba, linear, float64, 2 CPU threads: {numba:,.0f} run-steps/s\n")
    print(f"{'model':>7} {'dtype':>8} {'runs':>6} {'run-steps/s':>12} {'to numba':>9} {'compute':>8} {'copy':>6}")
    for model, dtype in ((LINEAR, "float64"), (LINEAR, "float32"), (MLP, "float64"), (MLP, "float32")):
        limits = device_limits(options.device, getattr(torch, dtype))
        for runs in options.groups:
            group = grid(model | {"backend": "torch", "device": options.device, "dtype": dtype}, runs, options.epochs)
            rate = run_steps([group]) / best_seconds(partial(train, [group], 1), 3)
            flops, numbers = costs(group[0])
            size = 8 if dtype == "float64" else 4
            compute, copy = rate * flops / limits[0], rate * numbers * size / limits[1]
            share = f"{rate / numba:>9.1f} {compute:>8.0%} {copy:>6.0%}"
            print(f"{model['enc']:>7} {dtype:>8} {runs:>6} {rate:>12,.0f} {share}")


def grid(model: dict[str, Any], runs: int, epochs: int, seed: int = 1) -> list[RunConfig]:
    """Runs that share one data stream and differ in alpha and tau."""
    rates = np.geomspace(1e-5, 1e-2, runs)
    return [
        RunConfig(
            **model, seed=seed, lr_pred=round12(float(a)), lr_enc=1e-3, tau=round12(float(10 * a)), mom_pred=0.9,
            mom_enc=0.9, epochs=epochs, log_every=epochs,
        )
        for a in rates
    ]  # fmt: skip


def check_parity(device: str) -> None:
    """The linear model against numba and the MLP against torch on the CPU, 50 steps; exits if they differ."""
    for model, other in ((LINEAR, {"backend": "numba", "device": "cpu"}), (MLP, {"backend": "torch", "device": "cpu"})):
        here = simulate_runs(grid(model | {"backend": "torch", "device": device}, 8, 50))
        there = simulate_runs(grid(model | other, 8, 50))
        error = max(
            abs(a.columns["loss_pop"][-1] / b.columns["loss_pop"][-1] - 1) for a, b in zip(here, there, strict=True)
        )
        print(f"parity, {model['enc']}, loss_pop after 50 steps: largest relative difference {error:.1e}")
        if not error < 1e-8:
            sys.exit("parity fails: the timings would mean nothing")


def device_limits(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Floating-point operations per second of a large product, and bytes per second of a large copy."""
    size = 4096 if device == "cuda" else 1024
    M = torch.randn(size, size, device=device, dtype=dtype)
    large = torch.empty(2**26 if device == "cuda" else 2**23, device=device)
    target = torch.empty_like(large)
    product = _best(lambda: torch.mm(M, M), device)
    copy = _best(lambda: target.copy_(large), device)
    return 2 * size**3 / product, 2 * large.nbytes / copy


def _best(action: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def costs(config: RunConfig) -> tuple[float, float]:
    """Per run-step: operations of the products, and numbers read and written at least once (weights, V, target)."""
    d, r, n, h = config.d_obs, config.d_latent, config.batch_size, config.hidden or 0
    encoder, predictor = (fan_in * h + h * r if h else fan_in * r for fan_in in (d, r))
    # Forward of both encoders and the predictor; backward to every weight, and to every input but x.
    products = 2 * encoder + predictor + (encoder + predictor) + (encoder - d * (h or r)) + predictor
    return 2.0 * n * products, 2.0 * (3 * encoder + 2 * predictor)


if __name__ == "__main__":
    main()
