"""Laws of depth, separate decays and schedules, and of noise in the predictor (docs/derivation.md, sections 6, 10, 15).

Runs of the plain backend in the population, where nothing is random; a law that samples says its seeds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import small
from flows import FLOW, encoders, lag, mode_gains, run

from byolsim.config.run import RunConfig
from byolsim.model import theory
from byolsim.model.schedule import CurvatureEstimate
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

# --- depth ---


def _time(u, lam, rho, L):
    """The integral of 1 / (lam u^(2L) (1 - u / rho)) du."""
    powers = sum(-1 / (n * rho ** (2 * L - 1 - n) * u**n) for n in range(1, 2 * L))
    return (powers + (np.log(u) - np.log(1 - u / rho)) / rho ** (2 * L - 1)) / lam


def _deep(L, eps, lr, epochs, **options):
    """One mode, s = 1 and sigma = 0.5, every layer and P at the L-th root of eps."""
    root = eps ** (1 / L)
    return RunConfig(
        **(FLOW | options), d_latent=1, d_obs=2, latent_spectrum="flat:1", sigma_n=0.5, init="modes", enc_depth=L,
        init_scale=eps, init_pred_scale=root, lr_pred=lr, lr_enc=lr, epochs=epochs, log_every=max(1, epochs // 60),
    )  # fmt: skip


def _steps_to(block, half, lam, rho, L, lr):
    """Steps to u = half, from the last logged epoch before by the flow."""
    u = block.order.P[0, :, 0, 0]
    row = int(np.searchsorted(u, half)) - 1
    speed = lambda u: lam * u ** (2 * L) * (1 - u / rho)  # noqa: E731
    rest = _time(half, lam, rho, L) - _time(u[row], lam, rho, L) + lag(lr, speed(half), speed(u[row]))
    return block.epochs[row] + rest / lr


@pytest.mark.parametrize(("L", "eps", "lr"), [(1, 0.01, 0.05), (2, 0.1, 0.02), (2, 0.03, 0.03), (3, 0.03, 0.05)])
def test_law_18_a_deep_encoder_waits_for_the_critical_time(L, eps, lr):
    """u' = lam u^(2L) (1 - u / rho) in layer time, to a hundredth of a step of some thousand.

    What is left out of the lag is of second order: steps of lr change the speed by at most lr / 2 of itself here, the
    cube of which times the steps spent there is below 0.01.
    """
    s, kappa = 1.0, 1.25
    rho, start = s / kappa, eps ** (1 / L)
    half = rho / 2
    speed = lambda u: s * u ** (2 * L) * (1 - u / rho)  # noqa: E731
    flow = _time(half, s, rho, L) - _time(start, s, rho, L)
    predicted = (flow + lag(lr, speed(half), speed(start))) / lr
    config = _deep(L, eps, lr, int(1.05 * predicted) + 60)
    block = run(config)
    measured = _steps_to(block, half, s, rho, L, lr)
    assert measured == pytest.approx(predicted, abs=0.01)
    # layers stay balanced: the encoder is the L-th power of each, and of P
    gains = mode_gains(block, World.from_config(config))[:, 0]
    np.testing.assert_allclose(gains, block.order.P[0, :, 0, 0] ** L, rtol=1e-12)
    # must fail: a law with another power of u, that of one layer more
    wrong = _time(half, s, rho, L + 1) - _time(start, s, rho, L + 1)
    assert abs(wrong / lr - measured) > 0.3 * measured


def test_law_18_the_encoder_ends_at_the_power_of_the_gain():
    """rho^L with rho = 0.8: each layer more takes a fifth of it."""
    for L in (1, 2, 3):
        config = _deep(L, 0.3, 0.1, 1500)
        block = run(config)
        assert block.order.P[0, -1, 0, 0] == pytest.approx(0.8, abs=1e-8)
        assert mode_gains(block, World.from_config(config))[-1, 0] == pytest.approx(0.8**L, abs=1e-8)


def test_law_18_the_critical_time_of_a_small_start():
    """L = 2, encoder 1e-3 at the start: the sum, with log(1 / start) and half of the way to rho, to 1e-4 of the time.

    On compiled kernels, in some 10^5 steps. The term n = 1 alone is a part in two hundred of it; the sum of one layer
    less is another time.
    """
    L, s, rho, eps, lr = 2, 1.0, 0.8, 1e-3, 0.1
    root, half = eps ** (1 / L), rho / 2
    terms = [1 / (s * n * rho ** (2 * L - 1 - n)) * (eps ** (-n / L) - half**-n) for n in range(1, 2 * L)]
    log = np.log(half * (1 - root / rho) / (root * (1 - half / rho))) / (s * rho ** (2 * L - 1))
    config = _deep(L, eps, lr, 120_000, backend="numba")
    measured = lr * _steps_to(run(config), half, s, rho, L, lr)
    assert measured == pytest.approx(sum(terms) + log, rel=1e-4)
    critical = sum(1 / (s * n * rho ** (2 * L - 1 - n) * eps ** (n / L)) for n in range(1, 2 * L))
    assert measured == pytest.approx(critical, rel=2e-3)
    assert measured > 100 * terms[0]
    assert abs(measured - 1 / (s * eps)) > 0.5 * measured


def test_law_18_the_sum_of_the_critical_time_leaves_a_logarithm_and_its_first_term_misleads():
    """It misses the time by (log(1 / start) + a constant) / (lam rho^(2L-1)); its term n = 1 is not the leading one."""
    L, s, rho = 2, 1.0, 0.8
    left, terms, times = [], [], []
    for eps in (0.1, 0.03, 0.001):
        flow = _time(rho / 2, s, rho, L) - _time(eps ** (1 / L), s, rho, L)
        parts = [1 / (s * n * rho ** (2 * L - 1 - n) * eps ** (n / L)) for n in range(1, 2 * L)]
        left.append(flow - sum(parts) - np.log(1 / eps) / (L * s * rho ** (2 * L - 1)))
        terms.append((parts[0], parts[-1]))
        times.append(flow)
    # the constant, to the first order that it leaves out: start / rho, from log(1 - start / rho)
    assert abs(left[2] - left[1]) < 2 * 0.03**0.5 / rho / rho**3
    assert abs(left[2]) < 0.01 * times[2]
    assert terms[2][1] > 0.8 * times[2] > 50 * terms[2][0]


# --- separate decays ---


@pytest.mark.parametrize(("eta_P", "eta_B"), [(0.05, 0.1), (0.2, 0.1), (0.2, 0.04)])
def test_law_5_separate_decays_set_the_gain_and_the_balance(eta_P, eta_B):
    """kappa p^2 - s p + eta_enc = 0 and b^2 / p^2 = eta_pred / eta_enc, both exact at the fixed point."""
    s, sigma = 1.5, 0.6
    config = RunConfig(
        **FLOW, d_latent=1, d_obs=3, latent_spectrum=f"flat:{s}", sigma_n=sigma, init="modes", lr_pred=0.2, lr_enc=0.2,
        weight_decay_pred=eta_P, weight_decay_enc=eta_B, epochs=2000, log_every=2000,
    )  # fmt: skip
    block = run(config)
    p, b = block.order.P[0, -1, 0, 0], mode_gains(block, World.from_config(config))[-1, 0]
    gain = float(theory.stable_gain(s, sigma, eta_B))
    assert p == pytest.approx(gain, abs=1e-7)  # the slowest mode has fallen below 1e-8 by then
    assert b**2 / p**2 == pytest.approx(eta_P / eta_B, rel=1e-6)
    assert abs(float(theory.stable_gain(s, sigma, eta_P)) - gain) > 0.02, "the other decay would give another gain"


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_law_5_the_threshold_is_that_of_the_encoder_s_decay(ratio):
    """Below s^2 / (4 kappa) the mode lives and above it dies, at a decay of the predictor five times as large."""
    s, sigma = 1.5, 0.6
    threshold = float(theory.collapse_threshold(s, sigma))
    config = RunConfig(
        **FLOW, d_latent=1, d_obs=3, latent_spectrum=f"flat:{s}", sigma_n=sigma, init="modes", lr_pred=0.2, lr_enc=0.2,
        weight_decay_pred=5 * threshold, weight_decay_enc=ratio * threshold, init_scale=2.0, epochs=2000,
        log_every=2000,
    )  # fmt: skip
    p = run(config).order.P[0, -1, 0, 0]
    assert p == pytest.approx(float(theory.stable_gain(s, sigma, ratio * threshold)), abs=1e-6)
    assert (p > 0.1) == (ratio < 1)


@pytest.mark.parametrize(("mu", "T"), [(0.0, 1250), (0.3, 1750)])
def test_law_5_without_decay_of_its_own_the_encoder_grows_past_the_limit_of_the_predictor_and_falls_back(mu, T):
    """b^2 grows at 2 beta eta_pred p^2, p = s b^2 / (kappa b^2 + eta_pred), beyond the predictor's limit.

    That is alpha (kappa b^2 + eta_pred) = 2 (1 + mu).

    There P loses its stability: what it is off by grows from next to nothing, and once it is seen the swings of P throw
    b^2 back below the limit, from where it grows again. On the way up the law is that of a P that follows at once,
    which is behind by beta eta_pred / (alpha kappa b^2): below 1 per cent.
    """
    s, sigma, alpha, beta, eta = 1.0, 0.5, 0.5, 0.02, 0.1
    kappa = s + sigma**2
    config = RunConfig(
        **(FLOW | {"mom_pred": mu}), d_latent=1, d_obs=3, latent_spectrum="flat:1", sigma_n=sigma, init="modes",
        init_scale=1.2, lr_pred=alpha, lr_enc=beta, weight_decay_pred=eta, weight_decay_enc=0.0, epochs=T,
        log_every=T // 50,
    )  # fmt: skip
    block = run(config)
    power = mode_gains(block, World.from_config(config))[:, 0] ** 2
    limit = (2 * (1 + mu) / alpha - eta) / kappa
    peak = int(power.argmax())
    last = int(np.searchsorted(power[:peak], limit))  # the first row past the limit
    rate, middle = np.diff(power)[1 : last - 1] / (T // 50), (power[2:last] + power[1 : last - 1]) / 2
    predicted = 2 * beta * eta * (s * middle / (kappa * middle + eta)) ** 2
    np.testing.assert_allclose(rate, predicted, rtol=0.01)
    assert limit < power.max() < 1.25 * limit
    assert power[peak:].min() < 0.9 * limit
    still = run(config.model_copy(update={"weight_decay_enc": eta}))
    assert mode_gains(still, World.from_config(config)).max() <= 1.2 + 1e-12, "with a decay of its own it does not grow"


# --- schedules ---


def test_a_cosine_of_the_ema_closes_half_of_the_gap_that_a_constant_closes():
    """At fixed encoders the gap falls by the product of 1 - tau_t, and the sum of tau_t is tau (T - 1) / 2, exactly."""
    tau, T = 0.02, 60
    options = FLOW | {"tau": tau}
    config = small(**options, lr_pred=0.0, lr_enc=0.0, target_init="independent", epochs=T, log_every=T,
                   ema_schedule="cosine")  # fmt: skip
    gap = run(config).order.gap[0]
    tau_t = tau * (1 + np.cos(np.pi * np.arange(1, T + 1) / T)) / 2
    assert tau_t.sum() == pytest.approx(tau * (T - 1) / 2, rel=1e-12)
    assert gap[1] / gap[0] == pytest.approx(np.prod(1 - tau_t), rel=1e-12)
    plain = run(small(**options, lr_pred=0.0, lr_enc=0.0, target_init="independent", epochs=T, log_every=T)).order.gap[
        0
    ]
    assert plain[1] / plain[0] == pytest.approx((1 - tau) ** T, rel=1e-12)


@pytest.mark.parametrize("warmup", [None, 1, 20])
def test_a_warm_up_and_a_cosine_make_half_as_many_steps_whatever_the_warm_up(warmup):
    """Without a predictor B_o falls by 1 - beta_t sigma^2: (w + 1) / 2 + (T - w - 1) / 2 = T / 2 steps in all."""
    T, beta, sigma = 80, 0.02, 0.7
    options = FLOW | {"pred_rule": "identity", "sigma_n": sigma, "lr_enc": beta, "epochs": T, "log_every": T}
    config = small(**options, warmup=warmup, lr_schedule="cosine")
    w = warmup or 0
    factor = np.array([t / w if t <= w else (1 + np.cos(np.pi * (t - w) / (T - w))) / 2 for t in range(1, T + 1)])
    assert factor.sum() == pytest.approx(T / 2 if w else (T - 1) / 2, rel=1e-12)
    start, end = np.linalg.norm(encoders(run(config)), axis=(1, 2))
    assert end / start == pytest.approx(np.prod(1 - beta * sigma**2 * factor), rel=1e-11)
    # by the flow, to the first order (beta sigma^2)^2 T / 2
    assert end / start == pytest.approx(np.exp(-beta * sigma**2 * factor.sum()), rel=(beta * sigma**2) ** 2 * T / 2)
    start, end = np.linalg.norm(encoders(run(small(**options))), axis=(1, 2))
    assert end / start == pytest.approx((1 - beta * sigma**2) ** T, rel=1e-11), "none asked for, none applied"


# --- noise in the predictor ---

SPECTRA = {"one": [1.0], "flat": [1.0, 1.0, 1.0], "spread": [4.0, 1.0, 0.5], "wide": list(np.geomspace(10, 0.01, 10))}


def _growth(c, n, mu, alpha):
    """Factor a step of the second moments of the deviation of a row of P, without what the target's noise adds.

    The row r moves by v' = mu v + r C, r' = r - alpha v' with the C of a minibatch of Gaussian features, for which
    E[C X C] = c X c + (c X c + tr(X c) c) / n. In the eigenbasis of c the diagonals x, y, z of E[r^T r], E[r^T v],
    E[v^T v] move among themselves.
    """
    c = np.asarray(c)
    k = len(c)
    I, D = np.eye(k), np.diag(c)
    square = (1 + 1 / n) * D**2 + np.outer(c, c) / n
    z = np.hstack([square, 2 * mu * D, mu**2 * I])
    cross = np.hstack([D, mu * I, 0 * I])  # of r and v'
    y = cross - alpha * z
    x = np.hstack([I, 0 * I, 0 * I]) - 2 * alpha * cross + alpha**2 * z
    return np.abs(np.linalg.eigvals(np.vstack([x, y, z]))).max()


@pytest.mark.parametrize("c", SPECTRA.values(), ids=SPECTRA)
def test_law_14_the_limit_is_where_second_moments_begin_to_grow(c):
    """To a part in a million on either side; at n = 1e9 what is left is the limit of heavy ball."""
    for n, mu in itertools.product((1, 2, 8, 64), (0.0, 0.5, 0.95)):
        limit = theory.mean_square_limit(np.array(c), n, mu)
        assert _growth(c, n, mu, (1 - 1e-6) * limit) < 1 < _growth(c, n, mu, (1 + 1e-6) * limit)
        assert limit < theory.heavy_ball_limit(max(c), mu)
    assert theory.mean_square_limit(np.array(c), 10**9, 0.5) == pytest.approx(
        theory.heavy_ball_limit(max(c), 0.5), rel=1e-6
    )
    assert theory.mean_square_limit(np.zeros(3), 2, 0.5) == np.inf


def test_law_14_the_recursion_is_that_of_minibatches():
    """The mean square of P - P* after 8 steps at 0.3 of the limit, over 200 runs.

    sigma = 0 leaves the target without noise of its own: what is left is the recursion alone. Nearer to the limit the
    tails are too heavy for a mean; here it has a relative standard deviation of 5 per cent, and the seeds are fixed.
    """
    n, mu, T = 8, 0.5, 8
    c = np.array([2.0, 1.0, 0.5])
    alpha = 0.3 * theory.mean_square_limit(c, n, mu)
    options = {
        "backend": "numpy", "d_latent": 3, "d_obs": 3, "latent_spectrum": "2,1,0.5", "sigma_n": 0.0, "init": "pinv",
        "init_pred_scale": 2.0, "lr_enc": 0.0, "lr_pred": alpha, "mom_pred": mu, "batch_size": n, "epochs": T,
        "log_every": T,
    }  # fmt: skip
    squares = []
    for seed in range(200):
        P = run(RunConfig(**options, seed=seed)).order.P[0, -1]
        squares.append(((P - np.eye(3)) ** 2).sum())
    x, y, z = np.eye(3), np.zeros((3, 3)), np.zeros((3, 3))  # row i starts at e_i
    for _ in range(T):
        S = x @ c
        z = mu**2 * z + 2 * mu * c * y + (1 + 1 / n) * c**2 * x + np.outer(S, c) / n
        x, y = x - 2 * alpha * (mu * y + c * x) + alpha**2 * z, mu * y + c * x - alpha * z
    assert np.mean(squares) == pytest.approx(x.sum(), rel=0.1)
    mean = np.linalg.matrix_power  # must fail: the square of the mean, which knows no n
    drift = [(mean(np.array([[1 - alpha * h, -alpha * mu], [h, mu]]), T) @ [1, 0])[0] ** 2 for h in c]
    assert sum(drift) < 0.7 * x.sum()


def test_the_noise_limit_keeps_small_minibatches_from_diverging(monkeypatch):
    """alpha = c tau / H is inside the limit of heavy ball; without that of the mean square every run diverges.

    Twelve seeds at n = 2 and momentum 0.9, alpha H = 0.9 where the mean square grows from 0.1 on.
    """
    options = {
        "backend": "numpy", "d_latent": 3, "d_obs": 6, "latent_spectrum": "geometric:0.5:4", "batch_size": 2,
        "ema_m": 0.1, "auto_alpha_c": 1.0, "lr_enc": 1e-4, "mom_pred": 0.9, "mom_enc": 0.0, "init": "pinv",
        "epochs": 400, "log_every": 400,
    }  # fmt: skip
    group = [RunConfig(**options, seed=seed) for seed in range(12)]
    assert all(config.auto_noise_limit for config in group)

    def diverged():
        return sum(simulate_runs([config], keep_final=False)[0].status == "diverged" for config in group)

    assert diverged() == 0
    monkeypatch.setattr(CurvatureEstimate, "noise_limit", lambda self, n, mu: np.inf)
    assert diverged() == 12


def test_the_noise_limit_is_asked_for_where_it_could_bind():
    """Half of the least limit times H over all spectra: that of equal eigenvalues."""
    for n, mu, k in itertools.product((1, 2, 16), (0.0, 0.9), (1, 3)):
        least = theory.mean_square_limit(np.full(k, 7.0), n, mu) * 7.0 / 2
        assert theory.mean_square_limit(np.append(7.0, np.full(k - 1, 1.0)), n, mu) * 7.0 / 2 >= least
        for factor in (0.99, 1.01):
            config = RunConfig(d_latent=k, d_obs=k, batch_size=n, mom_pred=mu, tau=1.0, auto_alpha_c=factor * least)
            assert bool(config.auto_noise_limit) == (factor > 1)
