"""The laws of docs/derivation.md, section 18: one-sided noise, fixed targets and bottlenecks, in worlds of every kind.

All with the population sampler, so nothing is random after the start; worlds and starts have fixed seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import trajectory

from byolsim.backends import get_backend
from byolsim.backends.base import LogBlock
from byolsim.config.run import RunConfig
from byolsim.model import gradients, theory
from byolsim.model.encoder import Start, initial_weights
from byolsim.model.world import World

FLOW: dict[str, Any] = {
    "backend": "numba", "sampler": "population", "mom_pred": 0.0, "mom_enc": 0.0, "lr_pred": 0.05, "lr_enc": 0.05,
}  # fmt: skip
"""The rates are small beside the largest curvatures, some 2 to 4."""
STEPS = 20_000


@pytest.fixture
def in_file(tmp_path):
    """A world by the file of its second moments: the value of `world`."""
    return lambda world: str(world.save(tmp_path / "world.npz"))


# A target that stands still.

STILL = {
    "k<r": {"d_latent": 4, "d_embed": 2, "d_obs": 9, "latent_spectrum": "3,2,1,0.5", "mixing": "gaussian"},
    "k>r": {"d_latent": 2, "d_embed": 4, "d_obs": 9, "latent_spectrum": "2,1"},
    "correlation": {"d_latent": 3, "d_obs": 7, "latent_spectrum": "2,1.5,1", "correlation": "-0.8,0.5,1"},
    "nuisance": {"d_latent": 2, "d_obs": 7, "latent_spectrum": "2,1", "d_nuisance": 2, "nuisance_spectrum": "3,0.5"},
    "one-sided": {"d_latent": 3, "d_embed": 2, "d_obs": 7, "latent_spectrum": "2,1.5,1", "sigma_n_target": 1.5},
    "moments": {"d_embed": 2},
}


def asymmetric(d: int = 6, q: int = 4) -> World:
    """Second moments with an asymmetric S_px, and a view x+ of more power than x, inside a subspace."""
    rng = np.random.default_rng(11)
    x, x_plus = rng.normal(size=(2, q, 3 * q))
    x_plus = 0.7 * x_plus + rng.normal(size=(q, q)) @ x
    Q = np.linalg.qr(rng.normal(size=(d, q)))[0]
    S = (a @ b.T / (3 * q) for a, b in ((x, x), (x_plus, x), (x_plus, x_plus)))
    return World.from_moments(*S, Q=Q, sigma=0.6, sigma_plus=0.2)


@pytest.mark.parametrize("name", STILL)
def test_at_a_target_that_stands_still_the_loss_is_that_of_the_best_linear_map(in_file, name):
    """1e-8: what the slowest mode leaves, that of the least singular value of B_t Sigma_px Sigma_x^+, some 0.03."""
    options = STILL[name] | ({"world": in_file(asymmetric())} if name == "moments" else {"sigma_n": 0.6})
    rates = {"lr_pred": 0.2, "lr_enc": 0.2, "epochs": 10 * STEPS, "log_every": 10 * STEPS}
    config = RunConfig(**(FLOW | rates | options), ema_m=1.0, target_init="independent", seed=3)
    world = World.from_config(config)
    B_t = initial_weights(config, world).B_t
    order = trajectory(config).order
    P, b_o, L_o = order.P[0, -1], order.b_o[0, -1], order.L_o[0, -1]
    F = theory.frozen_target_map(B_t, world)
    np.testing.assert_allclose(order.b_t[0, -1], B_t @ world.Q, atol=1e-13)
    np.testing.assert_allclose(P @ b_o @ world.Q.T, F, atol=1e-8)
    np.testing.assert_allclose(P @ L_o, 0, atol=1e-8)
    B_o = b_o @ world.Q.T  # what is outside has been seen to leave no trace in P B_o
    loss = gradients.population_loss(P, B_o, B_t, world)
    assert loss == pytest.approx(theory.frozen_target_loss(B_t, world), abs=1e-10)
    # As if both views had the power of x, and their cross moments were symmetric.
    wrong = B_t @ world.Sigma_s @ np.linalg.inv(world.Sigma_x) @ world.Sigma_s @ B_t.T
    wrong = 0.5 * np.trace(B_t @ world.Sigma_x @ B_t.T - wrong)
    assert (abs(loss - wrong) > 1e-2) == (name in ("one-sided", "moments"))


# Bottlenecks.


def bottleneck_world(seed: int, gains: np.ndarray, commute: bool, outside: int = 0) -> World:
    """A world of these Wiener gains; where S_xx commutes with W the strongest directions have the smallest gains."""
    rng = np.random.default_rng(seed)
    q = len(gains)
    V, U = (np.linalg.qr(rng.normal(size=(q, q)))[0] for _ in range(2))
    power = np.sort(rng.uniform(0.5, 2.0, q))
    if commute:
        U, power = V, power[np.argsort(np.argsort(-np.abs(gains)))]
    root = U * np.sqrt(power) @ U.T
    S_xx, S_px = U * power @ U.T, root @ (V * gains @ V.T) @ root
    if not outside:
        return World.from_moments(S_xx, S_px, S_xx)
    Q = np.linalg.qr(rng.normal(size=(q + outside, q)))[0]
    return World.from_moments(S_xx, S_px, S_xx, Q=Q, sigma=0.7)


def some_gains(seed: int) -> np.ndarray:
    """Five gains with gaps of 0.12 at least."""
    return np.array([0.9, 0.72, 0.54, 0.36, 0.18]) + np.random.default_rng(seed).uniform(-0.03, 0.03, 5)


def ends(world: World, block: LogBlock, run: int) -> tuple[np.ndarray, np.ndarray]:
    """The projector on the row span of B_o Sigma_x^(1/2) in (canonical, outside) coordinates, and P's eigenvalues."""
    order = block.order
    C = np.hstack([order.b_o[run, -1] @ world.S_root @ world.directions, world.sigma * order.L_o[run, -1]])
    rows = np.linalg.qr(C.T)[0]
    return rows @ rows.T, np.sort(np.linalg.eigvals(order.P[run, -1]).real)


