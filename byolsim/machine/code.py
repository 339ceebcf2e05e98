"""Which code a process runs: versions of the program and its libraries, and a name for the very sources."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from byolsim.version import NUMERICS_VERSION, __version__


@cache
def versions() -> Mapping[str, str]:
    """Versions of this package, of Python and of the libraries that the numbers pass through, in this process."""
    found = {"byolsim": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "numba", "scipy", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def code_id() -> str:
    """Version, numerics version and a hash of all sources: two processes with one `code_id` run the same code."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return f"byolsim {__version__} (numerics {NUMERICS_VERSION}, sources {digest.hexdigest()[:12]})"
