"""The map over groups goes through any executor, with the same files; what breaks costs the runs concerned."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from cases import small

from byolsim.config.commands import ExecutorName
from byolsim.config.grid import SweepConfig, expand
from byolsim.errors import UserError
from byolsim.machine import code as versions
from byolsim.store.columns import schema
from byolsim.store.failures import failure_path
from byolsim.store.files import read_columns, read_info
from byolsim.sweeps import launch
from byolsim.sweeps.pools.base import Choice
from byolsim.sweeps.pools.catalogue import choice_of

GRID: dict[str, Any] = {
    "d_latent": 2, "d_obs": 4, "latent_spectrum": "flat:1", "epochs": 8, "log_every": 4, "seeds": (1, 2, 3),
    "batch_sizes": (3, 5), "lr_pred_logspace": (1e-3, 1e-2, 2), "tau_logspace": (1e-2, 1e-1, 2),
}  # fmt: skip


@pytest.fixture
def config():
    return SweepConfig(**GRID)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    launch.sweep(SweepConfig(**GRID), folder, workers=1)
    return contents(folder)


def contents(folder):
    return {path.name: read_columns(path, schema().names)[1] for path in folder.glob("*.parquet")}


def spawned(workers):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize(
    ("make", "workers_write"),
    [(ThreadPoolExecutor, False), (ThreadPoolExecutor, True), (spawned, False), (spawned, True)],
)
def test_an_executor_makes_the_same_files(config, reference, tmp_path, make, workers_write, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps: list[int] = []
    with make(2) as executor:
        result = launch.sweep(config, "runs", executor=executor, workers_write=workers_write, progress=steps.append)
        assert executor.submit(int, "3").result() == 3, "the executor stays its owner's"
    assert result.count("completed") == 36
    assert sum(steps) == 36 * 8
    assert contents(tmp_path / "runs") == reference


class Serial(Executor):
    """Runs what it is given at once; `fault` may raise in place of it."""

    _max_workers = 2

    def __init__(self, fault=lambda group: None):
        self.fault = fault

    def submit(self, function, group, *more):
        future: Future[Any] = Future()
        try:
            self.fault(group)
            future.set_result(function(group, *more))
        except (ValueError, UserError) as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("workers_write", [False, True])
@pytest.mark.parametrize("other", ["another version", "other sources"])
def test_a_worker_with_other_code_is_refused(config, tmp_path, other, workers_write):
    """Also one of the same version: a changed line may change numbers, and the id would not say so."""

    class Other(Serial):
        def submit(self, function, group, ids, code, *more):
            if other == "another version":
                return super().submit(function, group, ["0" * 12 for _ in ids], code, *more)
            return super().submit(function, group, ids, code.replace("sources ", "sources 0"), *more)

    result = launch.sweep(config, tmp_path, executor=Other(), workers_write=workers_write)
    assert result.stopped.startswith("a worker has byolsim ")
    assert "of the process that sent work: install the same one" in result.stopped
    assert (result.count("completed"), result.count("failed"), result.count("left")) == (0, 12, 24), (
        "what is in hand, and no more"
    )
    assert not list(tmp_path.glob("*.parquet"))
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 36, "no run is to blame"


def test_a_change_of_any_source_changes_its_name(tmp_path, monkeypatch):
    for folder in ("machine", "part"):
        (tmp_path / folder).mkdir()
    for name in ("machine/code.py", "part/b.py"):
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "machine" / "code.py"))
    name = versions.code_id.__wrapped__()
    assert versions.code_id.__wrapped__() == name
    (tmp_path / "part" / "b.py").write_text("a = 2\n")
    changed = versions.code_id.__wrapped__()
    (tmp_path / "part" / "b.py").write_text("a = 1\n")
    (tmp_path / "part" / "b.py").rename(tmp_path / "c.py")
    assert len({name, changed, versions.code_id.__wrapped__()}) == 3


def test_a_file_names_the_versions_of_the_process_that_computed(config, tmp_path):
    class Elsewhere(Serial):
        """Workers with another library."""

        def submit(self, *call):
            future = super().submit(*call)
            for record in future.result():
                object.__setattr__(record, "versions", {"numpy": "0.0.1"})
            return future

    launch.sweep(config, tmp_path, executor=Elsewhere())
    details = [read_info(path).details for path in tmp_path.glob("*.parquet")]
    assert {tuple(one["versions"].items()) for one in details} == {(("numpy", "0.0.1"),)}
    launch.run(small(), tmp_path / "here")
    (path,) = (tmp_path / "here").iterdir()
    assert read_info(path).details["versions"] == versions.versions()


def test_what_comes_back_must_be_what_was_sent(config, tmp_path):
    """Records of other runs, too few, without a column, or none at all: the runs failed, and are not to blame."""

    class Wrong(Serial):
        def submit(self, *call):
            future = super().submit(*call)
            records = future.result()
            seed, n = call[1][0].seed, call[1][0].batch_size
            if seed == 1:
                records[:] = [*records[1:], records[0]]
            elif (seed, n) == (2, 3):
                records.pop()
            elif (seed, n) == (2, 5):
                records[0] = replace(records[0], columns={"loss": records[0].columns["loss"]})
            elif (seed, n) == (3, 3):
                future = Future()
                future.set_result(None)
            return future

    result = launch.sweep(config, tmp_path, executor=Wrong())
    assert (result.count("completed"), result.count("failed")) == (5 + 6, 25)
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 25


def test_workers_that_write_elsewhere_are_found_out(config, tmp_path):
    class Elsewhere(Serial):
        def submit(self, function, group, ids, code, writer):
            return super().submit(function, group, ids, code, replace(writer, out_dir=tmp_path / "elsewhere"))

    result = launch.sweep(config, tmp_path / "here", executor=Elsewhere(), workers_write=True)
    assert result.count("failed") == 36
    assert {outcome.reason for outcome in result.outcomes} == {"the worker's file is not in this folder"}


class KilledWorker(ValueError):
    """As dask names it."""


class LikeDask(Serial):
    """With the client by which Dask's executors are known, and two workers."""

    _client = SimpleNamespace(
        sync=lambda question, callback_timeout: question(), scheduler=SimpleNamespace(ncores=lambda: "ab")
    )


