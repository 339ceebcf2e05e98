"""The ways to train that `speed.py` compares, compiled and warm, each as a `timing.Contestant`."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy.linalg import blas
from threadpoolctl import threadpool_limits
from timing import Contestant, run_steps, seconds, train

from byolsim.backends import get_backend
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.sweeps.grid import tasks

SAMPLERS: dict[str, dict[str, Any]] = {
    "minibatch, float64": {"sampler": "minibatch"},
    "minibatch, float32": {"sampler": "minibatch", "dtype": "float32"},
    "moments, direct": {"sampler": "moments", "moments_form": "direct"},
    "moments, reduced": {"sampler": "moments", "moments_form": "reduced"},
    "population": {"sampler": "population"},
}
"""The rows of the package itself."""

RUNS = 20
PRODUCT_SIZE = 512
PRODUCTS = 10


def sweep_groups(options: Mapping[str, Any], n: int, d: int, steps: int) -> list[Sequence[RunConfig]]:
    """Two of the default sweep's groups at another shape: `RUNS` runs each, one data stream each."""
    return tasks(expand(SweepConfig(**options, batch_sizes=(n,), d_obs=d, epochs=steps)), 1)


def is_offered(options: Mapping[str, Any], n: int, d: int) -> bool:
    """Whether the package runs a sampler at a shape."""
    try:
        config = sweep_groups(options, n, d, 1)[0][0]
        get_backend(config.backend).resolve(config)
    except (UserError, ValidationError):
        return False
    return True


def engine(name: str, options: Mapping[str, Any], n: int, d: int, steps: int, threads: int) -> Contestant:
    """The package: one group on one thread, or two groups at once on two, as two workers of a sweep train them.

    The kernels release the GIL, and BLAS has one thread. What comes before the first step is timed too and subtracted.
    """

    def trainer(steps: int) -> Any:
        groups = sweep_groups(options, n, d, steps)[:threads]

        def action() -> None:
            with threadpool_limits(1, user_api="blas"):
                train(groups, threads)

        return action

    trainer(2)()
    count = run_steps(sweep_groups(options, n, d, steps)[:threads]) - threads * RUNS
    return Contestant(name, "1" if threads == 1 else "2", count, trainer(steps), trainer(1))


def torch_loop(n: int, d: int, steps: int) -> Contestant:
    """One run as a torch autograd loop, at the better of 1 and 2 threads by a short trial."""
    import torch
    from torch_loop import training_step

    step = training_step(sweep_groups({}, n, d, 1)[0][0])

    def action(threads: int, count: int) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        for _ in range(count):
            step()
        torch.set_num_threads(before)

    trial = {}
    for threads in (1, 2):
        action(threads, 5)
        trial[threads] = min(seconds(partial(action, threads, max(5, steps // 30))) for _ in range(3))
    best = min(trial, key=trial.__getitem__)
    return Contestant("torch autograd loop, float64", f"{best}", steps, lambda: action(best, steps))


def jax_scan(n: int, d: int, steps: int, dtype: str, streams: int) -> Contestant:
    """The grid in JAX with fixed rates: `RUNS` runs, or two such grids at once."""
    from jax_scan import fastest

    sweep = SweepConfig(
        lr_enc_mode="same", lr_pred_logspace=(1e-5, 1e-2, 5), batch_sizes=(n,), d_obs=d, epochs=steps, seeds=(42,)
    )
    formulation, action = fastest(expand(sweep), dtype, streams, steps)
    twice = " twice at once" if streams == 2 else ""
    return Contestant(f"JAX {dtype}{twice} ({formulation})", "2", RUNS * steps * streams, action)


def large_products(dtype: str) -> Contestant:
    """`PRODUCTS` large matrix products on one thread of the BLAS that the kernels use; a product counts as a step."""
    rng = np.random.default_rng(0)
    a, b = (np.asfortranarray(rng.normal(size=(PRODUCT_SIZE, PRODUCT_SIZE)).astype(dtype)) for _ in range(2))
    out = np.zeros_like(a, order="F")
    product = blas.dgemm if dtype == "float64" else blas.sgemm

    def action() -> None:
        with threadpool_limits(1, user_api="blas"):
            for _ in range(PRODUCTS):
                product(1.0, a, b, c=out, overwrite_c=True)

    action()
    return Contestant(f"products, {dtype}", "1", PRODUCTS, action)


def operations_per_microsecond(microseconds: float) -> float:
    """Floating-point operations per microsecond, from the time of one of the `large_products`."""
    return 2 * PRODUCT_SIZE**3 / microseconds


def machine() -> str:
    """The processor, how busy it was in the last minute, and the versions that the figures depend on, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    names = ("numpy", "scipy", "numba", "jax", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    name = model[1] if model else platform.processor()
    return (
        f"{name}, {os.cpu_count()} cores, load before the start {load}; Python {platform.python_version()}, {versions}"
    )
