"""Where compiled kernels are kept between programs: one sealed file for each, in a folder that nobody else can write.

numba's own disk cache notices a change of the file that holds a kernel, and not of the functions and constants that the
kernel took from other files; it takes any folder that it can write and executes what it finds there; and a damaged file
ends the program. Here the folder is named by a hash of all sources and of the versions of Python, numba and llvmlite,
each file by a hash of the kernel, its argument types, the processor and numba's settings, and begins with a SHA-256 of
itself. A file that does not match is set aside and made again. Where nothing can be kept, kernels are compiled in each
program.

This takes numba's place by way of its abstract `caching._Cache`: a compiled result is taken apart and put together by
`CompileResult._reduce` and `_rebuild`, as numba's own cache does.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import multiprocessing
import os
import pickle
import platform
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

SOURCES = (
    "machine/jit.py",
    "machine/kernel_cache.py",
    "draws",
    "model/schedule.py",
    "model/state.py",
    "model/theory.py",
    "backends/numba",
)
"""What compiled code depends on, relative to the package."""

SETTINGS: Any = numba.config

PRIVATE = "BYOLSIM_PRIVATE_KERNELS"
"""Tells worker processes of the folder that their parent made for its own lifetime."""

NO_CODE = frozenset({"CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS"})
"""Settings of numba that change no code, and differ between a program and its workers."""


class KernelCache(Cache):
    """The files of one kernel, in place of numba's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name, self._py_func = repr(function), function
        self.enable()

    @property
    def cache_path(self) -> str | None:
        """The folder, or None."""
        return str(cache_folder() or "") or None

    def flush(self) -> None:
        """Files belong to all programs, and none is stale."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel for a signature, or None: numba then compiles it."""
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(_unsealed(content, path.name)))
        except Exception:
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            _say(f"the compiled kernel {path.name} is damaged; it is set aside and compiled again")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals:
            return
        temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            temporary.write_bytes(_sealed(dumps(data._reduce()), path.name))
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            _say(f"compiled kernels cannot be kept in {path.parent}: {error.strerror or error}")

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = cache_folder()
        key = repr((self._py_func.__module__, self._py_func.__qualname__, self._index_key(sig, codegen), _settings()))
        name = f"{self._py_func.__name__}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.kernel"
        return folder / name if folder else None


def _sealed(payload: bytes, name: str) -> bytes:
    return hashlib.sha256(name.encode() + payload).digest() + payload


def _unsealed(content: bytes, name: str) -> bytes:
    if _sealed(content[32:], name) != content:
        raise ValueError("damaged")
    return content[32:]


def _settings() -> str:
    """The settings of numba as they are now; all but a few known ones could change what it compiles."""
    values = {name: value for name, value in vars(SETTINGS).items() if name.isupper() and name not in NO_CODE}
    return repr(sorted((name, value) for name, value in values.items() if isinstance(value, (int, float, str))))


def sources(package: Path) -> list[Path]:
    """The files of `SOURCES`, those in folders below them too."""
    paths = [package / source for source in SOURCES]
    return [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


@cache
def cache_folder() -> Path | None:
    """The folder of this version's compiled code, or None where there is no safe place for one.

    In NUMBA_CACHE_DIR if that is set, else in the user's cache. Files in it are executed, so others must not be able
    to write them or put another folder in its place; where they are, a new folder serves this program and its workers
    alone.
    """
    digest = hashlib.sha256(f"{platform.python_version()} {numba.__version__} {llvmlite.__version__}".encode())
    for file in sources(Path(__file__).parents[1]):
        digest.update(file.read_bytes())
    name = f"byolsim-{digest.hexdigest()[:12]}"
    try:
        base = SETTINGS.CACHE_DIR or _user_cache()
        return private_folder(Path(base) / name)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        reason = str(error)
    try:
        folder = _for_this_program()
    except OSError as error:
        _say(f"compiled kernels cannot be kept: {reason}; {error}")
        return None
    _say(f"compiled kernels are kept until this program ends, and no longer: {reason}")
    return folder


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can write, or check the one that is there; its real path.

    Raises
    ------
    OSError
        If it cannot be made, is a link, or others can write it or a folder above it (sticky ones, as /tmp, count as
        safe).
    """
    for part in [*reversed(folder.parents), folder]:
        with contextlib.suppress(FileExistsError):
            if not part.exists():
                part.mkdir(0o700)
    parent = folder.parent.resolve(strict=True)
    folder = parent / folder.name
    if not hasattr(os, "geteuid"):  # Windows: the user's folders have lists of who may write them
        return folder
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(f"{folder} must belong to this user and be closed to others (mode 700)")
    for part in (parent, *parent.parents):
        found = part.lstat()
        if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
            raise OSError(f"others can write {part}")
    return folder


def _for_this_program() -> Path:
    """A new folder that is removed when the program ends; its worker processes use it too."""
    if PRIVATE in os.environ:
        return private_folder(Path(os.environ[PRIVATE]))
    folder = Path(tempfile.mkdtemp(prefix="byolsim-kernels-"))
    atexit.register(_remove, folder, os.getpid())
    folder = private_folder(folder)
    os.environ[PRIVATE] = str(folder)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not a fork of it
        os.environ.pop(PRIVATE, None)
        shutil.rmtree(folder, ignore_errors=True)


def _user_cache() -> Path:
    """The folder of caches of this system; `RuntimeError` for a user without a home."""
    given = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    if os.environ.get(given):
        return Path(os.environ[given]) / "byolsim"
    home = Path.home()
    caches = {"win32": home / "AppData" / "Local", "darwin": home / "Library" / "Caches"}
    return caches.get(sys.platform, home / ".cache") / "byolsim"


@cache
def _say(line: str) -> None:
    """One line on standard error, once, and not from every worker."""
    if multiprocessing.parent_process() is None and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"byolsim: {line}", file=sys.stderr)
