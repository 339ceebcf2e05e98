"""Sweeps that are interrupted, killed, starved of disk or run side by side lose nothing and leave nothing behind."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time

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
    words,
    workers_of,
)

from byolsim.config.grid import expand
from byolsim.store.files import read_info
from byolsim.sweeps import launch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A grid, and what an uninterrupted sweep in one process makes of it."""
    config = grid(seeds=tuple(range(1, 26)))
    folder = tmp_path_factory.mktemp("whole")
    assert launch.sweep(config, folder, workers=1).count("completed") == 150
    return config, contents(config, folder)


def kill_and_resume(config, folder, kills, rng):
    """SIGKILL of a running sweep at random moments: some delay after some new files; then to the end."""
    for _ in range(kills):
        before, more, delay = len(files(folder)), rng.randrange(8), rng.uniform(0, 0.05)
        with ended(start(config, folder, "--workers", "2")) as process:
            until(lambda n=before + more, p=process: len(files(folder)) >= n or p.poll() is not None, "no file appears")
            time.sleep(delay)  # a moment, not a wait: any will do
            assert process.poll() is None, "the sweep ended before it could be killed"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    with ended(start(config, folder, "--workers", "2")) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complaints(err)) == (0, "")
    return out


def test_killed_ten_times_and_resumed(whole, tmp_path):
    config, reference = whole
    out = kill_and_resume(config, tmp_path, 10, random.Random(5))
    assert "150 runs" in out
    assert ", 0 already there" not in out
    assert contents(config, tmp_path) == reference, "the same rows, and no temporary file left"


@pytest.mark.slow
def test_killed_fifty_times_and_resumed(tmp_path):
    config = grid(seeds=tuple(range(1, 201)))
    kill_and_resume(config, tmp_path / "a", 50, random.Random(6))
    launch.sweep(config, tmp_path / "b", workers=1)
    assert contents(config, tmp_path / "a") == contents(config, tmp_path / "b")


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_all_and_says_how_to_go_on(tmp_path, sent, code, workers):
    """In the middle of a group that would take hours; Ctrl-C reaches the whole session, as from a terminal."""
    config = grid(**LONG)
    launch.run(expand(grid(epochs=10, seeds=(1,)))[0], tmp_path)
    with ended(start(config, tmp_path, "--workers", workers)) as process:
        until(lambda: len(workers_of(process.pid)) == (2 if workers == "2" else 0), "no worker starts")
        until(lambda: cpu_seconds(process.pid) > 1 + float(workers), "nothing is computed")
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        out, err = process.communicate(timeout=DEADLINE_S)
        until(lambda: not session(process.pid), "a worker lives on")
    assert (process.returncode, out) == (code, "")
    line = shlex.join(["byolsim", *words(config), "--out_dir", str(tmp_path), "--workers", workers])
    err = complaints(err.replace("byolsim: interrupted; ends after the compilation, some seconds\n", ""))
    (said,) = err.split("\n")[-2:-1]
    assert err.strip() == said, "one line (after Ctrl-C on a line of its own)"
    assert said.startswith("byolsim: interrupted; finished runs are kept. To compute what is missing: ")
    assert said.endswith(line)
    assert len(files(tmp_path)) == 1, "what was there is kept, and nothing partial is left"


def test_workers_end_with_their_parent(tmp_path):
    """The parent is killed with -9 in the middle of a kernel."""
    with ended(start(grid(**LONG), tmp_path, "--workers", "2")) as process:
        until(lambda: len(workers_of(process.pid)) == 2, "no worker starts")
        until(lambda: cpu_seconds(process.pid) > 5, "nothing is computed")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not workers_of(process.pid), "a worker lives on")


def test_a_killed_worker_costs_no_run(tmp_path):
    config = grid(seeds=(1, 2), epochs=100_000)
    with ended(start(config, tmp_path, "--workers", "2")) as process:
        until(lambda: len(workers_of(process.pid)) == 2, "no worker starts")
        until(lambda: files(tmp_path), "nothing is computed")
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complaints(err)) == (0, "")
    assert "0 failed" in out
    assert len(contents(config, tmp_path)) == 12


def test_four_processes_fill_one_folder(tmp_path):
    config = grid(seeds=tuple(range(1, 9)))
    processes = [start(config, tmp_path, "--workers", workers) for workers in ("1", "1", "2", "2")]
    for process in processes:
        with ended(process):
            _, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, complaints(err)) == (0, "")
    alone = tmp_path.with_name("alone")
    launch.sweep(config, alone, workers=1)
    assert contents(config, tmp_path) == contents(config, alone)


def test_shards_make_up_the_whole(whole, tmp_path):
    config, reference = whole
    counts = []
    for index in range(3):
        done = launch.sweep(config, tmp_path, workers=1 + index % 2, shard=(index, 3))
        assert (done.count("skipped"), done.count("failed")) == (0, 0), "no run is in two shards"
        counts.append(done.count("completed"))
    assert sum(counts) == 150
    assert contents(config, tmp_path) == reference


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
from byolsim.cli import main
main(sys.argv[1:])
"""


def run_limited(config, folder, *options):
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *words(config), "--out_dir", str(folder), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_limit_on_the_size_of_files_ends_the_sweep(tmp_path, workers):
    """A run's file takes more than 8 KiB: none can be written."""
    config = grid(seeds=tuple(range(1, 9)), epochs=20)
    done = run_limited(config, tmp_path, "--workers", workers)
    assert_full(done, tmp_path, "File too large")
    assert not list(tmp_path.glob("*.parquet"))
    assert f"{48 - 3 * int(workers)} more runs were not begun" in done.stdout, "no group is begun after the first"
    assert launch.sweep(config, tmp_path, workers=1).count("completed") == 48, "with room again all is computed"
    contents(config, tmp_path)


def assert_full(done, folder, reason):
    """Exit code 1, the file named, the rest not begun, nothing partial."""
    assert (done.returncode, done.stderr) == (1, "")
    assert f"stopped: cannot write {folder}/sweep_auto_seed" in done.stdout
    assert f".parquet: {reason}; " in done.stdout
    assert all(path.suffix in (".parquet", ".json") for path in files(folder))
    for path in folder.glob("*.parquet"):
        assert read_info(path).status == "completed"


def test_a_full_disk_ends_the_sweep(tmp_path):
    """A file system of 256 KiB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        folder = disk / "runs"
        done = subprocess.run(
            [sys.executable, "-m", "byolsim", *words(grid(seeds=tuple(range(1, 9)), epochs=20)), "--out_dir",
             str(folder), "--workers", "1"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert_full(done, folder, "No space left on device")
        assert list(folder.glob("*.parquet")), "what fitted is kept"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
