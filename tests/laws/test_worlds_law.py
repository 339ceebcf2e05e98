"""In worlds of every kind and at every width the moments sampler has the law of explicit sampling.

As `test_moments_law.py`: 3,000 seeds of the program, 10 steps each, against 3,000 explicit trainings. Pairs (x, x+)
are drawn from a root of the joint covariance (2d, 2d), which is put together from its blocks, so nothing of the
program's loadings enters. Settings and statistics were fixed in advance and the seeds are fixed; over seeds this file
raises a false alarm with probability 1 % (two-sample Kolmogorov-Smirnov, Bonferroni over all comparisons).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ensembles
import numpy as np
import pytest
from ensembles import Ends, Explicit, general_start, joint, joint_of_options, pairs, smallest_p

from byolsim.config.run import RunConfig
from byolsim.draws import streams
from byolsim.model.world import World

SEEDS = 3000
STATISTICS = (*ensembles.STATISTICS, "energy of the first mode", "energy of the last mode")
COMMON: dict[str, Any] = {
    "backend": "numba", "sampler": "moments", "epochs": 10, "log_every": 10, "auto_every": 5, "ema_m": 0.8,
    "sigma_n": 0.8, "mixing": "gaussian", "mom_pred": 0.0, "mom_enc": 0.0, "lr_pred": 0.1, "lr_enc": 0.08,
    "auto_alpha_c": 0.0, "auto_beta_c": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What differs from `COMMON`: `moments` = (q, rank of S_xx, sigma, sigma_plus) makes a world of second moments."""

    options: dict[str, Any]
    moments: tuple[int, int, float, float] | None = None
    forms: tuple[str, ...] = ("direct", "reduced")


CASES = {
    # n >= q + 2k
    "k<r": Case({"d_latent": 4, "d_embed": 2, "d_obs": 12, "latent_spectrum": "3,1.5,1,0.5", "batch_size": 9}),
    # At the smallest d that the reduced form takes: one degree of freedom in the one fresh direction
    "k=1": Case({
        "d_latent": 2, "d_embed": 1, "d_obs": 6, "latent_spectrum": "1,0.3", "batch_size": 1, "sigma_n": 1.0,
        "ema_m": 0.5, "lr_enc": 0.24, "lr_pred": 0.03, "epochs": 6, "log_every": 6,
    }),
    # n < k, at the smallest d that the reduced form takes
    "k>r": Case({"d_latent": 2, "d_embed": 3, "d_obs": 14, "latent_spectrum": "2,1", "batch_size": 2}),
    # k <= n < q + 2k, with momentum and weight decay
    "nuisance": Case({
        "d_latent": 2, "d_embed": 2, "d_obs": 13, "latent_spectrum": "2,1", "d_nuisance": 2, "batch_size": 5,
        "nuisance_spectrum": "3,0.5", "mom_pred": 0.5, "mom_enc": 0.4, "weight_decay": 0.1, "lr_enc": 0.05,
    }),
    "clean target": Case({
        "d_latent": 2, "d_obs": 10, "latent_spectrum": "2,1", "sigma_n_target": 0.0, "batch_size": 8, "lr_enc": 0.1,
    }),
    "noisier target": Case({
        "d_latent": 2, "d_obs": 10, "latent_spectrum": "2,1", "sigma_n_target": 1.4, "batch_size": 4,
    }),
    "correlation": Case({
        "d_latent": 3, "d_embed": 2, "d_obs": 11, "latent_spectrum": "2,1.5,1", "correlation": "-0.8,0.5,1",
        "batch_size": 3,
    }),
    "moments": Case({"d_embed": 2, "batch_size": 4, "d_obs": 12}, (3, 3, 0.7, 0.3)),
    "moments, singular S_xx": Case({"d_embed": 2, "batch_size": 8, "d_obs": 12}, (3, 2, 0.7, 1.1)),
    "moments, q=d": Case({"d_embed": 3, "batch_size": 2, "d_obs": 4}, (4, 4, 0.0, 0.0), ("direct",)),
    "moments, k>d-q": Case({"d_embed": 3, "batch_size": 4, "d_obs": 5}, (3, 3, 0.9, 0.5), ("direct",)),
}  # fmt: skip
ALARM = 0.01 / (len(STATISTICS) * sum(len(case.forms) for case in CASES.values()))


