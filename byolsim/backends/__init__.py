"""Backends by name; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from byolsim.backends.base import Backend
from byolsim.errors import UserError

_HOMES = {"numba": ("byolsim.backends.numba", "NumbaBackend")}


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    UserError
        If there is none; the message lists those there are.
    """
    if name not in _HOMES:
        raise UserError(f"backend {name!r} is not part of this version: must be one of {', '.join(_HOMES)}")
    module, cls = _HOMES[name]
    backend = getattr(import_module(module), cls)()
    assert isinstance(backend, Backend)
    return backend
