"""Several sweeps of one grid in one folder share the work, and no dead or silent one stops another."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from byolsim.config.grid import SweepConfig, expand
from byolsim.simulate import warm_up
from byolsim.sweeps import claims, compute, launch
from byolsim.sweeps.claims import Claims
from byolsim.sweeps.plan import plan_sweep


@pytest.fixture
def config():
    """The default grid, whose 80 runs make 4 groups, at a hundredth of its epochs."""
    return SweepConfig(epochs=20)


@pytest.fixture
def computed(monkeypatch):
    """Ids of the runs that are computed in this process, each as often as it is."""
    ids = []
    simulate = compute.simulate_group

    def counting(group, progress, **options):
        ids.extend(config.run_id for config in group)
        return simulate(group, progress, **options)

    monkeypatch.setattr(compute, "simulate_group", counting)
    return ids


def test_two_sweeps_that_start_together_compute_each_run_once(config, tmp_path, computed):
    """Both look at the empty folder before either begins."""
    plans = [plan_sweep(config, tmp_path, workers=1) for _ in range(2)]
    assert [len(plan.todo) for plan in plans] == [4, 4]
    warm_up(plans[0].runs[0])
    results = []
    threads = [threading.Thread(target=lambda p=plan: results.append(launch.carry_out(p))) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == sorted(run.run_id for run in expand(config))
    assert sum(result.count("completed") for result in results) == 80
    assert [len(result.outcomes) for result in results] == [80, 80], "each says how every run ended"
    assert len(list(tmp_path.iterdir())) == 80, "no claim is left"


def test_what_another_sweep_finishes_is_counted_in_the_progress(config, tmp_path, monkeypatch):
    plan = plan_sweep(config, tmp_path, workers=1)
    launch.sweep(config, tmp_path, workers=1)
    steps: list[int] = []
    assert launch.carry_out(plan, progress=steps.append).count("skipped") == 80
    assert sum(steps) == plan.run_steps


def claim(folder, run, owner):
    """A claim as another sweep makes it."""
    (folder / claims.FOLDER).mkdir(exist_ok=True)
    path = folder / claims.FOLDER / owner
    path.write_text(owner)
    os.link(path, folder / claims.FOLDER / run.run_id)
    return path


def a_name(folder, **parts):
    """The name of a temporary file of this machine, of another process or machine."""
    _, machine, pid, token = claims.temporary_path(folder).name.split("-")
    named = {"machine": machine, "pid": pid, "token": token} | parts
    return ".byolsim-{machine}-{pid}-{token}".format(**named)


def test_a_killed_sweep_blocks_nobody(config, tmp_path, computed):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim(tmp_path, expand(config)[0], a_name(tmp_path, pid=ended.pid))
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 80
    assert len(list(tmp_path.iterdir())) == 80


def test_a_live_sweep_is_waited_for_until_it_ends_or_is_silent(config, tmp_path, monkeypatch):
    ours, other, third = expand(config)[:3]
    live = claim(tmp_path, other, a_name(tmp_path))
    with Claims(tmp_path) as mine:
        assert mine.take(ours)
        assert mine.take(ours), "its own claim stops no sweep"
        assert not mine.take(other)
        os.utime(live, (0, 0))
        assert not mine.take(other), "its stamp has changed: it lives, whatever its clock says"
        monkeypatch.setattr(claims, "SILENT_S", 0.0)
        assert mine.take(other), "no sign of life any more"
        mine.release(other)
        monkeypatch.setattr(claims, "SILENT_S", 60.0)
        far = claim(tmp_path, third, a_name(tmp_path, machine="0" * 8, pid=1, token=f"{'1' * 16}.tmp"))
        assert not mine.take(third), "of another machine nothing is known but its signs of life"
        far.unlink()
        (tmp_path / claims.FOLDER / third.run_id).unlink()
        assert mine.take(third)
    assert not (tmp_path / claims.FOLDER / ours.run_id).exists()


def test_without_links_all_is_computed(config, tmp_path, computed, monkeypatch):
    """A file system that has none, or a folder that takes no more entries."""

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 80


def test_force_computes_all_whoever_else_does(config, tmp_path, computed):
    for run in expand(config):
        claim(tmp_path, run, a_name(tmp_path))
    assert launch.sweep(config, tmp_path, workers=1, force=True).count("completed") == 80
