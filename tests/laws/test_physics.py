"""The laws of docs/derivation.md, sections 6 to 10, and of docs/model.md, section 4, on runs of the numba backend."""

from __future__ import annotations

import numpy as np
import pytest
from cases import gram, one_run, small, trajectory

from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, minibatch_blocks, split_draws
from byolsim.model import gradients, theory
from byolsim.model.encoder import initial_weights
from byolsim.model.metrics import order_metrics
from byolsim.model.order import OrderParameters
from byolsim.model.world import World

# The laws take up to 60,000 steps, so they run on the fast backend; test_oracle.py and test_torch.py hold the others to
# its trajectories.
pytestmark = pytest.mark.parametrize("backend", ["numba"])
FLOW = {"sampler": "population", "mom_pred": 0.0, "mom_enc": 0.0}


def balance_of(block, config, row):
    # [b, L] is B_o in an orthonormal basis of the observations.
    B_o = np.concatenate([block.order.b_o[0, row], block.order.L_o[0, row]], axis=1)
    return theory.balance(block.order.P[0, row], B_o, config.lr_pred, config.lr_enc)


@pytest.mark.parametrize("ema_m", [0.0, 0.99])
def test_law_2_balance_is_conserved_to_first_order_in_the_rates(backend, ema_m):
    drifts = []
    for halving in (1, 2):
        config = small(
            backend=backend,
            lr_pred=4e-3 / halving,
            lr_enc=1e-3 / halving,
            epochs=500 * halving,
            log_every=500 * halving,
            ema_m=1 - (1 - ema_m) / halving,
            **FLOW,
        )
        block = trajectory(config)
        E = [balance_of(block, config, row) * config.lr_enc for row in (0, -1)]
        moved = np.linalg.norm(block.order.P[0, -1] - block.order.P[0, 0])
        assert moved > 0.3, "the flow must have gone somewhere"
        drifts.append(np.linalg.norm(E[1] - E[0]))
    assert drifts[0] < 0.02
    # First order: half the rates, half the drift; the second-order rest is a few per cent at these rates.
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("sampler", ["minibatch", "population"])
def test_law_2_change_of_balance_in_one_step_is_exact(backend, sampler):
    """E' = E + beta P^T G G^T P - alpha B_o G^T G B_o^T for one step of any size at mu = eta = 0."""
    config = small(
        backend=backend, sampler=sampler, lr_pred=0.3, lr_enc=0.2, mom_pred=0.0, mom_enc=0.0, epochs=1, log_every=1
    )
    world = World.from_config(config)
    start = initial_weights(config, world)
    P, B_o = start.P, start.B_o
    if sampler == "population":
        G = gradients.population_residual_gradient(P, B_o, B_o, world)
    else:
        key = MinibatchKey(config.seed, config.batch_size, config.d_obs, config.d_latent)
        z, e, e_plus = split_draws(next(minibatch_blocks(key, 1))[0], key)
        signal = world.A @ (np.sqrt(world.lam)[:, None] * z)
        G = gradients.sample_residual_gradient(P, B_o, B_o, signal + world.sigma * e, signal + world.sigma * e_plus)
    block = trajectory(config)
    change = balance_of(block, config, 1) - balance_of(block, config, 0)
    exact = config.lr_enc * P.T @ G @ G.T @ P - config.lr_pred * B_o @ G.T @ G @ B_o.T
    np.testing.assert_allclose(change, exact, atol=1e-12 * np.linalg.norm(exact) + 1e-12)


def test_law_2_with_decay_balance_dies_at_its_own_rate(backend):
    """E falls as exp(-2 eta lr steps) where alpha = beta = lr; the steps add a first-order error."""
    lr, eta, steps = 1e-3, 0.5, 1000
    config = small(backend=backend, lr_pred=lr, lr_enc=lr, weight_decay=eta, epochs=steps, log_every=steps, **FLOW)
    block = trajectory(config)
    before, after = (balance_of(block, config, row) for row in (0, -1))
    scale = np.linalg.norm(before)
    np.testing.assert_allclose(after / scale, before / scale * np.exp(-2 * eta * lr * steps), atol=5e-3)


