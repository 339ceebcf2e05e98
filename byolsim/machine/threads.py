"""One thread of BLAS, OpenMP and numba: with more, the last bits depend on their number, and workers are slower."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile use one BLAS, OpenMP and numba thread."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_lock = threading.Lock()
_limits: list[Any] = []
_inside = 0


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One BLAS thread until the last of the threads that are inside has left, and one OpenMP thread for this one.

    The number of BLAS threads belongs to the process: each of two threads would otherwise give the other back what it
    took away. That of OpenMP belongs to the thread. Each entry sets the limit again, for a library loaded meanwhile.
    """
    global _inside
    libraries = ThreadpoolController()  # a limit restores all that it was shown, so each is shown its own kind
    with libraries.select(user_api="openmp").limit(limits=1):
        with _lock:
            _limits.append(libraries.select(user_api="blas").limit(limits=1))
            _inside += 1
        try:
            yield
        finally:
            with _lock:
                _inside -= 1
                if _inside == 0:
                    while _limits:  # what the first found is restored last
                        _limits.pop().restore_original_limits()
