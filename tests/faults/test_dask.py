"""Sweeps on a Dask cluster: the same files, whoever writes them; a worker that dies costs nothing."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import socket
import sys
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import pytest
from sweeps import (
    DEADLINE_S,
    LONG,
    complaints,
    contents,
    cpu_seconds,
    ended,
    files,
    grid,
    session,
    start,
    until,
    workers_of,
)

from byolsim.cli import main
from byolsim.config.grid import SweepConfig
from byolsim.sweeps import launch
from byolsim.sweeps.pools import dask as cluster
from byolsim.sweeps.pools.catalogue import executor_size

HAS_DASK = importlib.util.find_spec("distributed") is not None


def needs_dask(test):
    """A test of the extra, on a system with POSIX signals."""
    there = HAS_DASK and sys.platform != "win32"
    return pytest.mark.dask(pytest.mark.skipif(not there, reason="no dask")(test))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The default sweep at a tenth of its epochs, and its files from one process."""
    config, folder = SweepConfig(epochs=200), tmp_path_factory.mktemp("reference")
    assert launch.sweep(config, folder, workers=1).count("completed") == 80
    return config, contents(config, folder)


@needs_dask
def test_the_default_sweep_with_one_worker_killed_on_the_way(reference, tmp_path):
    config, expected = reference
    folder = tmp_path / "runs"
    with ended(start(config, folder, "--executor", "dask", "--workers", "2")) as process:
        until(lambda: folder.exists() and files(folder), "nothing is computed")
        victims = workers_of(process.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complaints(err)) == (0, "")
    assert out.startswith("80 runs in ")
    assert ", 0 failed; " in out
    assert contents(config, folder) == expected


@needs_dask
@pytest.mark.filterwarnings("default")  # Dask's own
@pytest.mark.parametrize("workers_write", [False, True])
def test_a_scheduler_that_is_there_already(reference, tmp_path, workers_write, monkeypatch):
    """Two processes that work elsewhere: the files are where the user's folder is, and the scheduler stays."""
    config, expected = reference
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    monkeypatch.chdir(elsewhere)
    with cluster.dask_executor(None, 2) as executor:
        assert executor_size(executor) == 2
        assert executor_size(executor, 1) == 1
        assert executor_size(executor, 7) == 2, "never more than one task a worker"
        monkeypatch.chdir(here)
        address = executor._client.scheduler.address
        options = ["--scheduler", address, *["--workers_write"] * workers_write]
        with ended(start(config, "runs", *options)) as process:
            _, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, complaints(err)) == (0, "")
        assert executor.submit(int, "3").result() == 3
    assert contents(config, here / "runs") == expected
    assert not files(elsewhere)


@needs_dask
def test_ctrl_c_ends_a_local_cluster(tmp_path):
    """In the middle of groups that would take hours; Ctrl-C reaches the whole session, as from a terminal."""
    with ended(start(grid(**LONG), tmp_path, "--executor", "dask", "--workers", "2")) as process:
        until(lambda: len(workers_of(process.pid)) == 2, "no worker starts")
        until(lambda: cpu_seconds(process.pid) > 7, "nothing is computed")
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
        until(lambda: not session(process.pid), "a worker lives on")
    assert (process.returncode, out) == (130, "")
    assert err.strip().startswith("byolsim: interrupted; finished runs are kept. To compute what is missing: ")
    assert err.strip().count("\n") == 0
    assert not files(tmp_path)


def refused(capsys, line):
    """The one line with which a command refuses."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    return captured.err


def test_without_dask_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    line = refused(capsys, "sweep --epochs 2 --executor dask")
    assert line == "byolsim: executor 'dask' needs Dask, which is not installed: pip install 'byolsim[dask]'\n"
    assert not list(tmp_path.iterdir())


@needs_dask
@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        line = refused(capsys, f"sweep --epochs 2 --scheduler {address}")
    assert line.startswith(f"byolsim: scheduler '{address}' does not answer (")
    assert line.endswith("): must be the address of a running Dask scheduler\n")
    assert not list(tmp_path.iterdir())


@needs_dask
def test_a_scheduler_that_accepts_and_is_silent(tmp_path, monkeypatch, capsys):
    """As one whose process is stopped: the system takes connections for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        line = refused(capsys, f"sweep --epochs 2 --scheduler {address}")
    assert line.startswith(f"byolsim: scheduler '{address}' does not answer (")
    assert not list(tmp_path.iterdir())


@needs_dask
@pytest.mark.parametrize("address", ["tcp://a:b:1", "tcp://[::1:80", "tcp://127.0.0.1:99999"])
def test_an_address_that_is_none(tmp_path, monkeypatch, capsys, address):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    line = refused(capsys, f"sweep --epochs 2 --scheduler {address}")
    assert f"scheduler '{address}' " in line
    assert "must be " in line


class Frozen(Executor):
    """Dask's executor on a scheduler that takes work and then gives no sign of life."""

    def __init__(self):
        self._client = SimpleNamespace(sync=self.sync, scheduler=SimpleNamespace(ncores=None))
        self.given = []

    def sync(self, question, callback_timeout):
        if self.given:
            raise TimeoutError
        return {"worker": 1}

    def submit(self, *call):
        self.given.append(Future())
        return self.given[-1]


def test_a_scheduler_that_falls_silent_ends_the_sweep(tmp_path, monkeypatch):
    """The one group in hand, of 20 runs, is given up; nothing is recorded that would not be tried again."""
    monkeypatch.setattr(cluster, "ASK_EVERY_S", 0.0)
    config, executor = SweepConfig(epochs=2), Frozen()
    result = launch.sweep(config, tmp_path, executor=executor)
    assert result.stopped == "the scheduler has given no sign of life for 60 seconds; what is stored is kept"
    assert (len(result.outcomes), result.count("failed"), result.count("left")) == (80, 20, 60)
    assert all(future.cancelled() for future in executor.given)
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 80
