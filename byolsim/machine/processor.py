"""The kind of processor that computes here, as far as bits depend on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache

from threadpoolctl import threadpool_info


def processor() -> Mapping[str, str]:
    """What kernels are compiled for, `cpu`, if any are, and what each BLAS library computes for, by name and version.

    Compiled code joins a product and a sum where the processor can; OpenBLAS has kernels of its own for each family.
    """
    return _processor("numba" in sys.modules, "torch" in sys.modules)


@cache
def _processor(numba: bool, torch: bool) -> Mapping[str, str]:
    """By the libraries that are loaded: numba, which to ask would load, and torch, which brings a BLAS of its own."""
    kinds: dict[str, str] = {}
    if numba:
        from llvmlite.binding import get_host_cpu_name

        kinds["cpu"] = str(sys.modules["numba"].config.CPU_NAME or get_host_cpu_name())
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = f"{library['internal_api']} {library['version']}"
            kinds[name] = str(library.get("architecture", "unknown"))
    return kinds
