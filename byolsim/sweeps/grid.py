"""A sweep's configuration -> the configurations of its runs, and the groups that are trained together."""

from __future__ import annotations

import heapq
import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import overload

import numpy as np

from byolsim.backends.base import RUNS_PER_GROUP, group_operations
from byolsim.config.run import RunConfig, SweepConfig, round12
from byolsim.errors import UserError
from byolsim.simulate import group_key

MAX_SHARDS = 10**6
BALANCE = 1.1
"""How much more than the mean the costliest shard may cost before groups are cut."""


def logspace(start: float, stop: float, steps: int) -> list[float]:
    """`steps` values from start to stop, evenly spaced in log, rounded to 12 significant digits (1e-05 is 1e-05)."""
    return [round12(float(value)) for value in np.geomspace(start, stop, steps)]


class Runs(Sequence[RunConfig]):
    """Runs of a grid, in its order, each built when it is asked for: a million configurations take 3 GB.

    Attributes
    ----------
    make : the run of an index of the whole grid.
    per_stream : points of the grid that share a seed and a batch size, so a stream: they stand one after another.
    indices : of these runs in the whole grid.
    """

    def __init__(self, make: Callable[[int], RunConfig], per_stream: int, indices: Sequence[int]) -> None:
        self.make, self.per_stream, self.indices = make, per_stream, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, key: int) -> RunConfig: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | slice) -> RunConfig | Runs:
        """A run, or some of the runs."""
        if isinstance(key, slice):
            return Runs(self.make, self.per_stream, self.indices[key])
        return self.make(self.indices[key])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def chosen(self, indices: Iterable[int]) -> Runs:
        """Runs of the same grid by their indices in it."""
        return Runs(self.make, self.per_stream, array("q", indices))

    def streams(self) -> list[Sequence[RunConfig]]:
        """The runs that share a stream, for each stream."""
        bounds = [0]
        while bounds[-1] < len(self):
            end = (self.indices[bounds[-1]] // self.per_stream + 1) * self.per_stream
            bounds.append(bisect_left(self.indices, end, lo=bounds[-1]))
        return [self[a:b] for a, b in pairwise(bounds)]


def grid_of(sweep: SweepConfig, resolve: Callable[[RunConfig], RunConfig] = lambda config: config) -> Runs:
    """The runs of a grid: seeds x batch sizes x taus x rates, in that order, each once.

    Mode `auto` has beta from the schedule, and per tau one more run whose alpha follows it too where
    `auto_alpha_c` > 0. The other modes use no schedule. `resolve` is a backend's, applied to each run.
    """
    shared = {name: value for name, value in sweep.model_dump().items() if name in RunConfig.model_fields}
    taus = list(dict.fromkeys(logspace(*sweep.tau_logspace)))
    sizes, rates = sweep.batch_sizes, _Rates(sweep)

    @lru_cache(maxsize=1024)  # the first run of a group is asked for again and again
    def make(index: int) -> RunConfig:
        rest, rate = divmod(index, len(rates))
        rest, t = divmod(rest, len(taus))
        seed, n = divmod(rest, len(sizes))
        point = {"seed": sweep.seeds[seed], "batch_size": sizes[n], "tau": taus[t]}
        return resolve(RunConfig(**(shared | point | rates.at(rate, taus[t]))))

    per_stream = len(taus) * len(rates)
    return Runs(make, per_stream, range(len(sweep.seeds) * len(sizes) * per_stream))


class _Rates:
    """The rates of a grid at one tau, each pair once."""

    def __init__(self, sweep: SweepConfig) -> None:
        self.sweep = sweep
        self.alphas = list(dict.fromkeys(logspace(*sweep.lr_pred_logspace)))
        self.betas = list(dict.fromkeys(logspace(*sweep.lr_enc_logspace))) if sweep.lr_enc_mode == "logspace" else [0.0]

    def __len__(self) -> int:
        scheduled = self.sweep.lr_enc_mode == "auto" and self.sweep.auto_alpha_c > 0
        return len(self.alphas) * len(self.betas) + scheduled

    def at(self, index: int, tau: float) -> dict[str, float]:
        """What a point says of its rates; nothing where both follow the schedule."""
        mode = self.sweep.lr_enc_mode
        alpha_index, beta_index = divmod(index, len(self.betas))
        if alpha_index == len(self.alphas):
            return {}
        alpha = self.alphas[alpha_index]
        fixed = {"lr_pred": alpha, "auto_alpha_c": 0.0}
        if mode == "auto":
            return fixed
        beta = {
            "same": alpha,
            "ratio": round12(self.sweep.enc_over_pred * alpha),
            "from_tau": round12(self.sweep.beta_from_tau_c * tau),
            "logspace": self.betas[beta_index],
        }[mode]
        return fixed | {"lr_enc": beta, "auto_beta_c": 0.0}


def expand(sweep: SweepConfig) -> list[RunConfig]:
    """The runs of a grid, as a list."""
    return list(grid_of(sweep))


def joined(groups: Sequence[Sequence[RunConfig]]) -> Sequence[RunConfig]:
    """All runs of some groups of one grid."""
    first = groups[0] if groups else []
    if isinstance(first, Runs):
        return first.chosen(sorted(i for group in groups if isinstance(group, Runs) for i in group.indices))
    return [run for group in groups for run in group]


def tasks(runs: Sequence[RunConfig], workers: int, limit: int = RUNS_PER_GROUP) -> list[Sequence[RunConfig]]:
    """Cut runs into groups that share a stream, the costly ones first, with at least one for every worker if possible.

    A group is split only where it has more than `limit` runs or where there are fewer groups than workers: its draws
    are then made once in each part. Groups of one cost come in random order, so that several sweeps that fill one
    folder meet late.
    """
    groups = _groups(runs)
    parts = -(-workers // len(groups)) if groups else 1
    pieces: list[Sequence[RunConfig]] = []
    for group in groups:
        size = min(limit, -(-len(group) // parts))
        pieces += [group[i : i + size] for i in range(0, len(group), size)]
    random.SystemRandom().shuffle(pieces)
    return sorted(pieces, key=group_operations, reverse=True)


@overload
def shard_of(runs: Runs, index: int, count: int) -> Runs: ...
@overload
def shard_of(runs: list[RunConfig], index: int, count: int) -> list[RunConfig]: ...
def shard_of(runs: Runs | list[RunConfig], index: int, count: int) -> Runs | list[RunConfig]:
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
    mean = sum(map(group_operations, groups)) / count
    best: tuple[float, list[int]] = (math.inf, [])
    pieces: list[Sequence[RunConfig]] = []
    parts = 1
    while best[0] > BALANCE * mean and parts < 2 * max(map(len, groups), default=1):
        cut = [piece for group in groups for piece in _cut(group, parts)]
        owners, largest = _spread(cut, count)
        if largest < best[0]:
            best, pieces = (largest, owners), cut
        parts *= 2
    mine = [piece for piece, owner in zip(pieces, best[1], strict=True) if owner == index]
    if isinstance(runs, Runs):
        return runs.chosen(sorted(i for piece in mine if isinstance(piece, Runs) for i in piece.indices))
    chosen = {run for piece in mine for run in piece}
    return [run for run in runs if run in chosen]


def _cut(group: Sequence[RunConfig], parts: int) -> list[Sequence[RunConfig]]:
    """At most `parts` pieces of a group, in order, whose sizes differ by one run at most."""
    bounds = [len(group) * k // parts for k in range(parts + 1)] if parts < len(group) else range(len(group) + 1)
    return [group[a:b] for a, b in pairwise(bounds) if a < b]


def _spread(pieces: Sequence[Sequence[RunConfig]], count: int) -> tuple[list[int], float]:
    """The part of each piece, the costliest pieces first to the part with the least so far; and the largest sum."""
    costs = [group_operations(piece) for piece in pieces]
    loads = [(0.0, part) for part in range(min(count, len(pieces)))]  # the parts after these get nothing
    owners = [0] * len(pieces)
    for k in sorted(range(len(pieces)), key=lambda k: -costs[k]):
        load, part = heapq.heappop(loads)
        owners[k] = part
        heapq.heappush(loads, (load + costs[k], part))
    return owners, max(loads, default=(0.0, 0))[0]


def estimated_cost(runs: Sequence[RunConfig]) -> float:
    """Operations that runs need, the draws of each group once; an order of magnitude."""
    return sum(group_operations(group) for group in _groups(runs))


def _groups(runs: Sequence[RunConfig]) -> list[Sequence[RunConfig]]:
    if isinstance(runs, Runs):
        return runs.streams()
    groups: dict[object, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(group_key(run), []).append(run)
    return list(groups.values())
