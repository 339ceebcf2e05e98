"""Which pool: by the word of `--executor`, or by the kind of an executor."""

from __future__ import annotations

from concurrent.futures import Executor
from importlib import import_module

from byolsim.config.commands import ExecutorName
from byolsim.sweeps.pools.base import Choice
from byolsim.sweeps.pools.dask import Dask
from byolsim.sweeps.pools.executor import Through


def choice_of(name: ExecutorName) -> Choice:
    """What a value of `--executor` stands for: the `CHOICE` of the module of its name in this folder."""
    choice = import_module(f"byolsim.sweeps.pools.{name}").CHOICE
    assert isinstance(choice, Choice)
    return choice


def pool_class(executor: Executor) -> type[Through]:
    """The pool that knows the ways of an executor."""
    return Dask if Dask.knows(executor) else Through


def executor_size(executor: Executor, limit: int | None = None) -> int:
    """Groups that an executor is given at a time: `limit`, or one a worker where the workers can be counted."""
    return pool_class(executor).workers_of(executor, limit)
