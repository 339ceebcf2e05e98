"""The kind of processor that computes here, as far as bits depend on it."""

from __future__ import annotations

from functools import cache
from typing import Any

from threadpoolctl import threadpool_info


@cache
def processor() -> dict[str, str]:
    """What the kernels are compiled for, `cpu`, and what each BLAS library computes for, by its name and version.

    Compiled code joins a product and a sum where the processor can; OpenBLAS has kernels of its own for each family.
    """
    from llvmlite.binding import get_host_cpu_name  # loads LLVM
    from numba import config

    settings: Any = config
    kinds = {"cpu": str(settings.CPU_NAME or get_host_cpu_name())}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = f"{library['internal_api']} {library['version']}"
            kinds[name] = str(library.get("architecture", "unknown"))
    return kinds
