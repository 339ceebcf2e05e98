"""The import law of the house, module by module, each in a fresh process."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest
from cases import HAS_TORCH

import byolsim

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(byolsim.__path__, "byolsim.") if module.name != "byolsim.__main__"
)
SWEEPS = tuple(
    f"byolsim.{name}" for name in ("failures", "work", "pools", "processes", "dispatch", "plan", "launch", "estimate")
)
"""The rooms of a sweep: they compute and store."""

HOMES = {
    "numba": ("byolsim.jit", "byolsim.normals", "byolsim.backends.numba"),
    "torch": ("byolsim.backends.torch",),
    "pyarrow": ("byolsim.store", "byolsim.layout", "byolsim.runfile", *SWEEPS, "byolsim.analysis", "byolsim.cli"),
    "dask": (),
    "distributed": (),
    "matplotlib": ("byolsim.analysis", "byolsim.cli"),
    "click": ("byolsim.cli",),
    "rich": (),
    "wandb": (),
}
CORE = (
    "config",
    "output",
    "describe",
    "errors",
    "world",
    "streams",
    "theory",
    "moments",
    "schedule",
    "order",
    "metrics",
    "record",
    "seal",
    "details",
    "rows",
)
OUTER = ("byolsim.store", "byolsim.layout", "byolsim.runfile", "byolsim.analysis", "byolsim.cli", *SWEEPS)


def loaded_by(module):
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_import_law(module):
    if module.startswith("byolsim.backends.torch") and not HAS_TORCH:
        pytest.skip("no torch")
    loaded = loaded_by(module)
    for library, homes in HOMES.items():
        assert library not in loaded or module.startswith(homes), f"{module} loads {library}"
    ours = {name for name in loaded if name.startswith("byolsim")} - {module}
    if module.removeprefix("byolsim.") in CORE:
        assert not [name for name in ours if name.startswith(("byolsim.backends", *OUTER))]
    if module.startswith("byolsim.backends"):
        assert not [name for name in ours if name.startswith(OUTER)]
        mine = ".".join(module.split(".")[:3])
        others = [name for name in ours if name.count(".") >= 2 and name.startswith("byolsim.backends.")]
        assert all(name.startswith((mine, "byolsim.backends.base")) for name in others)
    if module.startswith("byolsim.analysis"):
        assert not ours & {"byolsim.simulate", "byolsim.launch", "byolsim.backends"}
    if not module.startswith("byolsim.cli"):
        assert not [name for name in ours if name.startswith("byolsim.cli")]


def test_the_package_itself_is_light():
    loaded = loaded_by("byolsim")
    assert not loaded & {"numpy", "numba", "pydantic", "pyarrow", "matplotlib", "torch", "click"}


def test_help_loads_no_command():
    code = (
        "import sys, contextlib, io\nfrom byolsim.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(' '.join(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(out.split()) & {"numpy", "pydantic", "numba", "pyarrow", "matplotlib", "rich"}
