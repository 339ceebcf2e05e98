"""The kind of processor that computes here, as far as bits depend on it."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_info


def processor() -> dict[str, str]:
    """What kernels are compiled for, `cpu`, if any are, and what each BLAS library computes for, by name and version.

    Compiled code joins a product and a sum where the processor can; OpenBLAS has kernels of its own for each family.
    """
    numba, kinds = sys.modules.get("numba"), dict[str, str]()
    if numba is not None:  # else nothing was compiled, and to ask would load it
        from llvmlite.binding import get_host_cpu_name

        kinds["cpu"] = str(numba.config.CPU_NAME or get_host_cpu_name())
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = f"{library['internal_api']} {library['version']}"
            kinds[name] = str(library.get("architecture", "unknown"))
    return kinds
