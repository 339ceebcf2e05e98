"""Signals at any moment, streams that are closed or narrow, few file handles: one line, the right code, runs kept."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import synchronize
from pathlib import Path

import pytest
from cases import byolsim

from byolsim.cli import main, options
from byolsim.config.grid import SweepConfig, expand
from byolsim.machine import kernel_cache
from byolsim.machine.interrupts import deferred_interrupt
from byolsim.store.files import read_info
from byolsim.sweeps import launch
from byolsim.sweeps import writer as writing
from byolsim.sweeps.plan import plan_sweep
from byolsim.sweeps.pools import processes

TINY = "--d_latent 2 --d_obs 4 --latent_spectrum flat:1 --epochs 8 --log_every 4"
SWEEP = f"sweep {TINY} --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and handles")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def program(code, line, shell=""):
    """The program `byolsim` in a process of its own, after some code: (exit code, stdout, stderr)."""
    code += "\nfrom byolsim.__main__ import main; main()"
    words = [sys.executable, "-c", code, *line.split()]
    if shell:
        words = ["sh", "-c", f'exec "$0" "$@" {shell}', *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"})
    return done.returncode, done.stdout, done.stderr


AT_IMPORT = """
import os, sys
class Hook:
    def find_spec(self, name, *_):
        if name == {module!r} and Hook in map(type, sys.meta_path):
            sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not Hook]
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Hook())
"""


@posix
@pytest.mark.parametrize("module", ["click", "byolsim.cli.sweep", "pydantic", "byolsim.backends.numba"])
@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_in_the_middle_of_an_import(module, number, code):
    left, out, err = program(AT_IMPORT.format(module=module, number=number), SWEEP)
    assert (left, out) == (code, "")
    assert err.strip() == f"byolsim: interrupted; finished runs are kept. To compute what is missing: byolsim {SWEEP}"


IN_A_RUN = """
import os, signal
from byolsim.sweeps import compute
def simulate_group(group, progress, **options):
    try:
        os.kill(os.getpid(), {first})
    {then}
compute.simulate_group = simulate_group
"""
TWICE = "finally: os.kill(os.getpid(), 2)"
LOST = "except BaseException: raise RuntimeError('a library lost it') from None"


@posix
@pytest.mark.parametrize("then", [TWICE, LOST])
@pytest.mark.parametrize(("first", "code"), [(2, 130), (15, 143)])
def test_a_signal_that_comes_twice_or_is_lost_in_a_library(then, first, code):
    left, out, err = program(IN_A_RUN.format(first=first, then=then), f"{SWEEP} --workers 1")
    assert (left, out) == (code, "")
    assert err.strip().startswith("byolsim: interrupted; finished runs are kept.")
    assert err.strip().count("\n") == 0


@posix
@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("line", [f"run {TINY}", f"{SWEEP} --workers 1", "ls", "frobnicate"])
def test_streams_that_are_closed(shell, line, tmp_path):
    """The exit code is that of the work; what would have been said to a closed stream is not said anywhere."""
    left, _, err = program("", line, shell)
    assert left == (2 if line in ("ls", "frobnicate") else 0)
    assert "Traceback" not in err
    assert err.count("\n") == (left == 2 and shell == ">&-")
    for path in tmp_path.glob("runs_parquet/*"):
        assert read_info(path, whole=True).status == "completed"


class Gone(io.StringIO):
    """A stream whose reader has gone away."""

    def write(self, text):
        raise BrokenPipeError


def test_a_note_that_nobody_reads_stops_no_run(monkeypatch, tmp_path):
    """A note is shown before the run begins; the reader of standard error has gone by then."""
    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as stop:
        main(f"run {TINY} --lr_pred 1e-3 --auto_alpha_c 0.4".split())
    assert stop.value.code == 0
    assert len(list(tmp_path.glob("runs_parquet/*.parquet"))) == 1


def test_a_name_that_standard_output_cannot_show(monkeypatch, tmp_path):
    out_dir = "\N{SNOWMAN}"
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as stop:
        main([*f"run {TINY} --out_dir".split(), out_dir])
    out.flush()
    assert stop.value.code == 0
    assert f"wrote {ascii(out_dir)[1:-1]}" in out.buffer.getvalue().decode("latin-1")
    assert len(list((tmp_path / out_dir).iterdir())) == 1


FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
"""


@posix
def test_too_few_file_handles_for_so_many_workers():
    left, out, err = program(FEW, f"sweep {TINY} --seeds 1 2 3 4 5 --workers 9")
    assert (left, out) == (2, "")
    assert err.startswith("byolsim: 9 worker processes cannot start (Too many open files): fewer workers")
    assert err.count("\n") == 1


def test_workers_share_no_semaphore(tmp_path, monkeypatch):
    """A named semaphore outlives a group of processes that is killed as a whole, for ever."""

    def refused(*_, **__):
        raise AssertionError("a semaphore")

    monkeypatch.setattr(synchronize.SemLock, "__init__", refused)
    config = SweepConfig(d_latent=2, d_obs=4, latent_spectrum="flat:1", epochs=8)
    assert launch.carry_out(plan_sweep(config, tmp_path, workers=2)).count("completed") == 80
    with processes.Processes(1, writing.Writer(tmp_path)) as pool:
        (slot,) = pool.slots
        slot.process.kill()
        slot.restart()
        group = expand(config)[:1]
        assert pool.outcomes(group, pool.submit(group, lambda run_steps: None))
    assert not multiprocessing.active_children()


@posix
def test_a_configuration_without_an_end_is_refused():
    code, out, err = byolsim("run --config /dev/zero")
    assert (code, out) == (2, "")
    assert err == "byolsim: --config '/dev/zero' cannot be read: not a file\n"


def test_a_large_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "CONFIG_BYTES", 10)
    (tmp_path / "a.toml").write_text("epochs = 8  # a few\n")
    code, _, err = byolsim("run --config a.toml --dry_run")
    assert (code, err) == (2, "byolsim: --config 'a.toml' is too large: must be at most 10 bytes\n")


def test_a_user_without_a_home(monkeypatch, capsys):
    """HOME is not set, and the system does not know the user's number: a batch system or a container."""

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setenv(kernel_cache.PRIVATE, "")  # so that it is taken back at the end of the test
    monkeypatch.delenv(kernel_cache.PRIVATE)
    assert kernel_cache.cache_folder.__wrapped__().is_dir()
    assert "until this program ends" in capsys.readouterr().err


@posix
def test_who_ignores_ctrl_c_does_so_while_it_compiles(capsys):
    """A worker leaves Ctrl-C to its parent: no line of its own."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == ""
