"""Laws of predictor rules, losses and Jacobians (docs/derivation.md, sections 11 to 13).

Runs of the plain backend in the population, where nothing is random. Each law stands beside a variant that breaks it.
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import problem, small
from flows import FLOW, encoders, mode_gains, modes, run, sizes, start_at
from scipy.integrate import solve_ivp

from byolsim.config.run import RunConfig
from byolsim.model import gradients, theory
from byolsim.model.encoder import initial_weights
from byolsim.model.world import World

# --- no predictor ---


@pytest.mark.parametrize("spectrum", ["flat:1", "9,1,0.01"])
def test_law_6_without_a_predictor_the_encoder_decays_whatever_the_signal(spectrum):
    """By 1 - beta (sigma^2 + eta) a step, exactly; by exp(-beta (sigma^2 + eta) steps) to first order in beta."""
    sigma, eta, beta, T = 0.6, 0.05, 0.05, 200
    options = FLOW | {
        "init": "random", "latent_spectrum": spectrum, "sigma_n": sigma, "weight_decay": eta, "lr_enc": beta,
        "epochs": T, "log_every": 50,
    }  # fmt: skip
    block = run(small(**options, pred_rule="identity"))
    factor, h = sizes(block) / sizes(block)[0], beta * (sigma**2 + eta)
    np.testing.assert_allclose(factor, (1 - h) ** block.epochs, rtol=1e-11)
    np.testing.assert_allclose(factor, np.exp(-h * block.epochs), rtol=1.1 * h**2 / 2 * T)
    np.testing.assert_array_equal(block.order.P[0, -1], np.eye(3))
    learned = run(small(**options, lr_pred=beta))
    assert abs(np.log(sizes(learned)[-1] / sizes(learned)[0]) / np.log(factor[-1]) - 1) > 0.1


@pytest.mark.parametrize("ratio", [0.2, 2.0])
def test_law_6_an_ema_only_delays_the_collapse(ratio):
    """(b, b_t) of each mode against the exponential of its 2 x 2 matrix; half the steps, half the difference."""
    sigma, eta, s = 0.5, 0.02, np.array([2.0, 0.5])
    ends = []
    for beta in (0.02, 0.01):
        T = round(4 / beta)
        config = modes("2,0.5", 2, tau=ratio * beta, sigma_n=sigma, weight_decay=eta, lr_enc=beta, pred_rule="identity",
                       epochs=T, log_every=T)  # fmt: skip
        block, world = run(config), World.from_config(config)
        got = np.stack([mode_gains(block, world)[-1], mode_gains(block, world, target=True)[-1]])
        flow = []
        for mode in s:
            matrix = np.array([[-(mode + sigma**2 + eta), mode], [ratio, -ratio]])
            values, V = np.linalg.eig(matrix)
            assert values.real.max() < 0 and np.isrealobj(values)
            flow.append(V @ (np.exp(values * beta * T) * np.linalg.solve(V, np.ones(2))))
        ends.append(np.abs(got - np.array(flow).T).max())
        at_once = np.exp(-beta * T * (sigma**2 + eta))
        assert np.abs(got[0] - at_once).max() > 5 * ends[-1], "an EMA is not B_t = B_o"
    assert ends[0] < 0.01
    assert ends[0] / ends[1] == pytest.approx(2, rel=0.1)


# --- no stop-gradient ---


@pytest.mark.parametrize("target", [None, 1.5])
def test_law_7_the_gradient_of_one_encoder(target):
    """(P^T P + I) B Sigma_n + (P - I)^T (P - I) B Sigma_s, Sigma_n = sigma^2 I: where both views have that noise."""
    config = small(stop_grad=False, sigma_n=0.7, sigma_n_target=target)
    world, p = World.from_config(config), problem(r=3, d=8)
    P, B, one = p.P, p.B_o, np.eye(3)
    G = gradients.population_residual_gradient(P, B, B, world)
    got = gradients.encoder_gradient(P, G, gradients.population_target_gradient(P, B, B, world))
    predicted = (P.T @ P + one) @ B * 0.7**2 + (P - one).T @ (P - one) @ B @ world.Sigma_s
    assert np.allclose(got, predicted, atol=1e-12) == (target is None)
    noise = P.T @ P @ B * 0.7**2 + B * world.noise_plus**2
    np.testing.assert_allclose(got, noise + (P - one).T @ (P - one) @ B @ world.Sigma_s, atol=1e-12)


@pytest.mark.parametrize("init", ["modes", "random", "zero_pred"])
def test_law_7_without_stop_gradient_the_encoder_falls_at_least_as_fast_as_without_a_predictor(init):
    """Its gradient is H B with a symmetric H >= sigma^2, so norm(B) falls by 1 - beta (sigma^2 + eta) a step or more.

    That holds for finite steps while beta (h_max + eta) < 2 - beta (sigma^2 + eta); at these rates by a factor of ten.
    """
    sigma, eta, beta = 0.5, 0.01, 0.01
    options = FLOW | {
        "init": init, "latent_spectrum": "4,1,0.2", "sigma_n": sigma, "weight_decay": eta, "lr_enc": beta,
        "lr_pred": 0.02, "epochs": 1500, "log_every": 25,
    }  # fmt: skip
    block = run(small(**options, stop_grad=False))
    bound = (1 - beta * (sigma**2 + eta)) ** block.epochs
    assert (sizes(block) <= sizes(block)[0] * bound * (1 + 1e-12)).all()
    assert np.abs(block.order.P[0, -1] - block.order.P[0, 0]).max() > 0.1, "P moves, and does not help"
    np.testing.assert_array_equal(block.order.b_t, block.order.b_o)
    assert sizes(run(small(**options)))[-1] > 10 * sizes(block)[0] * bound[-1], "the stop-gradient saves it"


def test_law_7_without_a_predictor_both_branches_pull():
    """P = I: the gradient is 2 sigma^2 B, so B falls by 1 - beta (2 sigma^2 + eta) a step, whatever the signal.

    Exactly; by exp(-beta (2 sigma^2 + eta) steps) to first order in beta. With the stop-gradient sigma^2 is halved.
    """
    sigma, eta, beta, T = 0.6, 0.05, 0.05, 200
    options = {"init": "random", "latent_spectrum": "9,1,0.01", "sigma_n": sigma, "weight_decay": eta, "lr_enc": beta}
    options = FLOW | options | {"pred_rule": "identity", "epochs": T, "log_every": 50}
    block = run(small(**options, stop_grad=False))
    factor, h = sizes(block) / sizes(block)[0], beta * (2 * sigma**2 + eta)
    np.testing.assert_allclose(factor, (1 - h) ** block.epochs, rtol=1e-11)
    np.testing.assert_allclose(factor, np.exp(-h * block.epochs), rtol=1.1 * h**2 / 2 * T)
    stopped = sizes(run(small(**options)))
    assert np.log(stopped[-1] / stopped[0]) / np.log(factor[-1]) == pytest.approx(
        (sigma**2 + eta) / (2 * sigma**2 + eta), rel=0.02
    )


def test_law_7_modes_follow_their_equations():
    """b' = -beta [(p^2 + 1) sigma^2 + (p - 1)^2 s + eta] b, p' = -alpha [b^2 (kappa p - s) + eta p].

    Half the steps, half the difference to the flow; the equation of the stop-gradient is another one. The rate of b is
    at least sigma^2 (2 s + sigma^2) / (s + sigma^2) + eta, which it comes down to where p passes s / kappa.
    """
    sigma, eta, s = 0.5, 0.02, np.array([2.0, 0.5])
    kappa, time, ends = s + sigma**2, 3.0, []

    def flow(stop_grad):
        def speed(_, y):
            b, p = y[:2], y[2:]
            pull = p * (kappa * p - s) + (0 if stop_grad else sigma**2 + s - p * s) + eta
            return np.concatenate([-pull * b, -2 * (b**2 * (kappa * p - s) + eta * p)])

        return solve_ivp(speed, (0, time), [0.9, 0.9, 1, 1], rtol=1e-10, atol=1e-12).y[:, -1]

    for beta in (0.02, 0.01):
        T = round(time / beta)
        config = modes("2,0.5", 2, sigma_n=sigma, weight_decay=eta, lr_enc=beta, lr_pred=2 * beta, init_scale=0.9,
                       epochs=T, log_every=T, stop_grad=False)  # fmt: skip
        block, world = run(config), World.from_config(config)
        rows = mode_gains(block, world)
        got = np.concatenate([rows[-1], np.sort(np.diag(block.order.P[0, -1]))[::-1]])
        ends.append(np.abs(got - flow(False)).max())
        least = sigma**2 * (2 * s + sigma**2) / kappa + eta
        assert (rows[-1] <= rows[0] * (1 - beta * least) ** T * (1 + 1e-12)).all()
    assert ends[0] < 0.02
    assert ends[0] / ends[1] == pytest.approx(2, rel=0.1)
    assert np.abs(got - flow(True)).max() > 20 * ends[-1]


# --- the optimal predictor ---


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_law_8_the_change_of_the_gram_matrix_in_one_step_is_exact(tau):
    """B' B'^T = B B^T + beta^2 P^T G G^T P for a step of any size, whatever the target."""
    options = FLOW | {"tau": tau, "lr_enc": 0.3, "epochs": 1, "log_every": 1, "target_init": "independent"}
    config = small(**options, pred_rule="optimal")
    world, block = World.from_config(config), run(config)
    gram = [B @ B.T for B in encoders(block)]
    start = initial_weights(config, world)
    P = block.order.P[0, 0]
    np.testing.assert_allclose(P, theory.wiener_predictor(start.B_o, start.B_t, world), atol=1e-12)
    G = gradients.population_residual_gradient(P, start.B_o, start.B_t, world)
    np.testing.assert_allclose(G @ start.B_o.T, 0, atol=1e-12)
    exact = 0.3**2 * P.T @ G @ G.T @ P
    assert np.linalg.norm(exact) > 1e-3
    np.testing.assert_allclose(gram[1] - gram[0], exact, atol=1e-13)
    gram = [B @ B.T for B in encoders(run(small(**options, lr_pred=0.1)))]
    assert np.linalg.norm(gram[1] - gram[0] - exact) > 0.1 * np.linalg.norm(exact), "a learned P has G B_o^T != 0"


def test_law_8_the_flow_keeps_the_gram_matrix():
    """Half the rate, half the drift: over a fixed time the sum of beta^2 terms is of first order.

    A predictor that learns, at the optimum at the start and as fast as the encoder, does not keep it.
    """
    drifts = []
    for beta in (0.02, 0.01):
        T = round(6 / beta)
        options = FLOW | {"tau": 2 * beta, "lr_enc": beta, "epochs": T, "log_every": T}
        block = run(small(**options, pred_rule="optimal"))
        first, last = encoders(block)
        assert np.linalg.norm(last - first) > 0.3, "the flow must have gone somewhere"
        drifts.append(np.linalg.norm(last @ last.T - first @ first.T))
    assert drifts[0] < 0.05
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)
    config = small(**options, lr_pred=beta)
    start = initial_weights(config, World.from_config(config))
    first, last = encoders(run(config, initial=start._replace(P=block.order.P[0, 0])))
    assert np.linalg.norm(last @ last.T - first @ first.T) > 10 * drifts[1]


def _trace(S_xx, S_px, k, seed, beta, T):
    """norm(B S_px B^T)_F and B of a run with the optimal predictor, from a Gaussian start."""
    d = len(S_xx)
    world = World.from_moments(S_xx, S_px, S_xx)
    config = RunConfig(**FLOW, d_latent=d, d_obs=d, d_embed=k, pred_rule="optimal", lr_enc=beta, epochs=T,
                       log_every=max(1, T // 60))  # fmt: skip
    B = np.random.default_rng(seed).normal(size=(k, d)) / 2
    B = encoders(run(config, world, start_at(B)))[:, :, :d]
    return np.linalg.norm(B @ S_px @ np.swapaxes(B, 1, 2), axis=(1, 2)), B


@pytest.mark.parametrize("seed", range(3))
def test_law_8_with_symmetric_moments_the_trace_never_falls_and_the_largest_gains_win(seed):
    """Also gains that are negative: from these starts B ends on the two of largest modulus, -0.8 and 0.7.

    0.7 and 0.3 attract too (`theory.bottleneck_modes`): other starts end there.
    """
    w = np.array([0.3, -0.8, 0.1, 0.7])
    Q = np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))[0]
    trace, B = _trace(np.eye(4), (Q * w) @ Q.T, 2, seed, 0.2, 900)
    assert (np.diff(trace) >= -1e-13 * trace[:-1]).all()
    energy = ((B[-1] @ Q) ** 2).sum(axis=0)
    np.testing.assert_allclose(energy[[0, 2]] / energy.sum(), 0, atol=1e-6)
    assert energy[[1, 3]].min() > 1e-2 * energy.sum()


@pytest.mark.parametrize("kind", ["asymmetric", "anisotropic"])
def test_law_8_the_trace_can_fall_in_other_worlds(kind):
    """By more than a twentieth of its start, in at least 2 of 6 worlds where S_px is not symmetric, or S_xx not c I."""
    falls = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        S_px = rng.normal(size=(4, 4))
        S_xx = np.eye(4)
        if kind == "anisotropic":
            S_px, S_xx = (S_px + S_px.T) / 2, np.diag([4.0, 1.0, 1.0, 0.25])
        root = np.sqrt(np.diag(S_xx))
        S_px = S_px / np.linalg.norm(S_px / np.outer(root, root), 2)
        trace, _ = _trace(S_xx, S_px, 2, seed, 0.05, 240)
        falls.append((np.maximum.accumulate(trace) - trace).max() / trace[0])
    assert sum(fall > 0.05 for fall in falls) >= 2


# --- straight and full ---


def test_law_22_straight_and_full_have_the_same_fixed_points_and_other_speeds():
    """Both end at G = 0 and P with the eigenvalues w_j; on the way they differ, and so do their last encoders."""
    blocks, options = {}, FLOW | {"tau": 0.5, "init": "zero_pred", "mixing": "orthonormal", "sigma_n": 0.5}
    for jacobian in ("full", "straight"):
        config = small(**options, latent_spectrum="2,1,0.6", lr_pred=0.1, lr_enc=0.1, pred_jacobian=jacobian,
                       epochs=2500, log_every=50)  # fmt: skip
        blocks[jacobian] = run(config)
    world = World.from_config(config)
    w = world.lam / (world.lam + 0.25)
    for block in blocks.values():
        P, B = block.order.P[0, -1], block.order.b_o[0, -1] @ world.Q.T
        np.testing.assert_allclose(gradients.population_residual_gradient(P, B, B, world), 0, atol=1e-6)
        np.testing.assert_allclose(np.sort(np.linalg.eigvals(P).real)[::-1], w, atol=1e-5)
    full, straight = (block.order.P[0, 1] for block in blocks.values())
    assert np.linalg.norm(full - straight) > 0.05 * np.linalg.norm(full)
    full, straight = (encoders(block)[-1] for block in blocks.values())
    assert np.linalg.norm(full @ full.T - straight @ straight.T) > 0.05


@pytest.mark.parametrize("eta", [0.1, 0.4, 1.1])
def test_law_22_with_decay_the_straight_jacobian_has_no_fold(eta):
    """p = (s - eta) / kappa below eta = s and 0 above, where the full one dies at s^2 / (4 kappa) = 0.2."""
    options = {"sigma_n": 0.5, "weight_decay": eta, "lr_pred": 0.1, "lr_enc": 0.1, "epochs": 1000, "log_every": 1000}
    config = modes("flat:1", 1, **options, pred_jacobian="straight")
    block = run(config)
    p, b = block.order.P[0, -1, 0, 0], mode_gains(block, World.from_config(config))[-1, 0]
    assert p == pytest.approx(max(1 - eta, 0) / 1.25, abs=1e-6)
    assert b**2 == pytest.approx(p, abs=1e-6)
    full = run(modes("flat:1", 1, **options)).order.P[0, -1, 0, 0]
    assert full == pytest.approx(float(theory.stable_gain(1.0, 0.5, eta)), abs=1e-6) and abs(full - p) > 0.02 * (
        eta < 1
    )


@pytest.mark.parametrize("sampler", ["minibatch", "population"])
def test_law_22_the_straight_jacobian_has_a_balance_of_its_own(sampler):
    """B_o B_o^T / beta - (P + P^T) / alpha changes by beta G G^T in a step without momentum and decay, exactly.

    So the flow conserves it, for any data and any target; the balance of the full Jacobian moves at first order.
    """
    options = FLOW | {"lr_pred": 0.3, "lr_enc": 0.2, "epochs": 1, "log_every": 1, "pred_jacobian": "straight"}
    config = small(**options)
    block, start, world = run(config), initial_weights(config, World.from_config(config)), World.from_config(config)
    G = gradients.population_residual_gradient(start.P, start.B_o, start.B_t, world)
    E = [B @ B.T / 0.2 - (P + P.T) / 0.3 for B, P in zip(encoders(block), block.order.P[0], strict=True)]
    np.testing.assert_allclose(E[1] - E[0], 0.2 * G @ G.T, atol=1e-12)
    drifts, others = [], []
    for halving in (1, 2):
        options = FLOW | {"sampler": sampler, "tau": 0.1 / halving, "batch_size": 40}
        alpha, beta, T = 0.02 / halving, 0.01 / halving, 100 * halving
        options |= {"lr_pred": alpha, "lr_enc": beta, "epochs": T, "log_every": T}
        block = run(small(**options, pred_jacobian="straight"))
        B, P = encoders(block), block.order.P[0]
        E = beta * (B @ np.swapaxes(B, 1, 2) / beta - (P + np.swapaxes(P, 1, 2)) / alpha)
        full = beta * (B @ np.swapaxes(B, 1, 2) / beta - np.swapaxes(P, 1, 2) @ P / alpha)
        drifts.append(np.linalg.norm(E[1] - E[0]))
        others.append(np.linalg.norm(full[1] - full[0]))
    assert drifts[0] < 0.1 * others[0]
    assert others[1] > 0.5 * others[0]
    if sampler == "population":
        assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)
