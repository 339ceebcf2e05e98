"""Shards: a function of the grid alone; together the grid, each run once; balanced; streams kept together."""

from __future__ import annotations

import pytest

from byolsim.config.grid import SweepConfig, expand
from byolsim.errors import UserError
from byolsim.simulate import group_key
from byolsim.sweeps import grid
from byolsim.sweeps.grid import estimated_cost, shard_of
from byolsim.sweeps.launch import sweep
from byolsim.sweeps.plan import plan_sweep

GRIDS = {
    "default": {},
    "one-stream": {"seeds": (1,), "batch_sizes": (8,)},
    "many-streams": {"seeds": tuple(range(20)), "batch_sizes": (4, 64, 300)},
    "population": {"sampler": "population", "seeds": (1, 2, 3)},
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_each_run_is_in_one_shard(name, count):
    runs = expand(SweepConfig(**GRIDS[name]))
    shards = [shard_of(runs, index, count) for index in range(count)]
    assert sorted(run.run_id for shard in shards for run in shard) == sorted(run.run_id for run in runs)
    assert shards[0] == shard_of(list(runs), 0, count)


def streams(runs):
    return {group_key(run) for run in runs}


@pytest.mark.parametrize(("name", "count", "pieces"), [("default", 2, 4), ("many-streams", 7, 60), ("default", 4, 4)])
def test_streams_stay_together_where_balance_allows(name, count, pieces):
    """4 streams over two shards and 60 over seven: none is cut. 4 over four: their costs differ too much for that."""
    runs = expand(SweepConfig(**GRIDS[name]))
    shards = [shard_of(runs, index, count) for index in range(count)]
    cut = sum(len(streams(shard)) for shard in shards)
    assert cut == pieces if count != 4 else cut > pieces


@pytest.mark.parametrize(("name", "count"), [("default", 2), ("default", 3), ("many-streams", 7), ("population", 5)])
def test_shards_cost_about_the_same(name, count):
    """At most a tenth above the mean, where each shard has runs enough; draws that are made twice count twice."""
    runs = expand(SweepConfig(**GRIDS[name]))
    costs = [estimated_cost(shard_of(runs, index, count)) for index in range(count)]
    assert max(costs) <= 1.1 * estimated_cost(runs) / count


def test_shards_do_not_depend_on_what_is_there(tmp_path):
    config = SweepConfig(d_latent=2, d_obs=4, latent_spectrum="flat:1", epochs=4, lr_pred_logspace=(1e-3, 1e-2, 2))
    before = [plan_sweep(config, tmp_path, shard=(index, 3)).runs for index in range(3)]
    sweep(config, tmp_path, workers=1, shard=(1, 3))
    assert [plan_sweep(config, tmp_path, shard=(index, 3)).runs for index in range(3)] == before
    assert plan_sweep(config, tmp_path, shard=(1, 3)).todo == []


def test_more_shards_than_runs(tmp_path):
    """A job array may be larger than the grid: what has no run does nothing."""
    config = SweepConfig(seeds=(1,), batch_sizes=(2,), lr_pred_logspace=(1, 1, 1), tau_logspace=(0.1, 0.1, 1))
    sizes = [len(plan_sweep(config, tmp_path, shard=(index, 5)).runs) for index in range(5)]
    assert sorted(sizes) == [0, 0, 0, 1, 1]
    empty = sizes.index(0)
    assert sweep(config, tmp_path / "none", shard=(empty, 5)).outcomes == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard", [(3, 3), (-1, 2), (0, 10**9), (0.5, 2), (0, 2.0), (True, 2), ("0", "2")])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(UserError, match=r"shard = .*/.* is not allowed: must be I/N, whole numbers"):
        plan_sweep(SweepConfig(), shard=shard)


def test_many_shards_cost_no_more_than_there_are_runs(monkeypatch):
    """One part of a million, of a grid of 80 runs: no list of a million parts is made."""
    heaps = []
    pop = grid.heapq.heappop
    monkeypatch.setattr(grid.heapq, "heappop", lambda heap: (heaps.append(len(heap)), pop(heap))[1])
    assert shard_of(expand(SweepConfig()), 10**6 - 1, 10**6) == []
    assert max(heaps) <= 80


@pytest.mark.parametrize("workers", [-1, 0, 1.5, True, "2", 10**6])
def test_a_number_of_workers_that_is_none_is_refused(workers, tmp_path):
    with pytest.raises(UserError, match=r"workers = .* is not allowed: must be a whole number >= 1 and <= 4096"):
        sweep(SweepConfig(), tmp_path, workers=workers)
    assert not list(tmp_path.iterdir())