def projector(columns: np.ndarray, size: int) -> np.ndarray:
    """On the span of columns, in the coordinates of `ends`, of which there are `size`."""
    rows = np.zeros((size, columns.shape[1]))
    rows[: len(columns)] = columns
    return rows @ rows.T


def train(world: World, in_file, k: int, starts: int, **options: Any) -> list[LogBlock]:
    """One run from each of several starts, with the target at the encoder after every step."""
    fixed = FLOW | {"world": in_file(world), "d_embed": k, "ema_m": 0.0, "epochs": STEPS, "log_every": STEPS}
    return [trajectory(RunConfig(**(fixed | options), seed=seed)) for seed in range(starts)]


@pytest.mark.parametrize("commute", [True, False], ids=["commuting", "not commuting"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_bottleneck_keeps_the_largest_gains(in_file, k, sign, commute):
    """Two worlds of 5 modes and three starts for each of 12 cases: 72 runs, and every one ends on w_1, ..., w_k.

    What is left of a mode that is passed over dies at the rate beta w_k (w_k - w_(k+1)) lambda_min(Sigma_x) a step or
    faster; half of the steps are left for the way there, so exp(-rate steps / 2) bounds the angle.
    """
    for number in range(2):
        gains = sign * some_gains(10 * k + number)
        world = bottleneck_world(7 * k + number, gains, commute, outside=2 * number)
        w = np.abs(world.gains)
        least = min(np.linalg.eigvalsh(world.S_xx)[0], world.sigma**2 or np.inf)
        tolerance = np.exp(-FLOW["lr_enc"] * w[k - 1] * (w[k - 1] - w[k]) * least * STEPS / 2)
        assert tolerance < 1e-6
        modes = theory.bottleneck_modes(world.gains, *((k, 0) if sign > 0 else (0, k)))
        assert list(modes) == list(range(k))
        strongest = np.linalg.eigh(world.directions.T @ world.S_xx @ world.directions)[1][:, -k:]
        for block in train(world, in_file, k, starts=3):
            found, eigenvalues = ends(world, block, 0)
            expected = projector(np.eye(world.q)[:, modes], len(found))
            assert np.linalg.norm(found - expected) < max(tolerance, 1e-12)
            np.testing.assert_allclose(eigenvalues, np.sort(world.gains[modes]), atol=max(tolerance, 1e-12))
            # The k directions of the largest variance are others.
            assert np.linalg.norm(found - projector(strongest, len(found))) > 0.3


def test_a_strong_noisy_mode_is_passed_over_for_a_weak_clean_one(in_file):
    """lambda = 4 in noise of 8 has the gain 1/3, lambda = 1/2 in noise of 1/10 has 5/6."""
    world = World.from_moments(np.diag([12.0, 0.6]), np.diag([4.0, 0.5]), np.diag([12.0, 0.6]))
    for block in train(world, in_file, 1, starts=3, lr_pred=0.01, lr_enc=0.01):
        found, eigenvalues = ends(world, block, 0)
        np.testing.assert_allclose(eigenvalues, [5 / 6], atol=1e-8)
        np.testing.assert_allclose(found[:2, :2], np.diag([1.0, 0.0]), atol=1e-8)
        assert abs(block.order.b_o[0, -1, 0, 0]) < 1e-8 < 0.1 < abs(block.order.b_o[0, -1, 0, 1])


@pytest.mark.parametrize("commute", [True, False], ids=["commuting", "not commuting"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_gains_of_both_signs_are_kept_by_sign(in_file, k, commute):
    """The a largest and the k - a most negative, a by the start; at k = 1 by the sign of E[z_t z_o] there.

    So 'the k largest |w|' is another law, and a wrong one: some of these runs end elsewhere.
    """
    elsewhere = 0
    for number in range(3):
        gains = some_gains(20 * k + number) * np.random.default_rng(number).permutation([1, -1, 1, -1, 1])
        world = bottleneck_world(40 * k + number, gains, commute)
        for seed, block in enumerate(train(world, in_file, k, starts=4)):
            found, eigenvalues = ends(world, block, 0)
            positive = int((eigenvalues > 0).sum())
            modes = theory.bottleneck_modes(world.gains, positive, k - positive)
            np.testing.assert_allclose(eigenvalues, np.sort(world.gains[modes]), atol=1e-6)
            np.testing.assert_allclose(found, projector(np.eye(world.q)[:, modes], len(found)), atol=1e-6)
            if k == 1:
                B_o = initial_weights(RunConfig(world=in_file(world), d_embed=1, seed=seed), world).B_o
                assert (B_o @ world.Sigma_s @ B_o.T).item() * eigenvalues[0] > 0
            elsewhere += list(modes) != list(range(k))
    assert elsewhere > 0


@pytest.mark.parametrize(("h", "kept"), [(0.0, [0.8, 0.82]), (0.3, [0.8, 0.82]), (0.5, [0.1, 0.8]), (0.7, [0.1, 0.8])])
def test_oblique_features_can_pass_over_the_largest_gain(h, kept):
    """Sigma_x = I, W = diag(.82, .8, .1), k = 2, what the features hold of the last two modes at a cosine of h.

    Their span is left iff h < .39: there tr(H^-1 w H (w - .82)) changes its sign, with H = M^T M; the determinant is
    positive at all h.
    """
    w = np.array([0.82, 0.8, 0.1])
    H, inside = np.array([[1, h], [h, 1]]), np.diag(w[1:])
    growth = np.linalg.eigvals(-np.linalg.solve(H, inside @ H @ (inside - w[0] * np.eye(2)))).real
    assert (growth.max() < 0) == (kept[0] == 0.1)
    world = World.from_moments(np.eye(3), np.diag(w), np.eye(3))
    M = np.linalg.cholesky(H).T
    B_o = M @ np.array([[0, 1, 0], [0, 0, 1.0]])
    B_o[:, 0] = [1e-4, 2e-4]
    P = M @ inside @ np.linalg.inv(M)
    options = FLOW | {"d_latent": 3, "d_embed": 2, "d_obs": 3, "ema_m": 0.0, "epochs": 4 * STEPS}
    config = RunConfig(**options, log_every=4 * STEPS)
    start = Start(P, np.zeros_like(P), B_o, np.zeros_like(B_o), B_o)
    (block,) = get_backend("numba").simulate(world, [config], lambda epochs: None, start)
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(block.order.P[0, -1]).real), kept, atol=1e-4)


def test_a_set_of_modes_needs_gains_of_its_signs():
    gains = np.array([-0.9, 0.5, -0.2, 0.1, 0.0])
    assert list(theory.bottleneck_modes(gains, 1, 1)) == [0, 1]
    assert list(theory.bottleneck_modes(gains, 2)) == [1, 3]
    with pytest.raises(ValueError, match="do not have 3 positive and 0 negative ones"):
        theory.bottleneck_modes(gains, 3)


# One-sided noise.


@pytest.mark.parametrize("init", ["random", "modes"])
def test_noise_of_the_target_raises_the_loss_and_moves_nothing(init):
    """Sigma_plus is in no population gradient: trajectories are one to rounding; the online view's noise moves P."""
    fixed = FLOW | {"d_latent": 3, "d_obs": 8, "latent_spectrum": "2,1.5,1", "init": init, "ema_m": 0.9, "epochs": 500}
    runs = {}
    for name, noise in {
        "even": {"sigma_n": 0.7},
        "clean": {"sigma_n": 0.7, "sigma_n_target": 0.0},
        "noisy": {"sigma_n": 0.7, "sigma_n_target": 1.9},
        "online": {"sigma_n": 1.0},
    }.items():
        config = RunConfig(**(fixed | noise), log_every=100)
        block = trajectory(config)
        norms = (block.order.b_t**2).sum(axis=(2, 3)) + (block.order.L_t**2).sum(axis=(2, 3))
        runs[name] = block.order.P, block.steps["loss"][0, 1:], norms[0], config.sigma_n_target
    P, loss, norms, _ = runs["even"]
    for name in ("clean", "noisy"):
        np.testing.assert_allclose(runs[name][0], P, atol=1e-12)
        # The loss of row t is that of the target before step t.
        extra = (runs[name][3] ** 2 - 0.7**2) / 2
        assert (np.sign(runs[name][1] - loss) == np.sign(extra)).all()
    gap = (runs["noisy"][1] - runs["clean"][1]) / (1.9**2 / 2)
    np.testing.assert_allclose((runs["even"][1] - runs["clean"][1]) / (0.7**2 / 2), gap, rtol=1e-9)
    np.testing.assert_allclose(gap[-1], norms[-1], rtol=0.02)  # norm(B_t)^2, which the last step moves by less
    assert np.abs(runs["online"][0] - P).max() > 0.05


@pytest.mark.parametrize("target", [0.0, 1.5])
@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_the_collapse_threshold_is_that_of_the_online_view(target, ratio):
    """A balanced mode at 0.9 and 1.1 of lam^2 / (4 (lam + sigma^2)); sigma_plus in its place would be far off."""
    lam, sigma = 1.5, 0.6
    eta = ratio * float(theory.collapse_threshold(lam, sigma))
    wrong = float(theory.collapse_threshold(lam, target))
    assert (eta < wrong) == (target == 0.0), "here the other view's threshold says the opposite, for one of the ratios"
    config = RunConfig(
        **FLOW, d_latent=2, d_obs=5, latent_spectrum=f"flat:{lam}", sigma_n=sigma, sigma_n_target=target, init="pinv",
        ema_m=0.0, weight_decay=eta, epochs=STEPS, log_every=STEPS,
    )  # fmt: skip
    P = trajectory(config).order.P[0, -1]
    gain = float(theory.stable_gain(lam, sigma, eta))
    assert (gain > 0) == (ratio < 1)
    np.testing.assert_allclose(P, gain * np.eye(2), atol=1e-6)