def blocks(q: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S_xx of this rank, an asymmetric S_px and S_pp, of views that have half of their power in common."""
    rng = np.random.default_rng(17)
    x, x_plus = rng.normal(size=(q, rank)) @ rng.normal(size=(rank, 2 * q)), rng.normal(size=(q, 2 * q))
    x_plus = x_plus + 0.8 * rng.normal(size=(q, q)) @ x
    return tuple(a @ b.T / (2 * q * rank) for a, b in ((x, x), (x_plus, x), (x_plus, x_plus)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


def setting(name: str, form: str, folder, **changed: Any) -> tuple[RunConfig, World, np.ndarray]:
    """The configuration, the program's world and the joint covariance (2d, 2d) of (x, x+), by hand."""
    case = CASES[name]
    options = COMMON | case.options | {"moments_form": form} | changed
    d = options["d_obs"]
    if case.moments is not None:
        q, rank, sigma, sigma_plus = case.moments
        S = blocks(q, rank)
        Q = np.linalg.qr(np.random.default_rng(18).normal(size=(d, q)))[0] if d > q else np.eye(d)
        world = World.from_moments(*S, Q=Q, sigma=sigma, sigma_plus=sigma_plus) if d > q else World.from_moments(*S)
        del options["sigma_n"], options["mixing"], options["d_obs"]
        config = RunConfig(world=str(world.save(folder / f"{name}.npz")), **options)
        Pi = np.eye(d) - Q @ Q.T
        inside = [Q @ block @ Q.T for block in S]
        return config, world, joint(inside[0] + sigma**2 * Pi, inside[1], inside[2] + sigma_plus**2 * Pi)
    config = RunConfig(**options)
    world = World.from_config(config)
    return config, world, joint_of_options(config, world)


def statistics(ends: Ends, world: World) -> np.ndarray:
    """One column for each of `STATISTICS`."""
    energies = ((ends.b_o @ (world.S_root @ world.directions)) ** 2).sum(axis=1)
    return ensembles.statistics(ends, energies[:, 0], energies[:, -1])


def program(config: RunConfig, world: World) -> np.ndarray:
    """Statistics (SEEDS, len(STATISTICS)) of runs of the program."""
    return statistics(ensembles.program(config, world, general_start(config), SEEDS), world)


def explicit(config: RunConfig, world: World, covariance: np.ndarray) -> np.ndarray:
    """The same statistics with every pair of views drawn."""
    draw = pairs(covariance, config.batch_size, SEEDS)
    return statistics(Explicit(config, general_start(config), draw).ends(world.Q), world)


@pytest.fixture(scope="module")
def explicit_sample(folder):
    """Explicit trainings of each case, made once."""
    return cache(lambda name: explicit(*setting(name, CASES[name].forms[0], folder)))


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, case in CASES.items() for form in case.forms])
def test_same_law_as_explicit_sampling(explicit_sample, folder, name, form):
    config, world, _ = setting(name, form, folder)
    p, statistic = smallest_p(program(config, world), explicit_sample(name), STATISTICS)
    assert p > ALARM, f"{statistic}: p = {p:.1e}"


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("name", ["clean target", "noisier target"])
def test_the_noise_of_the_target_in_the_online_view_is_caught(explicit_sample, folder, name, form):
    config, _, _ = setting(name, form, folder)
    swapped = World.from_config(
        config.model_copy(update={"sigma_n": config.sigma_n_target, "sigma_n_target": config.sigma_n})
    )
    assert smallest_p(program(config, swapped), explicit_sample(name), STATISTICS)[0] < ALARM


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_a_correlation_that_is_squared_is_caught(explicit_sample, folder, form):
    config, _, _ = setting("correlation", form, folder)
    squared = World.from_config(config.model_copy(update={"correlation": "0.64,0.25,1.0"}))
    assert smallest_p(program(config, squared), explicit_sample("correlation"), STATISTICS)[0] < ALARM


DEGREES = streams.MomentsKey.degrees


@pytest.mark.parametrize(
    ("name", "form", "off"),
    [("k>r", "direct", (1, 0)), ("k>r", "reduced", (1, 0)), ("k=1", "reduced", (0, 1)), ("moments", "direct", (-1, 0))],
)
def test_a_degree_of_freedom_off_is_caught(explicit_sample, folder, monkeypatch, name, form, off):
    """In W, or in the fresh directions at d = q + 4k."""
    config, world, _ = setting(name, form, folder)
    assert config.moments_form == form

    def wrong(key):
        on_W, fresh = DEGREES.fget(key)
        return np.maximum(on_W + off[0], 1), fresh + off[1]

    monkeypatch.setattr(streams.MomentsKey, "degrees", property(wrong))
    assert smallest_p(program(config, world), explicit_sample(name), STATISTICS)[0] < ALARM


def test_a_hole_that_is_filled_with_noise_is_caught(explicit_sample, folder):
    """Isotropic noise of the size that it has outside, in the structured subspace too."""
    config, world, covariance = setting("moments", "direct", folder)
    hole, d = world.Q @ world.Q.T, config.d_obs
    noise = np.block([[world.sigma**2 * hole, np.zeros((d, d))], [np.zeros((d, d)), world.noise_plus**2 * hole]])
    assert smallest_p(explicit(config, world, covariance + noise), explicit_sample("moments"), STATISTICS)[0] < ALARM
