"""Trajectories and metrics against the naive oracle, which shares no code with the package."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from cases import BACKENDS, one_run, oracle_rows, small

from byolsim.backends import get_backend
from byolsim.draws.streams import MinibatchKey
from byolsim.model.metrics import order_metrics
from byolsim.model.order import OrderParameters, inside_outside
from byolsim.model.theory import wiener_predictor
from byolsim.model.world import World

# Forty steps of a stable run: rounding errors of 1e-16 a step grow by less than a factor 1e4 on the way.
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}

VARIANTS = {
    "plain": {"lr_pred": 0.02, "lr_enc": 0.03},
    "momentum-decay": {"lr_pred": 0.01, "lr_enc": 0.02, "mom_pred": 0.6, "mom_enc": 0.3, "weight_decay": 0.05},
    "periods": {"lr_pred": 0.02, "lr_enc": 0.03, "pred_update_every": 3, "enc_update_every": 2, "ema_m": 0.7},
    "more-samples-than-dimensions": {"lr_pred": 0.02, "lr_enc": 0.03, "batch_size": 30},
    "one-sample": {"lr_pred": 0.01, "lr_enc": 0.01, "batch_size": 1},
    "no-noise": {"lr_pred": 0.02, "lr_enc": 0.03, "sigma_n": 0.0},
    "slaved-target": {"lr_pred": 0.02, "lr_enc": 0.03, "ema_m": 0},
    "frozen-target": {"lr_pred": 0.02, "lr_enc": 0.03, "ema_m": 1},
    "auto": {"ema_m": 0.9, "auto_every": 7, "power_iters": 2},
    "auto-alpha": {"lr_enc": 0.01, "ema_m": 0.9, "batch_size": 30},
    "auto-clipped": {"ema_m": 0.5, "auto_alpha_c": 30.0, "auto_beta_c": 30.0, "epochs": 5},
    "square": {"lr_pred": 0.02, "lr_enc": 0.03, "d_obs": 3},
    "collapsing": {"ema_m": 0.3, "weight_decay": 3.0, "lr_enc": 0.1, "auto_every": 1, "epochs": 160, "log_every": 40},
    "several-blocks": {
        "d_obs": 120,
        "batch_size": 64,
        "epochs": 45,
        "pred_update_every": 2,
        "lr_enc": 0.002,
        "ema_m": 0.9,
    },
    "several-blocks-of-moments": {"d_obs": 60, "batch_size": 130, "epochs": 45, "lr_pred": 0.002, "ema_m": 0.9},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", ["minibatch", "population"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_trajectory_equals_the_oracle(backend, sampler, variant):
    config = small(sampler=sampler, backend=backend, **VARIANTS[variant])
    world = World.from_config(config)
    rows, counts = oracle_rows(config, world)
    blocks = list(get_backend(backend).simulate(world, [config], lambda epochs: None))
    assert sum(len(block.epochs) for block in blocks) == len(rows)
    (block,) = blocks
    assert block.epochs.tolist() == [row["epoch"] for row in rows]
    for i, row in enumerate(rows):
        np.testing.assert_allclose(block.order.P[0, i], row["P"], **TOLERANCE)
        for name, b, L in (("B_o", block.order.b_o, block.order.L_o), ("B_t", block.order.b_t, block.order.L_t)):
            inside, outside = inside_outside(row[name], world.Q)
            np.testing.assert_allclose(b[0, i], inside, **TOLERANCE)
            np.testing.assert_allclose(L[0, i] @ L[0, i].T, outside @ outside.T, **TOLERANCE)
        gap = np.linalg.norm(row["B_o"] - row["B_t"])
        np.testing.assert_allclose(block.order.gap[0, i], gap, rtol=1e-10, atol=1e-14)
        for name in ("Hmax", "lr_pred_t", "lr_enc_t", "tau_t"):
            np.testing.assert_allclose(block.steps[name][0, i], row[name], **TOLERANCE)
        if row["epoch"] > 0:
            np.testing.assert_allclose(block.steps["loss"][0, i], row["loss"], **TOLERANCE)
    assert block.clips[0].tolist() == counts


def test_the_variants_do_what_their_names_say():
    """Else the comparison above would say nothing about the bounds, the floor and the blocks."""
    clips = one_run(small(**VARIANTS["auto-clipped"])).clips
    assert clips.lr_pred_limit > 0
    assert clips.lr_enc_limit > 0
    assert one_run(small(**VARIANTS["collapsing"])).clips.H_floor > 0
    for name in ("several-blocks", "several-blocks-of-moments"):
        config = small(**VARIANTS[name])
        assert MinibatchKey(0, config.batch_size, config.d_obs, config.d_latent).steps_per_block < 20


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["plain", "more-samples-than-dimensions", "auto"])
def test_single_precision_follows_the_oracle(backend, variant):
    """Forty steps with rounding errors of 6e-8 each."""
    config = small(backend=backend, dtype="float32", **VARIANTS[variant])
    world = World.from_config(config)
    rows, _ = oracle_rows(config, world)
    (block,) = get_backend(backend).simulate(world, [config], lambda epochs: None)
    np.testing.assert_allclose(block.order.P[0], np.stack([row["P"] for row in rows]), atol=2e-5)
    losses = [row["loss"] for row in rows[1:]]
    np.testing.assert_allclose(block.steps["loss"][0, 1:], losses, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_metrics_equal_the_definitions(seed, sigma):
    """Small matrices against d x d projectors, pseudo-inverses and eigenvalues, at states in general position."""
    rng = np.random.default_rng(seed)
    r, d = 3, [3, 4, 9][seed % 3]
    world = World(rng.normal(size=(d, r)), np.sort(rng.uniform(0.5, 3, r))[::-1], sigma)
    P, B_o, B_t = rng.normal(size=(r, r)), rng.normal(size=(r, d)), rng.normal(size=(r, d))
    ours = order_metrics(state(P, B_o, B_t, world), world)
    expected = naive.metrics(P, B_o, B_t, world.A, world.lam, world.sigma)
    assert set(expected) == set(ours)
    for name, value in expected.items():
        # The oracle squares its inputs, of condition number up to 1e3: it is good to about 1e-9.
        np.testing.assert_allclose(ours[name][0, 0], value, rtol=1e-8, atol=1e-8, err_msg=name)


def state(P, B_o, B_t, world):
    """One state as order parameters of one run and one epoch."""
    (b_o, L_o), (b_t, L_t) = inside_outside(B_o, world.Q), inside_outside(B_t, world.Q)
    stacked = {"P": P, "b_o": b_o, "L_o": L_o, "b_t": b_t, "L_t": L_t}
    gap = np.full((1, 1), np.linalg.norm(B_o - B_t))
    return OrderParameters(**{name: M[None, None] for name, M in stacked.items()}, gap=gap)


def test_metrics_of_a_collapsed_encoder():
    """At B_o = 0 the predictor, rank and projector metrics are null and the rest have stated values."""
    world = World(np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))[0], np.ones(3), 0.5)
    B_t = np.ones((3, 6))
    ours = {k: v[0, 0] for k, v in order_metrics(state(np.eye(3), np.zeros((3, 6)), B_t, world), world).items()}
    null = {name for name, value in ours.items() if np.isnan(value)}
    assert null == {
        "W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err", "enc_proj_dist", "span_err", "commutator",
        "erank_encoded", "erank_pred", "erank_sv_encoded", "erank_sv_pred",
    }  # fmt: skip
    assert ours["BA_err_aligned"] == pytest.approx(np.sqrt(3), rel=1e-14)
    assert ours["enc_procrustes_fro"] == pytest.approx(np.linalg.norm(world.A_pinv), rel=1e-14)
    assert ours["gap"] == np.linalg.norm(B_t)
    assert not any(np.isinf(value) for value in ours.values())


@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-30, 1e-150, 1e-200, 1e-290])
def test_relative_metrics_do_not_see_the_scale_of_a_collapsing_encoder(size):
    """Ranks, projectors, P - P* and loss_rel are invariant to B -> s B: unsquared factors keep all digits.

    The root of the excess loss is as large as the encoders.
    """
    rng = np.random.default_rng(1)
    world = World(rng.normal(size=(7, 3)), np.array([2.0, 1.0, 0.5]), 0.5)
    P, B = rng.normal(size=(3, 3)), rng.normal(size=(3, 7))
    full, shrunk = (order_metrics(state(P, s * B, s * B, world), world) for s in (1.0, size))
    shrunk["W_excess"] = shrunk["W_excess"] - np.log10(size)
    for name in full:
        if name.startswith(("erank", "W_", "enc_proj", "loss_rel", "P_", "comm", "span", "gain")):
            np.testing.assert_allclose(shrunk[name], full[name], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("online", [1.0, 1e-100, 1e-160, 1e-200, 1e-300, 1e-310, 5e-324, 0.0])
@pytest.mark.parametrize("target", [1.0, 1e-200, 0.0])
def test_nothing_raises_and_nothing_is_infinite(online, target):
    """Encoders and targets of any size, subnormal ones included."""
    rng = np.random.default_rng(1)
    world = World(rng.normal(size=(7, 3)), np.array([2.0, 1.0, 0.5]), 0.5)
    B = rng.normal(size=(3, 7))
    for P in (rng.normal(size=(3, 3)), np.zeros((3, 3))):
        columns = order_metrics(state(P, online * B, target * B, world), world)
        assert not any(np.isinf(column).any() for column in columns.values())
        assert np.isfinite(columns["loss_pop"]).all()


def test_floor_of_the_logarithms():
    """At P = P* up to rounding or exactly, log10 shows 2^-52 norm(P*), not minus infinity."""
    rng = np.random.default_rng(4)
    world = World(rng.normal(size=(6, 3)), np.array([2.0, 1.0, 0.5]), 0.5)
    B = rng.normal(size=(3, 6))
    P_star = wiener_predictor(B, B, world)
    floor = np.log10(2.0**-52 * np.linalg.norm(P_star))
    assert order_metrics(state(P_star, B, B, world), world)["W_Fro_raw"] >= floor - 1e-12
    zero = World(np.eye(2), np.ones(2), 1.0)
    exact = order_metrics(state(0.5 * np.eye(2), np.eye(2), np.eye(2), zero), zero)
    assert exact["W_Fro_raw"][0, 0] == pytest.approx(np.log10(2.0**-52 * np.sqrt(0.5)), abs=0.5)


def test_small_errors_are_resolved():
    """At the fixed point with errors of 1e-12 injected, the metrics show 1e-12 and not the square root of rounding."""
    rng = np.random.default_rng(2)
    A = np.linalg.qr(rng.normal(size=(9, 3)))[0]
    world = World(A, np.array([2.0, 1.0, 0.5]), 0.5)
    P = np.diag(world.lam / (world.lam + world.sigma**2))
    noise = rng.normal(size=(3, 9))
    noise *= 1e-12 / np.linalg.norm(noise)
    B = world.A_pinv + noise
    ours = {name: value[0, 0] for name, value in order_metrics(state(P, B, B, world), world).items()}
    for name in ("BA_err_aligned", "enc_procrustes_fro", "enc_proj_dist"):
        assert 1e-13 < ours[name] < 3e-12, name
    for name in ("W_Fro_raw", "W_Fro_aligned"):
        assert -14 < ours[name] < -11, name


def test_aligned_error_is_never_above_the_raw_one():
    rng = np.random.default_rng(3)
    world = World(rng.normal(size=(6, 3)), np.array([2.0, 1.0, 0.5]), 0.5)
    for scale in (1.0, 1e-6, 1e-12, 0.0):
        B = rng.normal(size=(3, 6))
        base = order_metrics(state(np.eye(3), B, B, world), world)
        assert np.isfinite(base["W_Fro_raw"])
        P = wiener_predictor(B, B, world) + scale * rng.normal(size=(3, 3))
        ours = order_metrics(state(P, B, B, world), world)
        assert ours["W_Fro_aligned"] <= ours["W_Fro_raw"]
