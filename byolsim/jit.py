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
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

SOURCES = ("jit.py", "normals.py", "schedule.py", "backends/base.py", "backends/numba")
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
    compile_ = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=inline)
    before = settings.CACHE_DIR
    settings.CACHE_DIR = before or str(cache_folder())
    try:
        return compile_(function)
    finally:
        settings.CACHE_DIR = before


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """In a kernel: x y + z of numbers or lanes, in one instruction and with one rounding where the processor has it.

    Written out, so that whether a product and a sum become one does not depend on what stands around them.
    """
    lanes = [kind for kind in (x, y, z) if not isinstance(kind, types.Number)]
    kind = lanes[0] if lanes else typing.unify_types(x, y, z)
    real = kind.dtype if lanes else kind
    if real not in (types.float64, types.float32):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        llvm = context.get_value_type(kind)
        vector = f"v{llvm.count}" if lanes else ""
        function = ir.FunctionType(llvm, [llvm] * 3)
        name = f"llvm.fmuladd.{vector}f{real.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    return kind(kind, kind, kind), generate


@cache
def cache_folder() -> Path:
    """Folder of this version's compiled code: in the user's cache, or in the temporary folder if that is read-only."""
    package = Path(__file__).parent
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
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "byolsim"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "byolsim"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byolsim"
