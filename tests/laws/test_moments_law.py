"""The moments sampler has the law of explicit sampling: two-sample Kolmogorov-Smirnov tests on the final state.

Each of 4,000 seeds trains one run of the program for 12 steps; 4,000 explicit trainings, written here in NumPy for all
of them at once and without the program's code, are the other sample. World, initial weights and statistics are fixed in
advance, rates are large enough that the noise decides the outcome. Seeds are fixed, so a test is certain; over seeds,
the whole of this file raises a false alarm with probability 1 % (Bonferroni over all comparisons). Deliberately wrong
samplers must be caught by the same comparison.
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import small
from scipy.stats import ks_2samp

from byolsim.backends import get_backend
from byolsim.backends.numba.samplers import reduced, reduced_arrays
from byolsim.draws import streams
from byolsim.model.encoder import Start
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
STATISTICS = (
    "loss", "Hmax", "gap", "norm of P", "P[0, 0]", "P[-1, 0]", "b_o[0, 0]", "tr b_o b_t^T", "tr L_o L_o^T",
    "tr L_t L_t^T", "smallest singular value of L_o", "rate of P",
)  # fmt: skip
ALARM = 0.01 / (len(STATISTICS) * len(RUNS) * 2)


def configuration(case, form):
    shape = {"d_latent": 3, "d_obs": 15, "epochs": 12, "log_every": 12, "sigma_n": 0.8, "ema_m": 0.8, "auto_every": 4}
    fixed = {"auto_alpha_c": 0.0, "auto_beta_c": 0.0, "latent_spectrum": "1.5,1.0,0.5"}
    return small(sampler="moments", moments_form=form, **(shape | fixed | RUNS[case]))


def start(config):
    """The one world and start of all runs: P in general position, B_o with a part outside of A's columns."""
    rng = np.random.default_rng(99)
    r, d = config.d_latent, config.d_obs
    world = World(rng.normal(size=(d, r)) / np.sqrt(d), latent_variances(config.latent_spectrum, r), config.sigma_n)
    return world, rng.normal(size=(r, d)) / np.sqrt(d), 0.5 * np.eye(r) + 0.2 * rng.normal(size=(r, r))


@pytest.fixture
def program():
    """Statistics (SEEDS, len(STATISTICS)) of runs of the program."""

    def sample(case, form):
        config = configuration(case, form)
        world, B_o, P = start(config)
        initial = Start(P, np.zeros_like(P), B_o, np.zeros_like(B_o), B_o)
        backend = get_backend("numba")
        values = []
        for seed in range(SEEDS):
            member = config.model_copy(update={"seed": seed})
            (block,) = backend.simulate(world, [member], lambda epochs: None, initial)
            order = block.order
            state = {name: getattr(order, name)[:, -1] for name in ("P", "b_o", "L_o", "b_t", "L_t", "gap")}
            values.append(statistics(*(block.steps[name][:, -1] for name in ("loss", "Hmax", "lr_pred_t")), **state)[0])
        return np.array(values)

    return sample


def statistics(loss, H, rate, P, b_o, L_o, b_t, L_t, gap):
    """One column for each of `STATISTICS`, of stacked states; L_o and L_t may be any factors of the outside parts."""
    r = P.shape[1]
    columns = (
        loss, H, gap, np.linalg.norm(P, axis=(1, 2)), P[:, 0, 0], P[:, -1, 0], b_o[:, 0, 0],
        (b_o * b_t).sum(axis=(1, 2)), (L_o**2).sum(axis=(1, 2)), (L_t**2).sum(axis=(1, 2)),
        np.linalg.svd(L_o, compute_uv=False)[:, r - 1], rate,
    )  # fmt: skip
    return np.stack(columns, axis=1)


