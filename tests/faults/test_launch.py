"""Sweeps: nothing finished is recomputed, failures are data, and the rest goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
from cases import small

from byolsim import simulate
from byolsim.cli import progress
from byolsim.cli.progress import PlainLines
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.errors import DiskFull, UserError
from byolsim.machine.doing import doing, now
from byolsim.machine.temporary import clear_leftovers, temporary_path
from byolsim.store.failures import clear_failure, failure_path
from byolsim.store.files import is_complete
from byolsim.store.names import run_path
from byolsim.sweeps import compute, dispatch, grid, launch, plan
from byolsim.sweeps import writer as writing
from byolsim.sweeps.meter import Meter
from byolsim.sweeps.pools import processes

GRID: dict[str, Any] = {
    "d_latent": 2, "d_obs": 4, "latent_spectrum": "flat:1", "epochs": 8, "log_every": 4, "seeds": (1, 2),
    "batch_sizes": (3,), "lr_pred_logspace": (1e-3, 1e-2, 2), "tau_logspace": (1e-2, 1e-1, 2),
}  # fmt: skip


@pytest.fixture
def config():
    return SweepConfig(**GRID)


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_only_what_is_missing_is_computed(config, tmp_path):
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 12
    first = stamps(tmp_path)
    victim, damaged = sorted(tmp_path.iterdir())[:2]
    victim.unlink()
    damaged.write_bytes(damaged.read_bytes()[:100])
    result = launch.sweep(config, tmp_path, workers=1)
    assert (result.count("completed"), result.count("skipped")) == (2, 10)
    second = stamps(tmp_path)
    assert {name for name in first if first[name] == second[name]} == set(first) - {victim.name, damaged.name}
    assert launch.sweep(config, tmp_path, workers=1, force=True).count("completed") == 12
    assert all(stamp > first[name] for name, stamp in stamps(tmp_path).items())


def test_a_larger_grid_reuses_the_smaller_one(config, tmp_path):
    launch.sweep(config, tmp_path, workers=1)
    larger = SweepConfig(**(GRID | {"lr_pred_logspace": (1e-4, 1e-2, 3)}))
    result = launch.sweep(larger, tmp_path, workers=1)
    assert (result.count("completed"), result.count("skipped")) == (4, 12)


def test_a_group_that_fails_is_recorded_and_the_rest_goes_on(config, tmp_path, monkeypatch):
    simulate = compute.simulate_group

    def fails_for_seed_1(group, progress, **options):
        if group[0].seed == 1:
            raise ArithmeticError("what nobody foresaw")
        return simulate(group, progress, **options)

    monkeypatch.setattr(compute, "simulate_group", fails_for_seed_1)
    result = launch.sweep(config, tmp_path, workers=1)
    assert (result.count("completed"), result.count("failed")) == (6, 6)
    failed = [run for run in expand(config) if run.seed == 1]
    for run in failed:
        record = json.loads(failure_path(tmp_path, run).read_text())
        assert record["run_id"] == run.run_id
        assert record["reason"] == "ArithmeticError: what nobody foresaw"
        assert RunConfig(**record["config"]).run_id == run.run_id
    monkeypatch.setattr(compute, "simulate_group", simulate)
    again = launch.sweep(config, tmp_path, workers=1)
    assert (again.count("skipped"), again.count("failed")) == (6, 6), "what failed is reported, and not tried again"
    assert {outcome.reason for outcome in again.outcomes if outcome.status == "failed"} == {record["reason"]}
    assert launch.sweep(config, tmp_path, workers=1, retry_failed=True).count("completed") == 6
    assert not list(tmp_path.rglob("*failed*")), "a success clears the record of the failure"


def test_a_want_of_memory_is_no_fault_of_the_run(config, tmp_path, monkeypatch):
    def full(group, progress, **options):
        raise MemoryError("Unable to allocate 1 TiB")

    with monkeypatch.context() as patch:
        patch.setattr(compute, "simulate_group", full)
        assert launch.sweep(config, tmp_path, workers=1).count("failed") == 12
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 12, "all are tried again"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file"), RuntimeError])
def test_progress_that_cannot_be_shown_costs_nothing(config, tmp_path, workers, error):
    calls = []

    def progress(run_steps):
        calls.append(run_steps)
        raise error

    with pytest.warns(UserWarning, match="progress is not shown any more"):
        result = launch.sweep(config, tmp_path, workers=workers, progress=progress)
    assert (result.count("completed"), len(calls)) == (12, 1), "it is not asked again"
    with pytest.warns(UserWarning, match="progress is not shown any more"):
        assert launch.run(small(), tmp_path, progress=progress)[1] is not None


def test_nor_does_a_warning_that_cannot_be_shown(config, tmp_path, monkeypatch):
    """Standard error is a closed pipe: neither the progress nor the reason why it ends can be printed."""

    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(warnings, "showwarning", broken)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert launch.sweep(config, tmp_path, workers=1, progress=broken).count("completed") == 12


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_is_removed_in_the_middle_of_a_sweep_is_not_counted(config, tmp_path, monkeypatch, whole):
    """After the last group one file, or the whole folder, is gone."""
    folder = tmp_path / "runs"
    dispatched = dispatch.Dispatch.run

    def then_remove(self, groups):
        dispatched(self, groups)
        shutil.rmtree(folder) if whole else next(folder.glob("*.parquet")).unlink()

    monkeypatch.setattr(dispatch.Dispatch, "run", then_remove)
    result = launch.sweep(config, folder, workers=1)
    lost = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    assert (len(lost), result.count("completed")) == ((12, 0) if whole else (1, 11))
    assert {outcome.reason for outcome in lost} == {"its file was removed while the sweep ran"}


def unwritable(config, monkeypatch, error):
    """The file of one run cannot be written."""
    save = writing.save

    def fails_for_one(record, path):
        if record.config == expand(config)[3]:
            raise error
        return save(record, path)

    monkeypatch.setattr(writing, "save", fails_for_one)
    return save


def test_a_file_that_cannot_be_written_fails_its_run_only(config, tmp_path, monkeypatch):
    unwritable(config, monkeypatch, UserError("cannot write x: Input/output error"))
    result = launch.sweep(config, tmp_path, workers=1)
    (failed,) = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    assert failed.reason == "cannot write x: Input/output error"
    assert result.count("completed") == 11
    assert not result.stopped
    assert json.loads(failure_path(tmp_path, expand(config)[3]).read_text())["transient"], "the run is not to blame"


def test_a_folder_that_takes_no_files_any_more_stops_the_sweep(config, tmp_path, monkeypatch):
    unwritable(config, monkeypatch, UserError("cannot write x: Read-only file system"))
    monkeypatch.setattr(writing, "probe", lambda folder: (folder / "gone" / "x.tmp").touch())
    monkeypatch.setattr(plan, "tasks", lambda runs, workers, limit: grid._groups(runs))  # the group of the run first
    result = launch.sweep(config, tmp_path, workers=1)
    assert result.stopped == "cannot write x: Read-only file system"
    assert result.count("left") == 6


@pytest.mark.parametrize("text", ["[]", "null", "1", '"x"', "{", "[" * 100_000, '{"transient": 1}'])
def test_a_damaged_record_of_a_failure_is_none(config, tmp_path, text):
    launch.sweep(config, tmp_path, workers=1)
    failure = failure_path(tmp_path, expand(config)[0])
    failure.parent.mkdir()
    failure.write_text(text)
    next(tmp_path.glob("*.parquet")).unlink()
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 1


def test_a_full_disk_stops_the_sweep_and_a_restart_goes_on(config, tmp_path, monkeypatch):
    save = unwritable(config, monkeypatch, DiskFull("cannot write x: No space left on device"))
    monkeypatch.setattr(plan, "tasks", lambda runs, workers, limit: grid._groups(runs))  # the group of the run first
    result = launch.sweep(config, tmp_path, workers=1)
    counts = [result.count(status) for status in ("completed", "failed", "left")]
    assert counts == [5, 1, 6], "the rest of the group is written, the other group not begun"
    assert result.stopped == "cannot write x: No space left on device"
    assert json.loads(failure_path(tmp_path, expand(config)[3]).read_text())["transient"]
    monkeypatch.setattr(writing, "save", save)
    again = launch.sweep(config, tmp_path, workers=1)
    assert (again.count("skipped"), again.count("completed")) == (5, 7), "the run is not to blame: it is tried again"
    assert not list(tmp_path.rglob("*failed*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_fail_fast_stops_at_the_first_failure(tmp_path, workers):
    """A configuration that no worker can compute: with fail_fast it stops a sweep whose other groups take minutes."""
    config = SweepConfig(**(GRID | {"seeds": tuple(range(1, 9)), "epochs": 10**9, "log_every": 10**8}))
    runs = expand(config)
    short = [RunConfig(**(run.model_dump() | {"epochs": 8, "log_every": 4})) for run in runs if run.seed == 1]
    bad = short[0].model_copy(update={"latent_spectrum": "none"})  # never valid: passes no check
    endless = [[run] for run in runs if run.seed > 1]
    groups = [short[1:], *endless[: workers - 1], [bad], *endless[workers - 1 :]]
    planned = plan.Plan(tmp_path, config, [run for group in groups for run in group], groups, {}, workers)
    result = launch.carry_out(planned, fail_fast=True)
    failed = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    assert [outcome.run_id for outcome in failed] == [bad.run_id]
    assert failure_path(tmp_path, bad).exists()
    assert result.stopped == f"run {bad.run_id} failed"
    assert result.count("completed") == 5, "what is finished is kept"
    assert result.count("left") == 42
    assert len(list(tmp_path.glob("*.parquet"))) == 5
    assert not multiprocessing.active_children()


def test_after_a_death_what_is_stored_counts_and_the_rest_is_halved(config, tmp_path):
    group = tuple(run for run in expand(config) if run.seed == 1)
    launch.run(group[0], tmp_path)
    writer = writing.Writer(tmp_path)
    stored, again = dispatch.after_death(dispatch.Task(group), writer)
    assert [outcome.status for outcome in stored] == ["completed"]
    assert [task.group for task in again] == [group[1:4], group[4:]]
    assert all(task.retried for task in again)
    replacing = writing.Writer(tmp_path, force=True)
    assert dispatch.after_death(dispatch.Task(group), replacing)[0] == [], "what is there was to be replaced"
    single = dispatch.Task(group[1:2])
    outcomes, (once_more,) = dispatch.after_death(single, writer)
    assert outcomes == []
    (failed,), none = dispatch.after_death(once_more, writer)
    assert none == []
    assert (failed.status, failed.run_id) == ("failed", group[1].run_id)
    assert "killed again" in failed.reason


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    """SIGKILL of one of two workers in the middle of its group: everything is computed all the same."""
    grid = SweepConfig(**(GRID | {"epochs": 60_000, "log_every": 20_000}))
    killed, steps = [], []

    def kill_one_worker(run_steps):
        steps.append(run_steps)
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    result = launch.sweep(grid, tmp_path, workers=2, progress=kill_one_worker)
    assert killed
    assert (result.count("completed"), result.count("failed")) == (12, 0)
    assert len(list(tmp_path.iterdir())) == 12
    assert sum(steps) == 12 * 60_000, "what is done again is not counted again"
    assert min(steps) > 0


def test_a_worker_that_dies_while_it_is_idle_is_replaced(config, tmp_path):
    with processes.Processes(1, writing.Writer(tmp_path)) as pool:
        (slot,) = pool.slots
        slot.process.kill()
        slot.process.join()
        group = expand(config)[:2]
        outcomes = pool.outcomes(group, pool.submit(group, lambda run_steps: None))
        assert [outcome.status for outcome in outcomes] == ["completed", "completed"]
    assert not multiprocessing.active_children()


def test_old_temporary_files_are_removed(tmp_path):
    """Those of a process that has ended, and those of another machine an hour later; never those of a live process."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_path(tmp_path)
    _, machine, pid, token = mine.name.split("-")
    assert pid == str(os.getpid())
    orphan = tmp_path / f".byolsim-{machine}-{ended.pid}-{token}"
    elsewhere = tmp_path / f".byolsim-{'0' * 8}-{ended.pid}-{token}"
    old = tmp_path / f".byolsim-{'1' * 8}-{ended.pid}-{token}"
    foreign = tmp_path / ".editor.tmp"
    for path in (mine, orphan, elsewhere, old, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))
    launch.check_writable(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name, foreign.name}


