"""A sweep's configuration -> the configurations of its runs, and the groups that are trained together."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np

from byolsim.backends.base import RUNS_PER_GROUP
from byolsim.config.run import RunConfig, SweepConfig, round12
from byolsim.errors import UserError
from byolsim.simulate import group_key

MAX_SHARDS = 10**6
BALANCE = 1.1
"""How much more than the mean the costliest shard may cost before groups are cut."""


def logspace(start: float, stop: float, steps: int) -> list[float]:
    """`steps` values from start to stop, evenly spaced in log, rounded to 12 significant digits (1e-05 is 1e-05)."""
    return [round12(float(value)) for value in np.geomspace(start, stop, steps)]


def expand(sweep: SweepConfig) -> list[RunConfig]:
    """The runs of a grid: seeds x batch sizes x taus x rates, in that order (SPEC 8).

    Mode `auto` has beta from the schedule, and per tau one more run whose alpha follows it too where
    `auto_alpha_c` > 0. The other modes use no schedule.
    """
    shared = {name: value for name, value in sweep.model_dump().items() if name in RunConfig.model_fields}
    runs = []
    for seed, n, tau in product(sweep.seeds, sweep.batch_sizes, logspace(*sweep.tau_logspace)):
        point = shared | {"seed": seed, "batch_size": n, "tau": tau}
        runs += [RunConfig(**(point | rates)) for rates in _rates(sweep, tau)]
    return list(dict.fromkeys(runs))


def _rates(sweep: SweepConfig, tau: float) -> Iterator[dict[str, float]]:
    alphas = logspace(*sweep.lr_pred_logspace)
    if sweep.lr_enc_mode == "auto":
        for alpha in alphas:
            yield {"lr_pred": alpha, "auto_alpha_c": 0.0}
        if sweep.auto_alpha_c > 0:
            yield {}
        return
    for alpha in alphas:
        betas = {
            "same": [alpha],
            "ratio": [round12(sweep.enc_over_pred * alpha)],
            "from_tau": [round12(sweep.beta_from_tau_c * tau)],
            "logspace": logspace(*sweep.lr_enc_logspace),
        }[sweep.lr_enc_mode]
        for beta in betas:
            yield {"lr_pred": alpha, "auto_alpha_c": 0.0, "lr_enc": beta, "auto_beta_c": 0.0}


def tasks(runs: Sequence[RunConfig], workers: int, limit: int = RUNS_PER_GROUP) -> list[list[RunConfig]]:
    """Cut runs into groups that share a stream, the costly ones first, with at least one for every worker if possible.

    A group is split only where it has more than `limit` runs or where there are fewer groups than workers: its draws
    are then made once in each part. Groups of one cost come in random order, so that several sweeps that fill one
    folder meet late.
    """
    groups = _groups(runs)
    parts = -(-workers // len(groups)) if groups else 1
    pieces = []
    for group in groups:
        size = min(limit, -(-len(group) // parts))
        pieces += [group[i : i + size] for i in range(0, len(group), size)]
    random.SystemRandom().shuffle(pieces)
    return sorted(pieces, key=group_cost, reverse=True)


def shard_of(runs: Sequence[RunConfig], index: int, count: int) -> list[RunConfig]:
    """Part `index` = 0..count-1 of a grid: a function of the grid alone, and each run in one part.

    The parts cost about the same. Runs that share a stream stay together where the costliest part then is at most a
    tenth above the mean; else each group is cut in two, four, ... equal pieces, until that holds or nothing is gained.

    Raises
    ------
    UserError
        If there is no such part.
    """
    if type(index) is not int or type(count) is not int or not 0 <= index < count <= MAX_SHARDS:
        raise UserError(
            f"shard = {index}/{count} is not allowed: must be I/N, whole numbers with 0 <= I < N <= {MAX_SHARDS}"
        )
    groups = _groups(runs)
    mean = sum(map(group_cost, groups)) / count
    best: tuple[float, list[int]] = (math.inf, [])
    pieces: list[list[RunConfig]] = []
    parts = 1
    while best[0] > BALANCE * mean and parts < 2 * max(map(len, groups), default=1):
        cut = [piece for group in groups for piece in _cut(group, parts)]
        owners, largest = _spread(cut, count)
        if largest < best[0]:
            best, pieces = (largest, owners), cut
        parts *= 2
    chosen = {run for piece, owner in zip(pieces, best[1], strict=True) if owner == index for run in piece}
    return [run for run in runs if run in chosen]


def _cut(group: Sequence[RunConfig], parts: int) -> list[list[RunConfig]]:
    """At most `parts` pieces of a group, in order, whose sizes differ by one run at most."""
    bounds = [len(group) * k // parts for k in range(parts + 1)]
    return [list(group[a:b]) for a, b in pairwise(bounds) if a < b]


def _spread(pieces: Sequence[Sequence[RunConfig]], count: int) -> tuple[list[int], float]:
    """The part of each piece, the costliest pieces first to the part with the least so far; and the largest sum."""
    costs = [group_cost(piece) for piece in pieces]
    loads = [(0.0, part) for part in range(min(count, len(pieces)))]  # the parts after these get nothing
    owners = [0] * len(pieces)
    for k in sorted(range(len(pieces)), key=lambda k: -costs[k]):
        load, part = heapq.heappop(loads)
        owners[k] = part
        heapq.heappush(loads, (load + costs[k], part))
    return owners, max(loads, default=(0.0, 0))[0]


def group_cost(group: Sequence[RunConfig]) -> float:
    """Operations of a group's products and draws, with a share for what every step costs whatever its size."""
    config = group[0]
    n = 0 if config.sampler == "population" else config.batch_size
    d, r, h = config.d_obs, config.d_latent, config.hidden or 0
    fixed = {"torch": 2e6, "numpy": 3e6}.get(config.backend, 2e5)
    if config.sampler == "moments":  # neither form's cost grows with n, nor the reduced one's with d
        width = d if config.moments_form == "direct" else 4 * r
        per_run, draws = 18 * r**2 * width + 50 * r**3, 9 * r**2 + r * width
    else:
        per_run, draws = 6 * (h or r) * d * (n if h else min(n, d)), n * d
    return float(config.epochs) * (len(group) * (fixed + per_run) + 100 * draws)


def estimated_cost(runs: Sequence[RunConfig]) -> float:
    """Operations that runs need, the draws of each group once; an order of magnitude."""
    return sum(group_cost(group) for group in _groups(runs))


def _groups(runs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    groups: dict[object, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return list(groups.values())
