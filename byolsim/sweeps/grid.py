"""The runs of a grid -> the groups that are trained together, their cost, and the shards of a sweep."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import overload

from byolsim.backends.base import RUNS_PER_GROUP, group_operations
from byolsim.config.grid import Runs
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.simulate import group_key

MAX_SHARDS = 10**6
BALANCE = 1.1
"""How much more than the mean the costliest shard may cost before groups are cut."""


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