def test_the_temporary_file_of_a_process_that_nobody_waited_for_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number is still taken
    _, machine, _, token = temporary_path(tmp_path).name.split("-")
    (tmp_path / f".byolsim-{machine}-{ended.pid}-{token}").touch()
    clear_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    ended.wait()


def test_a_script_without_the_main_guard_gets_one_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from byolsim import SweepConfig, sweep\n"
        "sweep(SweepConfig(d_latent=2, d_obs=4, latent_spectrum='flat:1', epochs=5), 'out', workers=2)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "byolsim.errors.UserError: worker processes cannot start" in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_run_says_whether_it_computed(tmp_path):
    path, record = launch.run(small(), tmp_path)
    assert path == run_path(tmp_path, small())
    assert record is not None
    assert is_complete(path, small())
    again, nothing = launch.run(small(), tmp_path)
    assert (again, nothing) == (path, None)
    clear_failure(tmp_path, small())  # no failure to forget: nothing happens


def test_a_damaged_file_with_the_runs_own_name_is_replaced(tmp_path):
    path, _ = launch.run(small(), tmp_path)
    path.write_bytes(b"PAR1")
    assert launch.run(small(), tmp_path)[1] is not None
    assert is_complete(path, small())


def test_bad_sweeps_write_nothing(config, tmp_path):
    with pytest.raises(UserError, match="device = 'cuda' belongs to backend"):
        launch.sweep(SweepConfig(**(GRID | {"backend": "numba", "device": "cuda"})), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_progress_reaches_the_total(config, tmp_path):
    for workers in (1, 2):
        steps: list[int] = []
        launch.sweep(config, tmp_path / str(workers), workers=workers, progress=steps.append)
        assert sum(steps) == 12 * 8


def test_what_is_done_twice_is_counted_once():
    """A group of 100 steps tells of 60 and is lost with its worker; one of its halves had been stored."""
    said: list[int] = []
    meter = Meter(said.append)
    other, group = meter.part(100), meter.part(100)
    group(60)
    group.end(50)
    again = meter.part(50)
    again(10)
    assert said == [60], "it has to catch up first"
    again(50)
    other(10)
    assert said == [60, 40, 10]
    again.end(50)
    other.end(100)
    assert sum(said) == 200


def test_plain_progress_is_one_line_per_30_seconds(capsys):
    now = [0.0]
    advance = PlainLines("byolsim sweep", 1000, lambda: now[0]).advance
    for second in range(0, 95, 5):
        now[0] = float(second)
        advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "byolsim sweep: 7% of 1,000 steps, 399 s left"


def test_a_single_long_step_shows_life(capsys):
    now = [0.0]
    lines = PlainLines("byolsim run", 1, lambda: now[0])
    with doing("making the world"), doing("metrics of 2 logged epochs"):
        for second in range(70):
            now[0] = float(second)
            lines.tick()
    assert capsys.readouterr().err.splitlines() == [
        "byolsim run: 0% of 1 steps, 30 s so far: metrics of 2 logged epochs",
        "byolsim run: 0% of 1 steps, 60 s so far: metrics of 2 logged epochs",
    ]


def test_it_is_said_without_being_told_of_steps(capsys, monkeypatch):
    """The library does not call while it computes a step: a thread looks at the clock."""
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "TICK_S", 0.001)
    said = threading.Event()
    monkeypatch.setattr(progress.PlainLines, "tick", lambda lines: said.set())
    with progress.progress_bar("byolsim run", 1):
        assert said.wait(60)


def test_a_simulation_says_what_it_is_at(monkeypatch):
    seen = []
    measured = simulate._measured
    monkeypatch.setattr(simulate, "_measured", lambda *block: (seen.append(now()), measured(*block))[1])
    simulate.simulate_runs([small()])
    assert seen == ["metrics of 7 logged epochs"]
    assert now() == ""
