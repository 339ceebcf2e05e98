"""Small configurations and states that several tests share."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import naive
import numpy as np
import pytest

from byolsim.backends import get_backend
from byolsim.backends.base import LogBlock
from byolsim.cli import main
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, minibatch_blocks, split_draws
from byolsim.model.encoder import initial_weights
from byolsim.model.metrics import METRICS
from byolsim.model.start import Start
from byolsim.model.world import World
from byolsim.record import ClipCounts, RunRecord
from byolsim.simulate import simulate_runs
from byolsim.store.files import save
from byolsim.store.names import run_path

Array = np.ndarray
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = [pytest.mark.torch, pytest.mark.skipif(not HAS_TORCH, reason="no torch")]
BACKENDS = ("numpy", "numba", pytest.param("torch", marks=needs_torch))
"""The catalogue that parametrises every contract test."""

SMALL: dict[str, Any] = {
    "d_latent": 3,
    "d_obs": 8,
    "batch_size": 5,
    "epochs": 40,
    "log_every": 7,
    "latent_spectrum": "geometric:0.5:4",
    "mixing": "gaussian",
    "init": "random",
    "device": "cpu",
    "mom_pred": 0.5,
    "mom_enc": 0.4,
}


def small(**options: Any) -> RunConfig:
    """A run of a few milliseconds with nothing at its default where the default would hide a mistake."""
    return RunConfig(**(SMALL | options))


def one_run(config: RunConfig) -> RunRecord:
    """Run a single configuration, a group of one."""
    (record,) = simulate_runs([config])
    return record


def made_up(diverged: int | None = None, rows: int = 3, **fields: Any) -> RunRecord:
    """A run of a sweep that nobody computed, with rows at epochs 0, 10, 20."""
    rates: dict[str, Any] = {
        "lr_pred": 1e-3,
        "lr_enc": 1e-3,
        "lr_enc_mode": "same",
        "tau": 1e-2,
        "seed": 1,
        "epochs": 20,
    }
    columns = {name: np.arange(rows, dtype=np.float64) + 10.0 * k for k, name in enumerate(METRICS)}
    status: Literal["completed", "diverged"] = "completed" if diverged is None else "diverged"
    config = RunConfig(**(rates | fields))
    return RunRecord(config, 10 * np.arange(rows), columns, status, diverged, ClipCounts(0, 0, 0), 0.5)


def store_made_up(folder: Path, **fields: Any) -> Path:
    """The file of such a run."""
    record = made_up(**fields)
    return save(record, run_path(folder, record.config))


def four_runs(folder: Path) -> Path:
    """A folder of 11 rows: three runs of a sweep, one of them diverged, and a single one whose rates are auto."""
    store_made_up(folder, tau=1e-2, seed=2)
    store_made_up(folder, tau=1e-3, seed=1)
    store_made_up(folder, tau=1e-1, seed=1, diverged=15, rows=2)
    store_made_up(folder, lr_enc_mode=None, lr_pred=None, lr_enc=None, auto_alpha_c=0.4, auto_beta_c=0.4)
    return folder


def byolsim(*args: str) -> tuple[int, str, str]:
    """A command line in this process, one text or its words: (exit code, standard output, standard error)."""
    words = shlex.split(args[0]) if len(args) == 1 else args
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class Problem:
    """A generic world and state with one minibatch, samples as columns."""

    world: World
    P: Array
    B_o: Array
    B_t: Array
    X: Array
    X_plus: Array

    @property
    def moments(self) -> tuple[Array, Array]:
        """Sample second moments S_xx and S_px."""
        n = self.X.shape[1]
        return self.X @ self.X.T / n, self.X_plus @ self.X.T / n


def problem(r: int = 3, d: int = 7, n: int = 5, seed: int = 0, sigma: float = 0.7) -> Problem:
    """A state in general position."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, r)) / np.sqrt(d)
    lam = np.sort(rng.uniform(0.5, 3.0, r))[::-1]
    signal = A @ (np.sqrt(lam)[:, None] * rng.normal(size=(r, n)))
    return Problem(
        world=World(A, lam, sigma),
        P=rng.normal(size=(r, r)) / np.sqrt(r),
        B_o=rng.normal(size=(r, d)) / np.sqrt(d),
        B_t=rng.normal(size=(r, d)) / np.sqrt(d),
        X=signal + sigma * rng.normal(size=(d, n)),
        X_plus=signal + sigma * rng.normal(size=(d, n)),
    )


def trajectory(config: RunConfig, initial: Start | None = None) -> LogBlock:
    """The logged order parameters of one run, as one block (the run must have at most 64 rows)."""
    world = World.from_config(config)
    (block,) = get_backend(config.backend).simulate(world, [config], lambda epochs: None, initial)
    return block


def oracle_rows(config: RunConfig, world: World) -> tuple[list[dict[str, Any]], list[int]]:
    """The oracle's rows on the draws of the package's own stream, and its clip counts."""
    start = initial_weights(config, world)
    options: dict[str, Any] = {
        "mu_P": config.mom_pred,
        "mu_B": config.mom_enc,
        "tau": config.tau,
        "eta": config.weight_decay,
        "pred_every": config.pred_update_every,
        "enc_every": config.enc_update_every,
        "alpha": config.lr_pred,
        "beta": config.lr_enc,
        "c_alpha": config.auto_alpha_c,
        "c_beta": config.auto_beta_c,
        "power_iters": config.power_iters,
        "auto_every": config.auto_every,
        "log_every": config.log_every,
    }
    given = (world.A, world.lam, world.sigma, start.B_o, start.P)
    if config.sampler == "population":
        rows = naive.population_trajectory(*given, config.epochs, **options)
    else:
        key = MinibatchKey(config.seed, config.batch_size, config.d_obs, config.d_latent)
        parts = (split_draws(row, key) for block in minibatch_blocks(key, config.epochs) for row in block)
        draws = [(z.T.copy(), e.T.copy(), e_plus.T.copy()) for z, e, e_plus in parts]
        rows = naive.trajectory(*given, draws, **options, noise_cap=bool(config.auto_noise_limit))
    last = rows[-1]
    return rows, [last["n_cap_pred"], last["n_cap_enc"], last["n_floor"]]


def gram(b: Array, L: Array) -> Array:
    """B B^T of an encoder from its order parameters."""
    return np.asarray(b @ np.swapaxes(b, -1, -2) + L @ np.swapaxes(L, -1, -2))
