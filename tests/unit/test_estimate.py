"""What a sweep would cost: the arithmetic is exact, the bytes are those of real files, the seconds are measured."""

from __future__ import annotations

from typing import Any

import pytest
from cases import one_run, small

from byolsim.config.grid import SweepConfig, expand
from byolsim.model.rows import logged_rows as rows
from byolsim.store.columns import encode
from byolsim.sweeps.estimate import Trial, estimate, makespan, time_group
from byolsim.sweeps.launch import sweep
from byolsim.sweeps.plan import plan_sweep

GRID: dict[str, Any] = {"d_latent": 2, "d_obs": 4, "latent_spectrum": "flat:1", "batch_sizes": (3, 7)}


@pytest.mark.parametrize(("epochs", "log_every"), [(1, 10), (40, 10), (41, 10), (7, 1), (3, 3)])
def test_rows_are_counted_as_they_are_logged(epochs, log_every):
    config = small(epochs=epochs, log_every=log_every)
    assert rows(config) == len(one_run(config).epochs)


def test_tasks_go_to_whoever_is_free_first():
    assert makespan([3, 2, 2, 1], 2) == 4
    assert makespan([3, 2, 2, 1], 1) == 8
    assert makespan([3, 2], 5) == 3


def test_the_arithmetic(tmp_path):
    """A second to begin and a millisecond a step for a group of 20."""
    config = SweepConfig(**GRID, epochs=1000, seeds=(1, 2, 3))
    plan = plan_sweep(config, tmp_path, workers=1)
    asked = []

    def measure(group, budget_s):
        asked.append((group[0].batch_size, len(group)))
        return Trial(group, begin_s=1.0, step_s=1e-3, file_bytes=20_000, file_rows=5)

    cost = estimate(plan, measure)
    assert sorted(asked) == [(3, 20), (7, 20)], "each kind is timed once, whatever the seeds"
    small_n, large_n = cost.by_batch_size[3], cost.by_batch_size[7]
    assert (small_n.runs, small_n.groups, small_n.run_steps) == (60, 3, 60_000)
    assert small_n.seconds == large_n.seconds == pytest.approx(3 * 2.0)
    assert (cost.total.runs, cost.total.groups, cost.total.run_steps) == (120, 6, 120_000)
    assert cost.total.seconds == pytest.approx(12.0)
    assert estimate(plan_sweep(config, tmp_path, workers=6), measure).total.seconds < 12.0 or _one_core()
    assert not list(tmp_path.iterdir())


def _one_core():
    from byolsim.machine.cores import available_cores

    return available_cores() == 1


@pytest.mark.parametrize(("epochs", "log_every"), [(300, 1), (2000, 10)])
def test_bytes_are_those_of_the_files(tmp_path, epochs, log_every):
    """Within 15 %: digits compress a little, and not equally in all columns."""
    config = SweepConfig(**GRID, epochs=epochs, log_every=log_every, seeds=(1,))
    expected = estimate(plan_sweep(config, tmp_path, workers=1)).total.bytes
    sweep(config, tmp_path, workers=1)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == pytest.approx(expected, rel=0.15)


def test_a_trial_is_a_short_start_of_the_group():
    group = expand(SweepConfig(**(GRID | {"epochs": 10**9, "log_every": 100, "seeds": (1,), "batch_sizes": (3,)})))
    trial = time_group(group, 0.0)
    assert trial.step_s > 0
    assert trial.begin_s >= 0
    assert 2 <= trial.file_rows < 10**5
    short = time_group(expand(SweepConfig(**(GRID | {"epochs": 1, "seeds": (1,), "batch_sizes": (3,)}))), 1.0)
    assert (short.file_rows, short.begin_s) == (2, 0.0), "no more than the whole run"
    assert short.file_bytes == pytest.approx(len(encode(one_run(short.group[0]))), rel=0.01)


def test_what_is_there_costs_nothing(tmp_path):
    config = SweepConfig(**GRID, epochs=3)
    sweep(config, tmp_path, workers=1)
    cost = estimate(plan_sweep(config, tmp_path)).total
    assert (cost.runs, cost.groups, cost.run_steps, cost.seconds, cost.bytes) == (0, 0, 0, 0.0, 0)
