"""The memory of logged rows: refused before the start where it cannot fit, and groups cut so that it does."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from cases import byolsim, made_up, small

from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine import memory
from byolsim.machine.memory import available_memory
from byolsim.model import rows
from byolsim.model.rows import ROW_BYTES, check_rows, logged_rows
from byolsim.simulate import simulate_runs
from byolsim.store.columns import encoded
from byolsim.sweeps.plan import plan_sweep

GIB = 2**30


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("epochs", "every"), [(20, 10), (25, 10), (3, 7), (1, 1)])
def test_logged_rows(epochs, every):
    logged = [t for t in range(epochs + 1) if t % every == 0 or t == epochs]
    config = RunConfig(epochs=epochs, log_every=every)
    assert logged_rows(config) == len(logged)
    for end in range(epochs + 1):
        assert logged_rows(config, end) == len([t for t in logged if t < end])


@pytest.mark.parametrize("command", ["run", "run --dry_run", "sweep", "sweep --dry_run"])
def test_rows_that_memory_does_not_hold_are_refused_before_the_start(command, monkeypatch):
    monkeypatch.setattr(rows, "available_memory", lambda: 8 * GIB)
    code, out, err = byolsim(f"{command} --epochs 100000000 --log_every 1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "epochs = 100000000 and log_every = 1 make 100,000,001 rows a run" in err
    assert "raise log_every or lower epochs" in err
    assert os.listdir() == []  # noqa: PTH208


def test_the_default_sweep_is_not_refused_for_its_rows_on_a_small_machine(monkeypatch):
    """Whatever the libraries take there."""
    monkeypatch.setattr(rows, "available_memory", lambda: GIB // 4)
    plan = plan_sweep(SweepConfig(), "runs", workers=64)
    assert sum(map(len, plan.todo)) == 80


def test_groups_are_cut_where_their_rows_would_not_fit(monkeypatch):
    """300,000 rows a run in 1.5 GB, which held groups of 20 runs: 0.9 GB a process, twice over."""
    monkeypatch.setattr(rows, "available_memory", lambda: 1_500_000_000)
    config = SweepConfig(epochs=300_000, log_every=1)
    plan = plan_sweep(config, "runs", workers=2)
    largest = max(map(len, plan.todo))
    assert 1 < largest <= rows.GROUP_BYTES // (ROW_BYTES * 300_001)
    assert sum(map(len, plan.todo)) == len(expand(config))
    with pytest.raises(UserError, match=r"in 8 processes.*, or fewer workers"):
        plan_sweep(config, "runs", workers=8)


def test_a_group_in_python_is_refused_too(monkeypatch):
    monkeypatch.setattr(rows, "available_memory", lambda: 2**20)
    with pytest.raises(UserError, match="make 100,001 rows a run"):
        simulate_runs([small(epochs=10**5, log_every=1)])


def test_a_run_that_logs_every_step_holds_its_rows_once():
    """The columns of a record are parts of one array a metric, and a file is not copied to be sealed."""
    first, second = simulate_runs([small(epochs=200, log_every=1), small(epochs=200, log_every=1, lr_pred=0.01)])
    for name, values in first.columns.items():
        assert values.base is second.columns[name].base and values.base.shape == (2, 201)
    parts = encoded(made_up())
    assert isinstance(parts[0], memoryview) and isinstance(parts[2], memoryview)
    assert parts[0].obj is parts[2].obj
    assert np.array_equal(first.epochs, np.arange(201))


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
def test_the_limits_of_control_groups(tmp_path):
    """Version 2, the name as it is or the host's; version 1; none."""
    root, proc = tmp_path / "cgroup", tmp_path / "self"
    (root / "a" / "b").mkdir(parents=True)
    (root / "memory" / "c").mkdir(parents=True)
    (root / "a" / "memory.max").write_text("5000\n")
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "memory.max").write_text("9000\n")
    (root / "memory" / "c" / "memory.limit_in_bytes").write_text("7000\n")
    for text, found in (
        ("0::/a/b\n", {5000, 9000}),
        ("0::/../elsewhere\n", {9000}),
        ("3:cpu:/x\n4:memory:/c\n", {7000}),
        ("", set()),
        ("nonsense\n", {9000}),
    ):
        proc.write_text(text)
        assert set(memory._group_limits(proc, root)) == found, text
    assert memory._group_limits(tmp_path / "none", root) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_the_limit_of_the_process_itself(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (12345, 12345))
    assert available_memory() == 12345
    check_rows([RunConfig(epochs=1)])