def test_the_guilty_run_is_found_by_halves_and_recorded(config, reference, tmp_path):
    """Whatever group holds the guilty run, its worker is killed; all other runs are computed."""
    guilty = expand(config)[7]
    deaths = []

    def kill(group):
        if guilty in group:
            deaths.append(len(group))
            raise KilledWorker

    result = launch.sweep(config, tmp_path, executor=LikeDask(kill))
    assert deaths == [6, 3, 2, 1] or deaths == [6, 3, 1], "halves, each time"
    (failed,) = [outcome for outcome in result.outcomes if outcome.status == "failed"]
    assert (failed.run_id, result.count("completed")) == (guilty.run_id, 35)
    assert failure_path(tmp_path, guilty).exists()
    assert contents(tmp_path).items() <= reference.items()
    assert [o.run_id for o in launch.sweep(config, tmp_path, workers=1).outcomes if o.status == "failed"] == [
        guilty.run_id
    ]
    assert launch.sweep(config, tmp_path, executor=Serial(), retry_failed=True).count("completed") == 1
    assert contents(tmp_path) == reference


def test_an_error_on_the_way_costs_its_group_alone(config, tmp_path):
    def fault(group):
        if group[0].seed == 2 and group[0].batch_size == 3:
            raise ValueError("the results could not be sent\nand more")

    result = launch.sweep(config, tmp_path, executor=Serial(fault))
    assert (result.count("completed"), result.count("failed")) == (30, 6)
    assert {o.reason for o in result.outcomes if o.status == "failed"} == {"ValueError: the results could not be sent"}
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 6, "no run is to blame: all are tried again"


def _kill(config):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_broken_pool_is_a_clear_failure_of_what_it_held(config, reference, tmp_path):
    """The stdlib pool fails all that it holds when one of its processes dies: two groups; the rest is not begun."""

    broken = []

    def break_it(run_steps):
        if not broken:
            broken.append(executor.submit(_kill, None).exception())  # the pool may notice late: wait for it

    with spawned(2) as executor:
        result = launch.sweep(config, tmp_path, executor=executor, progress=break_it)
    counts = {status: result.count(status) for status in ("completed", "failed", "left")}
    assert sum(counts.values()) == 36
    assert counts["completed"] >= 6
    assert 0 < counts["failed"] <= 12
    assert result.stopped.startswith("the executor ")
    assert contents(tmp_path).items() <= reference.items()
    assert launch.sweep(config, tmp_path, workers=1).count("failed") == 0
    assert contents(tmp_path) == reference


def test_no_more_groups_at_a_time_than_workers(config, tmp_path):
    class Counting(ThreadPoolExecutor):
        in_hand = most = 0

        def submit(self, *call):
            Counting.in_hand += 1
            Counting.most = max(Counting.most, Counting.in_hand)
            return super().submit(self.work, *call)

        def work(self, function, *arguments):
            try:
                return function(*arguments)
            finally:
                Counting.in_hand -= 1

    with Counting(2) as executor:
        assert launch.sweep(config, tmp_path, executor=executor).count("completed") == 36
    assert Counting.most == 2


@pytest.mark.parametrize("name", get_args(ExecutorName))
def test_each_word_of_the_option_has_a_home(name):
    assert isinstance(choice_of(name), Choice)
