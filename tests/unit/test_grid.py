"""A grid is expanded point by point: the runs are those of the product, and a large one takes no memory to plan."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from byolsim.config import grid as config_grid
from byolsim.config.grid import Runs, SweepConfig, expand, grid_of, logspace
from byolsim.config.run import RunConfig
from byolsim.simulate import group_key, simulate_runs
from byolsim.sweeps import grid
from byolsim.sweeps.estimate import Trial, estimate
from byolsim.sweeps.grid import tasks
from byolsim.sweeps.launch import sweep
from byolsim.sweeps.plan import plan_sweep

GRID: dict[str, Any] = {
    "d_latent": 2, "d_obs": 4, "latent_spectrum": "flat:1", "epochs": 8, "seeds": (3, 1), "batch_sizes": (5, 2),
    "lr_pred_logspace": (1e-3, 1e-2, 3), "tau_logspace": (1e-2, 1e-1, 2), "lr_enc_logspace": (1e-4, 1e-2, 2),
}  # fmt: skip


def points(config):
    """Seed, batch size, tau, alpha and beta of each point, in the documented order; None for a scheduled rate."""
    alphas, betas = logspace(*config.lr_pred_logspace), logspace(*config.lr_enc_logspace)
    found = []
    for seed, n, tau in product(config.seeds, config.batch_sizes, logspace(*config.tau_logspace)):
        rates: dict[str, list[tuple[Any, Any]]] = {
            "same": [(a, a) for a in alphas],
            "ratio": [(a, float(f"{config.enc_over_pred * a:.12g}")) for a in alphas],
            "from_tau": [(a, float(f"{config.beta_from_tau_c * tau:.12g}")) for a in alphas],
            "logspace": list(product(alphas, betas)),
            "auto": [*((a, None) for a in alphas), *[(None, None)] * (config.auto_alpha_c > 0)],
        }
        found += [(seed, n, tau, *pair) for pair in rates[config.lr_enc_mode]]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("more", [{}, {"auto_alpha_c": 0.0}, {"lr_pred_logspace": (1e-2, 1e-2, 3)},
                                  {"tau_logspace": (0.1, 0.1, 2), "lr_enc_logspace": (1.0, 1.0, 2)}])  # fmt: skip
@pytest.mark.parametrize("mode", ["same", "ratio", "from_tau", "logspace", "auto"])
def test_the_runs_are_those_of_the_product(mode, more):
    """Also where a value of an axis is there several times."""
    config = SweepConfig(**(GRID | more), lr_enc_mode=mode)
    runs = expand(config)
    assert [(run.seed, run.batch_size, run.tau, run.lr_pred, run.lr_enc) for run in runs] == points(config)
    assert len({run.run_id for run in runs}) == len(runs)


def test_groups_are_found_without_looking_at_the_runs():
    lazy, plain = grid_of(SweepConfig(**GRID)), expand(SweepConfig(**GRID))
    assert lazy == plain
    some = lazy.chosen([0, 1, 9, 12, 30, 31])
    by_key = [list(group) for group in grid._groups(list(some))]
    assert [list(group) for group in some.streams()] == by_key
    for group in tasks(some, 2):
        assert isinstance(group, Runs)
        assert len({group_key(run) for run in group}) == 1


def test_a_large_grid_is_planned_from_one_run_a_group(tmp_path, monkeypatch):
    """100,000 points, of which a shard too: their configurations are counted, not made."""
    made = []
    monkeypatch.setattr(config_grid, "RunConfig", counting(made))
    options = {"lr_pred_logspace": (1e-5, 1e-2, 99), "tau_logspace": (1e-4, 1e-1, 50), "seeds": tuple(range(10))}
    config = SweepConfig(**(GRID | options))
    plan = plan_sweep(config, tmp_path, workers=2)
    cost = estimate(plan, lambda group, budget_s: Trial(group, 0.0, 1e-6, 10_000, 2)).total
    assert (len(plan.runs), cost.runs, cost.run_steps) == (100_000, 100_000, 800_000)
    assert cost.groups == len(plan.todo) == 20 * 79
    assert len(made) < 10_000
    shards = [plan_sweep(config, tmp_path, shard=(index, 3)).runs for index in range(3)]
    assert sorted(index for shard in shards for index in shard.indices) == list(range(100_000))


def counting(made):
    """`RunConfig` that notes what is made; its fields are looked at as well."""

    class Counting:
        model_fields = RunConfig.model_fields

        def __new__(cls, **values):
            made.append(1)
            return RunConfig(**values)

    return Counting


def test_counts_are_exact_where_some_are_there(tmp_path):
    config = SweepConfig(**GRID)
    sweep(config, tmp_path, workers=1, shard=(0, 2))
    there = len(list(tmp_path.glob("*.parquet")))
    damaged = next(tmp_path.glob("*.parquet"))
    damaged.write_bytes(b"PAR1")
    plan = plan_sweep(config, tmp_path, workers=1)
    assert (len(plan.runs), sum(map(len, plan.todo))) == (32, 32 - there + 1)
    assert plan.run_steps == 8 * (32 - there + 1)
    assert plan.for_workers(7).run_steps == plan.run_steps


@pytest.mark.parametrize(("field", "value"), [("seed", 43), ("epochs", 9), ("dtype", "float32")])
def test_runs_that_cannot_be_one_group_are_told_apart_by_name(field, value):
    """Rates may differ, here in all three; the third run differs in a field that a group shares."""
    first = {"epochs": 8, "seed": 42, "dtype": "float64"}
    odd = RunConfig(**(first | {field: value}), lr_pred=1e-3)
    with pytest.raises(ValueError, match=f"must share .*: {field} = {first[field]!r} and {value!r}$"):
        simulate_runs([RunConfig(**first, lr_pred=0.1), RunConfig(**first, lr_pred=0.01), odd])
