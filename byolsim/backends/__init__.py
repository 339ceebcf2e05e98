"""Backends by name; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from byolsim.backends.base import Backend
from byolsim.errors import UserError

_HOMES = {
    "numpy": ("byolsim.backends.plain", "PlainBackend"),
    "numba": ("byolsim.backends.numba", "NumbaBackend"),
    "torch": ("byolsim.backends.torch", "TorchBackend"),
}


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    UserError
        If there is none, or if the library that it needs is not installed.
    """
    if name not in _HOMES:
        raise UserError(f"backend {name!r} is not part of this version: must be one of {', '.join(_HOMES)}")
    module, cls = _HOMES[name]
    try:
        backend = getattr(import_module(module), cls)()
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"backend {name!r} needs PyTorch, which is not installed: pip install 'byolsim[torch]'"
        ) from None
    assert isinstance(backend, Backend)
    return backend