def explicit(case, noise=1.0):
    """The same statistics with every sample drawn: the step and the schedule's conventions, SEEDS runs at once."""
    config = configuration(case, "direct")
    world, B_o, P = start(config)
    rng = np.random.default_rng(1234 if noise == 1 else 4321)
    r, d, n, eta = config.d_latent, config.d_obs, config.batch_size, config.weight_decay
    P, B_o = np.tile(P, (SEEDS, 1, 1)), np.tile(B_o, (SEEDS, 1, 1))
    B_t, V_P, V_B = B_o.copy(), np.zeros_like(P), np.zeros_like(B_o)
    average, vector = np.zeros((SEEDS, r, r)), np.full((SEEDS, r, 1), r**-0.5)
    for t in range(1, config.epochs + 1):
        signal = world.A * np.sqrt(world.lam) @ rng.normal(size=(SEEDS, r, n))
        x, x_plus = (signal + noise * world.sigma * rng.normal(size=(SEEDS, d, n)) for _ in range(2))
        z = B_o @ x
        delta = P @ z - B_t @ x_plus
        loss = 0.5 * (delta**2).sum(axis=(1, 2)) / n
        G = delta @ x.transpose(0, 2, 1) / n
        if (t - 1) % config.auto_every == 0:
            tick = (t - 1) // config.auto_every + 1
            average = 0.9 * average + 0.1 * z @ z.transpose(0, 2, 1) / n
            for _ in range(100 if tick == 1 else config.power_iters):
                image = average @ vector
                vector = image / np.linalg.norm(image, axis=1, keepdims=True)
            H = (vector * (average @ vector)).sum(axis=(1, 2)) / (1 - 0.9**tick)
            if tick == 1:
                floor = 1e-3 * H
        rate = np.full(SEEDS, config.lr_pred or 0.0)
        if config.auto_alpha_c:
            H_t = np.maximum(H, floor)
            rate = np.minimum(config.auto_alpha_c * config.tau / H_t, 0.99 * 2 * (1 + config.mom_pred) / H_t)
        grad_P, grad_B = G @ B_o.transpose(0, 2, 1) + eta * P, P.transpose(0, 2, 1) @ G + eta * B_o
        if t % config.pred_update_every == 0:
            V_P = config.mom_pred * V_P + grad_P
            P = P - rate[:, None, None] * V_P
        if t % config.enc_update_every == 0:
            V_B = config.mom_enc * V_B + grad_B
            B_o = B_o - config.lr_enc * V_B
        B_t = (1 - config.tau) * B_t + config.tau * B_o
    outside = np.eye(d) - world.Q @ world.Q.T
    gap = np.linalg.norm(B_o - B_t, axis=(1, 2))
    return statistics(loss, H, rate, P, B_o @ world.Q, B_o @ outside, B_t @ world.Q, B_t @ outside, gap)


@pytest.fixture(scope="module")
def explicit_sample():
    """Explicit trainings of each case, made once."""
    made = {}

    def sample(case):
        if case not in made:
            made[case] = explicit(case)
        return made[case]

    return sample


def smallest_p(left, right):
    """The smallest p-value over the statistics, and whose it is."""
    values = {
        name: 1.0 if np.array_equal(left[:, k], right[:, k]) else ks_2samp(left[:, k], right[:, k]).pvalue
        for k, name in enumerate(STATISTICS)
    }
    name = min(values, key=values.get)
    return values[name], name


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("case", RUNS)
def test_same_law_as_explicit_sampling(program, explicit_sample, case, form):
    p, name = smallest_p(program(case, form), explicit_sample(case))
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
def test_a_degree_of_freedom_too_many_is_caught(program, explicit_sample, monkeypatch, case, form, wrong):
    """At n = 2 and d = 5r, where it shows."""
    monkeypatch.setattr(streams.MomentsKey, "degrees", property(WRONG_DEGREES[wrong]))
    assert smallest_p(program(case, form), explicit_sample(case))[0] < ALARM


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_outside_noise_of_the_wrong_size_is_caught(program, explicit_sample, monkeypatch, form):
    """N a tenth too large."""
    blocks = streams.moment_blocks

    def larger(key, epochs, fill=None, after=0):
        (q, m), _ = key.shapes
        for draws in blocks(key, epochs, fill, after):
            draws[:, q * m :] *= 1.1
            yield draws

    monkeypatch.setattr("byolsim.model.samplers.moment_blocks", larger)
    assert smallest_p(program("r<=n<3r", form), explicit_sample("r<=n<3r"))[0] < ALARM


def test_a_forgotten_posterior_covariance_is_caught(program, explicit_sample, monkeypatch):
    """The reduced form with sigma^2 I in place of sigma^2 (K + I) for the second view given the first."""
    arrays = reduced_arrays.reduced_world

    def without_K(config, world):
        return arrays(config, world)._replace(root=np.eye(world.q))

    monkeypatch.setattr(reduced, "reduced_world", without_K)
    assert smallest_p(program("n>3r", "reduced"), explicit_sample("n>3r"))[0] < ALARM


def test_the_comparison_sees_a_noise_that_is_a_twentieth_too_large(explicit_sample):
    wrong = explicit("n>3r", noise=1.05)
    assert smallest_p(wrong, explicit_sample("n>3r"))[0] < ALARM
