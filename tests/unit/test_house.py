"""The law of the house: imports run down, heavy libraries have homes, and what is light stays light."""

from __future__ import annotations

import ast
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from cases import HAS_TORCH

import byolsim

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "byolsim"
HOUSE = runpy.run_path(str(ROOT / "scripts" / "house.py"))
LEVEL = {room: level for level, rooms in enumerate(HOUSE["FLOORS"]) for room in rooms}
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(byolsim.__path__, "byolsim.") if module.name != "byolsim.__main__"
)

HOMES = {
    "numba": ("byolsim.machine.jit", "byolsim.machine.kernel_cache", "byolsim.draws.normals", "byolsim.backends.numba"),
    "llvmlite": ("byolsim.machine", "byolsim.backends.numba"),
    "torch": ("byolsim.backends.torch",),
    "pyarrow": ("byolsim.store", "byolsim.analysis"),
    "matplotlib": ("byolsim.analysis",),
    "click": ("byolsim.cli",),
    "rich": ("byolsim.cli",),
    "dask": ("byolsim.sweeps.pools.dask",),
    "distributed": ("byolsim.sweeps.pools.dask",),
    "wandb": ("byolsim.store.tracking",),
}
"""Modules whose code may name a library."""

LOADED = HOMES | {
    "llvmlite": (*HOMES["llvmlite"], "byolsim.draws.normals"),
    "pyarrow": ("byolsim.store", "byolsim.sweeps", "byolsim.analysis", "byolsim.cli"),
    "matplotlib": ("byolsim.analysis", "byolsim.cli"),
    "rich": (),
    "dask": (),
    "distributed": (),
    "wandb": (),
}
"""Modules that may load a library when they are imported, by themselves or through others."""


def test_arrows_point_down_and_the_root_is_small():
    loading, arrows = HOUSE["arrows"](PACKAGE)
    floor = HOUSE["floors"](loading)
    assert HOUSE["upward"](arrows, floor) == []
    assert not [circle for circle in HOUSE["components"](arrows) if len(circle) > 1]
    assert max(floor.values()) <= 9
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert set(floor) <= set(LEVEL), "a room without a floor: scripts/house.py states them"


def imports_of(path):
    """Modules that a file names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_named_at_home_only(module):
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    named = {name.partition(".")[0] for name in imports_of(path)}
    for library in named & set(HOMES):
        assert module.startswith(HOMES[library]), f"{module} imports {library}"


def loaded_by(module):
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_loads_lower_floors_only(module):
    """In a fresh process; so what a module needs is also what it says it needs."""
    if module.startswith("byolsim.backends.torch") and not HAS_TORCH:
        pytest.skip("no torch")
    loaded = loaded_by(module)
    for library, homes in LOADED.items():
        assert library not in loaded or module.startswith(homes), f"{module} loads {library}"
    ours = {name.split(".")[1] for name in loaded if name.startswith("byolsim.")}
    room = module.split(".")[1]
    assert not [
        other for other in ours - {room, "version"} if LEVEL[other] >= LEVEL[room]
    ]  # the package itself has one
    if module.startswith("byolsim.backends."):
        mine = ".".join(module.split(".")[:3])
        others = [name for name in loaded if name.startswith("byolsim.backends.")]
        assert all(name.startswith((mine, "byolsim.backends.base")) for name in others)


def test_the_package_itself_is_light():
    loaded = loaded_by("byolsim")
    assert not loaded & {"numpy", "numba", "pydantic", "pyarrow", "matplotlib", "torch", "click"}


@pytest.mark.parametrize("sampler", ["minibatch", "population", "moments"])
def test_the_plain_backend_loads_no_numba(sampler, tmp_path):
    """A whole command, draws and file included; so it starts in a second on a machine where nothing is compiled yet."""
    code = (
        "import sys, contextlib\nfrom byolsim.cli import main\n"
        f"words = 'run --backend numpy --epochs 3 --sampler {sampler} --out_dir'.split() + [{str(tmp_path)!r}]\n"
        "with contextlib.suppress(SystemExit): main(words)\n"
        "print(' '.join(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "completed: 3 epochs" in out
    assert not {name.partition(".")[0] for name in out.split()} & {"numba", "llvmlite", "scipy", "torch", "matplotlib"}


def test_the_signals_are_in_hand_before_anything_large_is_imported():
    loaded = loaded_by("byolsim.__main__")
    assert not loaded & {"click", "numpy", "pydantic", "rich", "byolsim.cli", "typing", "pathlib"}


def test_help_loads_no_command():
    code = (
        "import sys, contextlib, io\nfrom byolsim.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(' '.join(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(out.split()) & {"numpy", "pydantic", "numba", "pyarrow", "matplotlib", "rich"}


def test_architecture_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert [str(name) for name in names if name.stem.strip("_") not in text.replace("`", " ")] == []
