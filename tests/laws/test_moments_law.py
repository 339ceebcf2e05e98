"""The moments sampler has the law of explicit sampling: two-sample Kolmogorov-Smirnov tests on the final state.

Each of 4,000 seeds trains one run of the program for 12 steps; 4,000 explicit trainings, in NumPy and without the
program's code (`ensembles`), are the other sample. World, initial weights and statistics are fixed in advance, rates
are large enough that the noise decides the outcome. Seeds are fixed, so a test is certain; over seeds, the whole of
this file raises a false alarm with probability 1 % (Bonferroni over all comparisons). Deliberately wrong samplers must
be caught by the same comparison.
"""

from __future__ import annotations

from functools import cache

import ensembles
import numpy as np
import pytest
from cases import small
from ensembles import Ends, Explicit, smallest_p

from byolsim.backends.numba.samplers import reduced, reduced_arrays
from byolsim.draws import streams
from byolsim.model.start import Start
from byolsim.model.world import World, latent_variances

SEEDS = 4000
RUNS = {
    # n < r, at the smallest d that the reduced form takes
    "n<r": {"batch_size": 2, "mom_pred": 0.0, "mom_enc": 0.0, "lr_pred": 0.1, "lr_enc": 0.08},
    # r <= n < 3r, with momentum and weight decay
    "r<=n<3r": {"batch_size": 4, "mom_pred": 0.6, "mom_enc": 0.5, "weight_decay": 0.1, "lr_pred": 0.1, "lr_enc": 0.06},
    # n > 3r, with update periods other than 1 and the predictor's rate from the schedule, so from the curvature
    "n>3r": {
        "batch_size": 11, "mom_pred": 0.5, "mom_enc": 0.6, "pred_update_every": 2, "enc_update_every": 3,
        "lr_pred": None, "auto_alpha_c": 1.5, "lr_enc": 0.3, "ema_m": 0.6,
    },
}  # fmt: skip
RUNS["r=1"] = RUNS["n<r"] | {"d_latent": 1, "d_obs": 5, "latent_spectrum": "1.0", "lr_enc": 0.12, "sigma_n": 1.0}
STATISTICS = (*ensembles.STATISTICS, "smallest singular value of L_o", "rate of P")
ALARM = 0.01 / (len(STATISTICS) * len(RUNS) * 2)


def configuration(case, form):
    shape = {"d_latent": 3, "d_obs": 15, "epochs": 12, "log_every": 12, "sigma_n": 0.8, "ema_m": 0.8, "auto_every": 4}
    fixed = {"auto_alpha_c": 0.0, "auto_beta_c": 0.0, "latent_spectrum": "1.5,1.0,0.5"}
    return small(sampler="moments", moments_form=form, **(shape | fixed | RUNS[case]))


def setting(config):
    """The one world and start of all runs: P in general position, B_o with a part outside of A's columns."""
    rng = np.random.default_rng(99)
    r, d = config.d_latent, config.d_obs
    world = World(rng.normal(size=(d, r)) / np.sqrt(d), latent_variances(config.latent_spectrum, r), config.sigma_n)
    B_o, P = rng.normal(size=(r, d)) / np.sqrt(d), 0.5 * np.eye(r) + 0.2 * rng.normal(size=(r, r))
    return world, Start(P, np.zeros_like(P), B_o, np.zeros_like(B_o), B_o)


def statistics(ends: Ends):
    """One column for each of `STATISTICS`."""
    smallest = np.linalg.svd(ends.L_o, compute_uv=False)[:, ends.P.shape[1] - 1]
    return ensembles.statistics(ends, smallest, ends.rate)


def program(case, form):
    """Statistics (SEEDS, len(STATISTICS)) of runs of the program."""
    config = configuration(case, form)
    return statistics(ensembles.program(config, *setting(config), SEEDS))


def explicit(case, noise=1.0):
    """The same statistics with every sample drawn."""
    config = configuration(case, "direct")
    world, start = setting(config)
    rng = np.random.default_rng(1234 if noise == 1 else 4321)

    def draw():
        r, d, n = config.d_latent, config.d_obs, config.batch_size
        signal = world.A * np.sqrt(world.lam) @ rng.normal(size=(SEEDS, r, n))
        return tuple(signal + noise * world.sigma * rng.normal(size=(SEEDS, d, n)) for _ in range(2))

    return statistics(Explicit(config, start, draw).ends(world.Q))


explicit_sample = cache(explicit)
"""Explicit trainings of each case, made once."""


def comparison(case, form):
    """The smallest p-value over the statistics, and whose it is."""
    return smallest_p(program(case, form), explicit_sample(case), STATISTICS)


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("case", RUNS)
def test_same_law_as_explicit_sampling(case, form):
    p, name = comparison(case, form)
    assert p > ALARM, f"{name}: p = {p:.1e}"


def one_degree_more(key):
    """Bartlett's first diagonal with one degree of freedom too many."""
    on_W, fresh = DEGREES.fget(key)
    return on_W + 1, fresh


def one_fresh_degree_more(key):
    """The fresh directions with one dimension too many."""
    on_W, fresh = DEGREES.fget(key)
    return on_W, fresh + 1


DEGREES = streams.MomentsKey.degrees
WRONG_DEGREES = {"chi-square": one_degree_more, "fresh chi-square": one_fresh_degree_more}


@pytest.mark.parametrize(
    ("case", "form", "wrong"),
    [("n<r", "direct", "chi-square"), ("n<r", "reduced", "chi-square"), ("r=1", "reduced", "fresh chi-square")],
)
def test_a_degree_of_freedom_too_many_is_caught(monkeypatch, case, form, wrong):
    """At n = 2 and d = 5r, where it shows."""
    monkeypatch.setattr(streams.MomentsKey, "degrees", property(WRONG_DEGREES[wrong]))
    assert comparison(case, form)[0] < ALARM


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_outside_noise_of_the_wrong_size_is_caught(monkeypatch, form):
    """N a tenth too large."""
    blocks = streams.moment_blocks

    def larger(key, epochs, fill=None, after=0):
        (q, m), _ = key.shapes
        for draws in blocks(key, epochs, fill, after):
            draws[:, q * m :] *= 1.1
            yield draws

    monkeypatch.setattr("byolsim.model.samplers.moment_blocks", larger)
    assert comparison("r<=n<3r", form)[0] < ALARM


def test_a_forgotten_posterior_covariance_is_caught(monkeypatch):
    """The reduced form with sigma^2 I in place of sigma^2 (K + I) for the second view given the first."""
    arrays = reduced_arrays.reduced_world

    def without_K(config, world):
        return arrays(config, world)._replace(root=np.eye(world.q))

    monkeypatch.setattr(reduced, "reduced_world", without_K)
    assert comparison("n>3r", "reduced")[0] < ALARM


def test_the_comparison_sees_a_noise_that_is_a_twentieth_too_large():
    wrong = explicit("n>3r", noise=1.05)
    assert smallest_p(wrong, explicit_sample("n>3r"), STATISTICS)[0] < ALARM
