"""byolsim: learning dynamics of linear non-contrastive self-supervised models, a grid of runs at a time.

`RunConfig` and `SweepConfig` describe runs, `World` the law of their data; `run` and `sweep` compute and store them;
`simulate_runs` returns records without files; `load_runs` reads a folder back as one table. Names are imported on
first use: `import byolsim` is light.
"""

from __future__ import annotations

from importlib import import_module

from byolsim.version import __version__

TYPE_CHECKING = False  # checkers take it for true; the module `typing` would be most of the time of `import byolsim`
if TYPE_CHECKING:
    from typing import Any

    from byolsim.config.grid import SweepConfig
    from byolsim.config.run import RunConfig
    from byolsim.model.world import World
    from byolsim.simulate import simulate_runs
    from byolsim.store.folder import load_runs
    from byolsim.sweeps.launch import run, sweep

__all__ = ["RunConfig", "SweepConfig", "World", "__version__", "load_runs", "run", "simulate_runs", "sweep"]

_HOMES = {
    "RunConfig": "byolsim.config.run",
    "SweepConfig": "byolsim.config.grid",
    "World": "byolsim.model.world",
    "load_runs": "byolsim.store.folder",
    "run": "byolsim.sweeps.launch",
    "simulate_runs": "byolsim.simulate",
    "sweep": "byolsim.sweeps.launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'byolsim' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
