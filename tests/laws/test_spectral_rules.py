"""Laws of predictors that are set from a spectrum (docs/derivation.md, section 14), on runs in the population.

Each law stands beside a variant that breaks it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flows import FLOW, encoders, lag, mode_gains, modes, run, start_at

from byolsim.config.run import RunConfig
from byolsim.model import theory
from byolsim.model.world import World

# --- P = B B^T, full and straight ---

SQUARE = {"pred_rule": "spectral", "pred_corr": "BBT", "pred_power": 1.0, "pred_eps": 0.0}


@pytest.mark.parametrize("jacobian", ["full", "straight"])
def test_law_19_a_predictor_that_is_the_gram_matrix_follows_its_closed_form(jacobian):
    """lambda_j(t) of B B^T against the flow's, less the lag of steps, 0.04: what is left is of order beta^2, 2e-4.

    full: t = [1 / (s lambda_0) - 1 / (s lambda) + (kappa / s^2) log(lambda (s - kappa lambda_0) / (lambda_0 (s - kappa
    lambda)))] / 2. straight: t = log(lambda (s - kappa lambda_0) / (lambda_0 (s - kappa lambda))) / (2 s).
    """
    s, sigma, beta, T = np.array([2.0, 1.0, 0.4]), 0.5, 0.01, 1200
    kappa = s + sigma**2
    config = modes("2,1,0.4", 3, **SQUARE, sigma_n=sigma, init_scale=0.4, lr_enc=beta, pred_jacobian=jacobian, epochs=T,
                   log_every=T // 60)  # fmt: skip
    b = mode_gains(run(config), World.from_config(config))
    t = beta * np.arange(0, T + 1, T // 60)[:, None]
    lam = b**2

    def time(lam, straight):
        odds = np.log(lam / lam[0] * (s - kappa * lam[0]) / (s - kappa * lam))
        return odds / (2 * s) if straight else (1 / lam[0] - 1 / lam + kappa / s * odds) / (2 * s)

    speed = b * (s - kappa * lam) if jacobian == "straight" else b**3 * (s - kappa * lam)
    live = (s - kappa * lam) > 1e-4 * s  # beyond, the time to get there is a logarithm of rounding
    predicted = time(lam, jacobian == "straight") + lag(beta, speed, speed[0])
    assert live.sum() > 60
    assert np.abs(predicted - t)[live].max() < 5 * beta**2
    assert np.abs(time(lam, jacobian != "straight") - t)[live].max() > 0.3, "the other Jacobian has another law"
    w = s / kappa
    np.testing.assert_allclose(lam[-1, :2], w[:2], atol=1e-4)  # the third has not had the time
    if jacobian == "straight":
        logistic = s / (kappa + (s / lam[0] - kappa) * np.exp(-2 * s * t))
        np.testing.assert_allclose(lam, logistic, atol=beta * s.max() / 2)


def test_law_19_the_straight_jacobian_has_one_speed_where_the_signal_is_one():
    """At s = 1, noise or not, log(lambda / (w - lambda)) grows at the rate 2 from every start; full: it does not."""
    slopes = {}
    for jacobian in ("full", "straight"):
        config = modes(
            "flat:1", 3, **SQUARE, sigma_n=0.3, lr_enc=0.005, pred_jacobian=jacobian, epochs=200, log_every=200
        )
        world = World.from_config(config)
        B_o = np.diag([0.6, 0.3, 0.1]) @ world.directions.T @ world.Q.T
        lam = mode_gains(run(config, world, start_at(B_o)), world) ** 2
        slopes[jacobian] = np.diff(np.log(lam / (1 / 1.09 - lam)), axis=0)[0]
    np.testing.assert_allclose(slopes["straight"], 2, rtol=0.01)  # the lag is at most beta
    assert slopes["full"].max() > 10 * slopes["full"].min()


# --- fixed points of the spectral rules ---


def test_law_20_directpred_ends_where_its_function_of_the_spectrum_is_the_gain():
    """sqrt(F_j) + eps max F = w_j in the paper's form, F the average of C_oo; a mode with w_j < eps max F dies."""
    s, sigma = np.array([4.0, 1.0, 0.01]), 0.5
    w, kappa = s / (s + sigma**2), s + sigma**2
    config = modes("4,1,0.01", 3, pred_rule="directpred", sigma_n=sigma, init_scale=0.5, lr_enc=0.1, epochs=1500,
                   log_every=1500)  # fmt: skip
    block = run(config)
    F = kappa * mode_gains(block, World.from_config(config))[-1] ** 2
    np.testing.assert_allclose(np.sqrt(F[:2]) + 0.1 * F.max(), w[:2], atol=1e-6)
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(block.order.P[0, -1]))[1:], w[1::-1], atol=1e-6)
    assert w[2] < 0.1 * F.max() and F[2] < 0.5 * kappa[2] * 0.25
    assert abs(np.sqrt(F[1] / F.max()) + 0.1 - w[1]) > 0.02, "the form of the code has another fixed point"


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_law_20_normalised_by_the_maximum_it_collapses(eps):
    """The largest mode has p = 1 + eps, so b falls by 1 - beta p (kappa p - s) a step, exactly while it leads.

    At eps = 0 that is exp(-2 sigma^2 beta steps), as without a predictor. The form of the paper keeps the encoder.
    """
    sigma, beta, T = 0.5, 0.02, 1000
    options: dict[str, Any] = {"sigma_n": sigma, "lr_enc": beta, "epochs": T, "log_every": T // 50}
    options |= {"pred_rule": "directpred", "pred_eps": eps, "pred_corr": "BBT"}
    config = modes("flat:2", 2, **options, pred_norm="max")
    b = mode_gains(run(config), World.from_config(config))
    h = (1 + eps) * ((2 + sigma**2) * (1 + eps) - 2)
    steps = np.arange(0, T + 1, T // 50)[:, None]
    np.testing.assert_allclose(b, np.broadcast_to((1 - beta * h) ** steps, b.shape), rtol=1e-9)
    if eps == 0:
        np.testing.assert_allclose(
            b**2, np.exp(-2 * sigma**2 * beta * steps) + 0 * b, rtol=1.1 * (beta * sigma**2) ** 2 * T
        )
    kept = mode_gains(run(modes("flat:2", 2, **options)), World.from_config(config))
    assert kept[-1].min() > 0.5


def test_law_20_unequal_modes_collapse_together_at_the_same_rate():
    """From any spectrum the ratios of the modes tend to 1, where all have p = 1."""
    sigma, beta = 0.5, 0.05
    config = modes("3,1,0.3", 3, pred_rule="directpred", pred_eps=0.0, pred_norm="max", pred_corr="BBT", sigma_n=sigma,
                   lr_enc=beta, epochs=1200, log_every=100)  # fmt: skip
    world = World.from_config(config)
    B_o = np.diag([0.5, 1.0, 0.7]) @ world.directions.T @ world.Q.T
    b = mode_gains(run(config, world, start_at(B_o)), world)
    np.testing.assert_allclose(b[-1] / b[-1, 0], 1, atol=0.01)
    slopes = np.diff(np.log(b), axis=0)[-1] / 100
    np.testing.assert_allclose(slopes, np.log(1 - beta * sigma**2), rtol=0.02)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("case", ["inside", "small start", "little decay", "much decay", "C_oo"])
def test_law_20_directset_keeps_the_signal_and_drops_the_nuisance(power, case):
    """Wang, Chen, Du and Tian, Theorem 1: b tends to ((1 + sqrt(1 - 4 eta)) / 2)^(1 / (2 power)) where no noise is.

    x is white in d dimensions, views add noise in two of them, B = delta I at the start; for 1 / (4 (1 + sigma^2)) <
    eta < 1/4 and delta^(2 power) > (1 - sqrt(1 - 4 eta)) / 2. Outside either all dies, or the noisy directions live;
    of C_oo in place of B B^T the noisy ones that live are smaller by the root of kappa = 2, clean ones as they were.
    """
    d, noise = 4, np.array([0.0, 0.0, 1.0, 1.0])
    eta = {"little decay": 0.1, "C_oo": 0.1, "much decay": 0.3}.get(case, 0.2)
    root = np.sqrt(max(1 - 4 * eta, 0))
    edge = ((1 - root) / 2) ** (1 / (2 * power))
    delta = 0.9 * edge if case == "small start" else 1.0
    corr: dict[str, Any] = {"pred_corr": "BBT", "lr_enc": 0.1}
    if case == "C_oo":  # at a start and a rate from which the noisy ones do not overshoot
        delta, corr = 0.8, {"pred_corr": "C_oo", "pred_corr_rate": 1.0, "lr_enc": 0.05}
    config = RunConfig(**FLOW, **corr, d_latent=d, d_obs=d, pred_rule="spectral", pred_power=power, weight_decay=eta,
                       epochs=1500, log_every=1500)  # fmt: skip
    S_xx = np.diag(1 + noise)
    world = World.from_moments(S_xx, np.eye(d), S_xx)
    B = encoders(run(config, world, start_at(delta * np.eye(d))))[-1][:, :d]
    clean = ((1 + root) / 2) ** (1 / (2 * power))
    noisy = float(theory.stable_gain(1.0, 1.0, eta)) ** (1 / (2 * power))
    assert (noisy > 0) == (eta < 1 / (4 * 2))
    noisy = noisy / np.sqrt(2) if case == "C_oo" else noisy
    expected = np.diag(np.where(noise > 0, noisy, 0.0 if case in ("small start", "much decay") else clean))
    np.testing.assert_allclose(B, expected, atol=1e-5)
