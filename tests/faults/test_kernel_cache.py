"""Compiled code comes from a folder that nobody else can write, is checked before it runs, and its loss costs time."""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from cases import needs_torch

from byolsim.machine import kernel_cache
from byolsim.machine.jit import kernel
from byolsim.machine.kernel_cache import KernelCache, cache_folder, private_folder

PACKAGE = Path(kernel_cache.__file__).parents[1]

on_posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes")


def triple(x):
    return 3 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the user's cache; lines are said again."""
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: tmp_path)
    kernel_cache._say.cache_clear()
    return tmp_path


def from_the_cache(function) -> bool:
    """Whether a kernel's only signature was loaded."""
    return sum(function.stats.cache_hits.values()) == 1


def test_a_kept_kernel_is_loaded(folder):
    assert kernel(triple)(2) == 6
    again = kernel(triple)
    assert again(2) == 6
    assert from_the_cache(again)


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "another's"])
def test_a_damaged_file_is_set_aside_and_made_again(folder, capsys, damage):
    kernel(triple)(2)
    (path,) = folder.glob("*.kernel")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = kernel_cache._sealed(whole[32:], "another.kernel")
    path.write_bytes({"empty": b"", "short": whole[:1000], "flipped": bytes(flipped), "another's": other}[damage])
    assert kernel(triple)(2) == 6
    assert capsys.readouterr().err.count("\n") == 1
    assert path.with_suffix(".damaged").exists()
    again = kernel(triple)
    assert again(2) == 6
    assert from_the_cache(again)


def test_settings_of_numba_have_files_of_their_own(folder, monkeypatch):
    kernel(triple)(2)
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    checked = kernel(triple)
    checked(2)
    assert not from_the_cache(checked)
    assert len(list(folder.glob("*.kernel"))) == 2


def test_without_room_kernels_are_compiled_and_one_line_says_so(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert kernel(triple)(2) == 6
    assert kernel(triple)(2.5) == 7.5
    assert capsys.readouterr().err.count("No space left") == 1
    assert not list(folder.iterdir())


def test_without_a_folder_kernels_are_compiled(monkeypatch):
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: None)
    assert kernel(triple)(2) == 6
    assert KernelCache(triple).cache_path is None


@on_posix
def test_a_new_folder_is_the_users_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]
    assert private_folder(tmp_path / "a" / "b") == folder


@on_posix
@pytest.mark.parametrize("plant", ["open", "link", "file", "parent"])
def test_a_folder_that_others_could_have_made_is_refused(tmp_path, plant):
    folder = tmp_path / "cache" / "byolsim"
    folder.mkdir(0o700, parents=True)
    if plant == "open":
        folder.chmod(0o755)
    elif plant == "parent":
        folder.parent.chmod(0o777)
    else:
        folder.rmdir()
        (tmp_path / "planted").mkdir(0o700)
        folder.symlink_to(tmp_path / "planted") if plant == "link" else folder.touch(0o700)
    with pytest.raises(OSError, match=r"must belong to this user|others can write|is not a folder"):
        private_folder(folder)


@on_posix
def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = private_folder(tmp_path / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="must belong to this user"):
        private_folder(folder)


@on_posix
def test_a_planted_folder_under_the_temporary_one_is_not_used(tmp_path):
    """The user's cache cannot be made; the folder that earlier versions took instead is there, open to others."""
    name = cache_folder().name
    (tmp_path / name).mkdir()
    (tmp_path / name).chmod(0o777)
    code = "from byolsim.machine.kernel_cache import cache_folder as f; print(f(), f().stat().st_mode, sep=chr(10))"
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": "/dev/null/x", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    folder, mode = done.stdout.splitlines()
    assert Path(folder).parent == tmp_path.resolve()
    assert Path(folder).name != name
    assert int(mode) & 0o777 == 0o700
    assert not Path(folder).exists(), "it ends with the program"
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("backend", ["numba", pytest.param("torch", marks=needs_torch), "numpy"])
def test_disabled_compilation_is_refused_where_there_are_kernels(backend, tmp_path):
    """The reference has none, not even for its draws."""
    words = ["run", "--backend", backend, "--device", "cpu", "--epochs", "2", "--out_dir", str(tmp_path)]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-m", "byolsim", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if backend == "numpy":
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 2
    assert done.stderr.startswith("byolsim: NUMBA_DISABLE_JIT is set")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_end_of_a_file_is_no_interrupt(monkeypatch):
    from byolsim.cli import cli, main

    def ends(*_, **__):
        raise EOFError("Ran out of input")

    monkeypatch.setattr(cli, "invoke", ends)
    with pytest.raises(EOFError, match="Ran out of input"):
        main(["ls"])


def test_whatever_a_kernel_takes_from_another_file_names_the_folder():
    """A global of a kernel, a function or a number, comes from a file that is hashed."""
    hashed = set(kernel_cache.sources(PACKAGE))
    assert PACKAGE / "backends" / "numba" / "samplers" / "reduced.py" in hashed
    for path in hashed - {PACKAGE / "machine" / "jit.py", PACKAGE / "machine" / "kernel_cache.py"}:
        module = importlib.import_module("byolsim." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        kernels = [value.py_func for value in vars(module).values() if hasattr(value, "py_func")]
        for function in (found for found in kernels if found.__module__ == module.__name__):
            for name in function.__code__.co_names:
                found = function.__globals__.get(name)
                of = getattr(found, "__module__", None) or home(module, name)
                if of is not None and of.startswith("byolsim."):
                    module_or_room = PACKAGE.joinpath(*of.split(".")[1:])
                    is_room = module_or_room.is_dir()
                    file = module_or_room / "__init__.py" if is_room else module_or_room.with_suffix(".py")
                    assert file in hashed, f"{function.__name__} of {path.name} takes {name} from {of}"


def home(module, name):
    """The module from which a constant is imported, or None."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return node.module
    return None
