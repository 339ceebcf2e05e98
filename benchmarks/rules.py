"""Microseconds per run-step by predictor rule, by loss and by depth of the encoder.

    python benchmarks/rules.py [--repeats 5] [--r 10] [--d 100] [--n 64]

Processor time of one thread, best of some rounds, in groups of 20 runs that share their draws, on minibatches and in
the reduced form of the moments sampler.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from tables import figure, table
from threadpoolctl import threadpool_limits
from timing import REPEATS, Contestant, costs_in_turns, train_one

from byolsim.config.run import RunConfig

RUNS = 20
STEPS = 300
SAMPLERS: dict[str, dict[str, Any]] = {
    "minibatch": {"sampler": "minibatch"},
    "reduced": {"sampler": "moments", "moments_form": "reduced"},
}
START: dict[str, Any] = {"init": "modes", "init_scale": 0.3}
"""Features whose largest variance is near the largest gain, so that a P that is set from them is stable at once."""
METHODS: dict[str, dict[str, Any]] = {
    "learned": {},
    "learned, symmetric": {"pred_symmetric": True},
    "learned, straight": {"pred_jacobian": "straight"},
    "identity": {"pred_rule": "identity"},
    "directcopy": {"pred_rule": "directcopy"},
    "directpred": {"pred_rule": "directpred"},
    "directpred every 10": {"pred_rule": "directpred", "pred_every": 10},
    "directpred of BBT": {"pred_rule": "directpred", "pred_corr": "BBT"},
    "optimal": {"pred_rule": "optimal"},
    "no stop-gradient": {"stop_grad": False, "tau": 1.0},
    "symmetric loss": {"symmetric_loss": True},
    "warm-up, cosines": {"warmup": 10, "lr_schedule": "cosine", "ema_schedule": "cosine"},
    "depth 2": {"enc_depth": 2},
    "depth 4": {"enc_depth": 4},
}


def group(sampler: str, method: str, shape: dict[str, int], steps: int) -> list[RunConfig]:
    """Runs that differ in their rates."""
    options = SAMPLERS[sampler] | METHODS[method] | shape
    fixed: dict[str, Any] = {"lr_pred": 1e-3} if "pred_rule" not in options else {}
    fixed |= {"epochs": steps, "log_every": steps} | START
    return [RunConfig(**options, **fixed, lr_enc=1e-4 * (1 + run / RUNS)) for run in range(RUNS)]


def contestant(sampler: str, method: str, shape: dict[str, int]) -> Contestant | None:
    """A group, compiled and warm; what comes before the first step is timed beside it. None where there is no such."""
    if sampler == "reduced" and method in ("no stop-gradient", "symmetric loss"):
        return None
    train_one(group(sampler, method, shape, 20))
    start = 10 if method == "warm-up, cosines" else 1
    return Contestant(
        method,
        "1",
        RUNS * (STEPS - start),
        partial(train_one, group(sampler, method, shape, STEPS)),
        partial(train_one, group(sampler, method, shape, start)),
    )


def report(repeats: int, shape: dict[str, int]) -> str:
    """Measure, and return the table."""
    cells = [contestant(sampler, method, shape) for method in METHODS for sampler in SAMPLERS]
    costs = iter(costs_in_turns([cell for cell in cells if cell], repeats))
    texts = [figure(next(costs).cpu if cell else None) for cell in cells]
    width = len(SAMPLERS)
    rows = [[method, *texts[i * width : (i + 1) * width]] for i, method in enumerate(METHODS)]
    return table(["", *SAMPLERS], rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds, of which the best counts")
    for name, default in (("r", 10), ("d", 100), ("n", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    shape = {"d_latent": options.r, "d_obs": options.d, "batch_size": options.n}
    with threadpool_limits(1, user_api="blas"):
        print(report(options.repeats, shape))


if __name__ == "__main__":
    main()