@pytest.mark.parametrize("mixing", ["orthonormal", "gaussian"])
def test_law_3_predictor_converges_to_the_wiener_filter(backend, mixing):
    config = small(
        backend=backend, mixing=mixing, init="pinv", lr_enc=0.0, lr_pred=0.1, epochs=3000, log_every=3000, **FLOW
    )
    world = World.from_config(config)
    P = trajectory(config).order.P[0, -1]
    wiener = theory.wiener_predictor(world.A_pinv, world.A_pinv, world)
    np.testing.assert_allclose(P, wiener, atol=1e-10)  # the slowest mode has fallen below 1e-11 by then
    if mixing == "orthonormal":
        np.testing.assert_allclose(wiener, np.diag(world.lam / (world.lam + world.sigma**2)), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_law_4_every_invertible_image_of_the_pseudo_inverse_is_a_fixed_point(backend, seed):
    world = World.from_config(small(backend=backend, seed=seed))
    M = np.random.default_rng(seed).normal(size=(3, 3))
    B = M @ world.A_pinv
    G = gradients.population_residual_gradient(theory.fixed_point_predictor(M, world), B, B, world)
    # Rounding of a product with M^-1: condition numbers here stay below 1e3.
    np.testing.assert_allclose(G, 0, atol=1e-12)
    np.testing.assert_allclose(theory.fixed_point_predictor(M, world), theory.wiener_predictor(B, B, world), atol=1e-10)


def test_law_4_the_span_converges_and_the_rotation_does_not(backend):
    """From `zero_pred` the row span of B_o turns to that of A^+, and B_o keeps its distance to any rotation of A^+."""
    config = RunConfig(
        backend=backend, d_latent=2, d_obs=6, latent_spectrum="2,1", lr_pred=0.05, lr_enc=0.05, ema_m=0.9,
        epochs=40_000, log_every=1000, **FLOW,
    )  # fmt: skip
    record = one_run(config)
    assert record.columns["enc_proj_dist"][0] > 0.5
    assert record.columns["enc_proj_dist"][-1] < 1e-6
    assert record.columns["W_Fro_raw"][-1] < -6
    assert record.columns["BA_err_aligned"][-1] > 0.05


@pytest.mark.parametrize("ratio", [0.5, 0.97, 1.03, 2.0])
def test_law_5_collapse_threshold(backend, ratio):
    """Below eta = lam^2 / (4 (lam + sigma^2)) a balanced mode keeps the stable gain; above, it collapses."""
    lam, sigma = 1.5, 0.6
    eta = ratio * float(theory.collapse_threshold(lam, sigma))
    config = RunConfig(
        backend=backend, d_latent=2, d_obs=5, latent_spectrum=f"flat:{lam}", sigma_n=sigma, init="pinv", ema_m=0.0,
        lr_pred=0.05, lr_enc=0.05, weight_decay=eta, epochs=60_000, log_every=60_000, **FLOW,
    )  # fmt: skip
    block = trajectory(config)
    P = block.order.P[0, -1]
    gain = float(theory.stable_gain(lam, sigma, eta))
    assert (gain > 0) == (ratio < 1)
    np.testing.assert_allclose(P, gain * np.eye(2), atol=1e-6)
    # At a fixed point B_o B_o^T = P^T P.
    np.testing.assert_allclose(gram(block.order.b_o[0, -1], block.order.L_o[0, -1]), P.T @ P, atol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_law_10_heavy_ball_stability(backend, mu, eta):
    """Just inside the limit the predictor converges; just outside it diverges and is reported."""
    options = {"backend": backend, "sampler": "population", "init": "pinv", "lr_enc": 0.0, "mom_pred": mu}
    config = small(**options, weight_decay=eta, epochs=20_000, log_every=1000)
    world = World.from_config(config)
    C_oo, C_to = gradients.feature_covariances(world.A_pinv, world.A_pinv, world)
    limit = theory.heavy_ball_limit(float(np.linalg.eigvalsh(C_oo)[-1]), mu, eta)
    inside = trajectory(small(**options, weight_decay=eta, epochs=20_000, log_every=1000, lr_pred=0.995 * limit))
    assert inside.diverged_epoch[0] == -1
    ridge = np.linalg.solve(C_oo + eta * np.eye(3), C_to.T).T
    np.testing.assert_allclose(inside.order.P[0, -1], ridge, atol=1e-6)
    outside = one_run(small(**options, weight_decay=eta, epochs=20_000, log_every=1000, lr_pred=1.005 * limit))
    assert outside.status == "diverged"
    assert outside.diverged_epoch is not None
    assert len(outside.epochs) == (outside.diverged_epoch - 1) // 1000 + 1
    assert all(np.isfinite(outside.columns["loss_pop"]))


def test_law_11_minibatch_deviation_shrinks_as_the_root_of_n(backend):
    """Sixteen times the samples, a quarter of the deviation from the population run.

    Root mean squares over 40 fixed seeds of 9 entries: the ratio of two has a standard deviation of about 10 %, and
    the seeds are fixed, so there is no false alarm.
    """
    options = {"backend": backend, "lr_pred": 0.02, "lr_enc": 0.02, "epochs": 30, "log_every": 30}
    deviation = {}
    for n in (64, 1024):
        squares = []
        for seed in range(40):
            exact = trajectory(small(**options, sampler="population", seed=seed)).order
            sampled = trajectory(small(**options, batch_size=n, seed=seed)).order
            squares.append(((exact.P[0, -1] - sampled.P[0, -1]) ** 2).sum())
        deviation[n] = np.sqrt(np.mean(squares))
    assert deviation[64] / deviation[1024] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize(("alpha", "tau"), [(0.1, 0.01), (0.01, 0.1), (0.9, 0.5), (1.5, 0.2)])
def test_law_9_variance_of_the_student_teacher_gap(backend, alpha, tau):
    """The covariance of (w, w_t) propagated step by step: no sampling, so the tolerance is rounding."""
    student = np.array([[1 - alpha, alpha], [0.0, 1.0]])
    teacher = np.array([[1.0, 0.0], [tau, 1 - tau]])
    kick = teacher @ np.array([-alpha, 0.0])
    covariance = np.zeros((2, 2))
    for _ in range(5000):
        step = teacher @ student
        covariance = step @ covariance @ step.T + np.outer(kick, kick)
    # w itself performs a random walk; the gap does not, and its variance is what is left of a difference.
    gap = covariance[0, 0] - 2 * covariance[0, 1] + covariance[1, 1]
    assert gap == pytest.approx(theory.gap_variance(alpha, tau), rel=1e-8)
    with pytest.raises(ValueError, match="must be 0 < s < 2"):
        theory.gap_variance(0.0, 0.0)


def test_law_12_effective_rank(backend):
    config = RunConfig(backend=backend, d_latent=4, d_obs=9, latent_spectrum="flat:1", init="pinv", epochs=1)
    world = World.from_config(config)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    values = []
    for B in (np.eye(4), 3.7 * rotation):
        stacked = np.broadcast_to(B, (1, 1, 4, 4))
        zero = np.zeros((1, 1, 4, 4))
        order = OrderParameters(P=stacked, b_o=stacked, L_o=zero, b_t=stacked, L_t=zero, gap=np.zeros((1, 1)))
        values.append({name: v[0, 0] for name, v in order_metrics(order, world).items() if name.startswith("erank")})
    assert all(value == pytest.approx(4, rel=1e-12) for value in values[0].values())
    # Rotations of the features and their scale change nothing.
    assert values[1] == pytest.approx(values[0], rel=1e-12)
    one_mode = World(world.A, np.array([1e8, 1e-4, 1e-4, 1e-4]), 0.1)
    assert order_metrics(order, one_mode)["erank_encoded"][0, 0] == pytest.approx(1, abs=1e-6)
