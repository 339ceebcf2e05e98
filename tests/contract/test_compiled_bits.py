"""A run has the same bits from code that was compiled just now and from code that was loaded, in any order.

With `reassoc` LLVM ordered the sums of each compiled copy of a kernel for itself, and which copy a call reached
depended on what the process had compiled and what it had loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from cases import one_run

import byolsim.backends.numba as backend
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.store.files import read_columns
from byolsim.sweeps.launch import sweep

SAMPLERS = {
    "minibatch": {"batch_size": 64},
    "second": {"batch_size": 256},
    "population": {"sampler": "population"},
    "direct": {"sampler": "moments", "moments_form": "direct"},
    "reduced": {"sampler": "moments", "moments_form": "reduced"},
}
KINDS = [f"{sampler} {dtype}" for sampler in SAMPLERS for dtype in ("float64", "float32")]
COLD = KINDS[::3] + KINDS[5:6]
"""Each sampler once: to compile a kind takes some ten seconds."""

TESTS = Path(__file__).resolve().parents[1]
GRID = SweepConfig(batch_sizes=(64,), epochs=100, tau_logspace=(1e-3, 1e-2, 2), lr_pred_logspace=(1e-3, 1e-2, 2))


def digest(kind: str) -> str:
    sampler, dtype = kind.split()
    columns = one_run(RunConfig(**SAMPLERS[sampler], dtype=dtype, epochs=200)).columns
    return hashlib.sha256(b"".join(column.tobytes() for column in columns.values())).hexdigest()


def main(folder: str, *kinds: str) -> None:
    """In a process of its own: first a sweep with two workers, if a folder is given, then the kinds in this order."""
    if folder:
        sweep(GRID, folder, workers=2)
    for kind in kinds:
        print(kind, digest(kind), sep="=")


def digests(cache, folder, kinds):
    """What such a process finds with a cache of its own, or with this one's."""
    environment = os.environ | ({"XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": ""} if cache else {})
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(TESTS), str(TESTS / "oracle"), os.environ.get("PYTHONPATH")])
    )
    command = [sys.executable, __file__, str(folder), *kinds]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(line.split("=") for line in done.stdout.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME")
def test_compiled_and_loaded_code_have_the_same_bits(tmp_path):
    here = {kind: digest(kind) for kind in KINDS}
    assert digests("", "", KINDS[::-1]) == here
    cold = digests(tmp_path / "cache", tmp_path / "cold", COLD)
    warm = digests(tmp_path / "cache", tmp_path / "warm", COLD[::-1])
    assert cold == warm == {kind: here[kind] for kind in COLD}
    sweep(GRID, tmp_path / "here", workers=1)
    paths = sorted((tmp_path / "here").glob("*.parquet"))
    assert len(paths) == 12
    for path in paths:
        tables = [read_columns(tmp_path / place / path.name, ["epoch", "loss", "gap", "Hmax", "W_Fro_raw"])[1]
                  for place in ("here", "cold", "warm")]  # fmt: skip
        assert tables[0].equals(tables[1]) and tables[0].equals(tables[2]), path.name


def test_no_kernel_may_be_reordered():
    """The flags under which LLVM may change a number are off, kernel by kernel."""
    kernels = {}
    for module in pkgutil.walk_packages(backend.__path__, f"{backend.__name__}."):
        found = vars(importlib.import_module(module.name))
        kernels |= {name: value for name, value in found.items() if hasattr(value, "targetoptions")}
    assert len(kernels) > 30
    for name, compiled in kernels.items():
        assert not compiled.targetoptions.get("fastmath"), name


if __name__ == "__main__":
    main(*sys.argv[1:])
