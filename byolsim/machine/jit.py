"""One way to compile a kernel, and where the compiled code is kept.

numba's own disk cache notices a change of the file that holds a kernel, and not of the functions and constants that the
kernel took from other files. Here the folder of the cache is named by a hash of all of them, so old code never runs.

`np.dot` in a kernel calls SciPy's BLAS, which numba loads at the first call; it is imported here, so that a limit on
the number of BLAS threads that is set before that call finds it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import scipy.linalg.cython_blas  # noqa: F401

SOURCES = ("machine/jit.py", "draws", "model/schedule.py", "model/state.py", "backends/numba")
"""What compiled code depends on, relative to the package."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba when it is first called: cached on disk, GIL released.

    Of LLVM's fast-math flags only `reassoc` and `contract` are on: with `nnan` or `ninf` a check for NaN would be
    folded away. NUMBA_CACHE_DIR, if it is set, is respected.
    """
    return _compiled(function, inline=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, and merged into its callers: a call passes each array of each tuple word by word, 0.1 us in all."""
    return _compiled(function, inline=True)


def _compiled(function: Callable[..., Any], inline: bool) -> Callable[..., Any]:
    settings: Any = numba.config
    compile_ = numba.njit(
        cache=True, nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy", forceinline=inline
    )
    before = settings.CACHE_DIR
    settings.CACHE_DIR = before or str(cache_folder())
    try:
        return compile_(function)
    finally:
        settings.CACHE_DIR = before


@cache
def cache_folder() -> Path:
    """Folder of this version's compiled code: in the user's cache, or in the temporary folder if that is read-only."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for source in SOURCES:
        path = package / source
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    name = f"byolsim-{digest.hexdigest()[:12]}"
    for base in (_user_cache(), Path(tempfile.gettempdir())):
        folder = base / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix=name))


def _user_cache() -> Path:
    given = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    if os.environ.get(given):
        return Path(os.environ[given]) / "byolsim"
    try:
        home = Path.home()
    except RuntimeError:  # HOME is not set, and the system does not know this user
        return Path(tempfile.gettempdir())
    caches = {"win32": home / "AppData" / "Local", "darwin": home / "Library" / "Caches"}
    return caches.get(sys.platform, home / ".cache") / "byolsim"
