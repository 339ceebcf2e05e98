"""Each numba kernel beside the plain formula that it must equal."""

from __future__ import annotations

import numpy as np
import pytest

from byolsim.backends.numba import kernels, linalg
from byolsim.order import lq_factor
from byolsim.schedule import AutoRates, CurvatureEstimate


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3), (4, 9), (10, 100)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150, 1e-310])
def test_householder_lq(shape, scale):
    B = scale * np.random.default_rng(0).normal(size=shape)
    L = np.empty((shape[0], shape[0]))
    linalg.householder_lq(B.copy(), L)
    # A subnormal B has fewer digits of its own.
    np.testing.assert_allclose(L / scale, lq_factor(B / scale), atol=1e-13 if scale > 1e-300 else 1e-12)
    assert (np.diag(L) >= 0).all()
    assert not np.triu(L, 1).any()


def test_householder_lq_of_rank_deficient_rows():
    B = np.random.default_rng(1).normal(size=(4, 6))
    B[2] = B[0] - 2 * B[1]
    B[3] = 0
    L = np.empty((4, 4))
    linalg.householder_lq(B.copy(), L)
    np.testing.assert_allclose(L @ L.T, B @ B.T, atol=1e-13)
    linalg.householder_lq(np.zeros((4, 6)), L)
    assert not L.any()


def test_householder_lq_keeps_digits_that_a_gram_matrix_loses():
    """Rows that are parallel to one part in 1e10: the factor resolves their difference, B B^T could not."""
    B = np.random.default_rng(2).normal(size=(2, 8))
    step = np.random.default_rng(3).normal(size=8)
    B[1] = B[0] + 1e-10 * step
    L = np.empty((2, 2))
    linalg.householder_lq(B.copy(), L)
    unit = B[0] / np.linalg.norm(B[0])
    expected = 1e-10 * np.linalg.norm(step - (step @ unit) * unit)
    assert L[1, 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("r", [1, 2, 5, 12])
@pytest.mark.parametrize("seed", range(3))
def test_spectral_norm(r, seed):
    P = np.random.default_rng(seed).normal(size=(r, r))
    value = linalg.spectral_norm_squared(P, np.empty((r, r)))
    assert value == pytest.approx(np.linalg.norm(P, 2) ** 2, rel=1e-12)
    assert linalg.spectral_norm_squared(np.zeros((r, r)), np.empty((r, r))) == 0


def test_power_iteration_finds_the_largest_eigenvalue():
    """The plain estimate, which the oracle's trajectories hold the kernel to, converges to lambda_max."""
    rng = np.random.default_rng(0)
    M = rng.normal(size=(6, 9))
    C = M @ M.T
    estimate = CurvatureEstimate(6)
    for _ in range(30):
        estimate.tick(C)
    assert pytest.approx(np.linalg.eigvalsh(C)[-1], rel=1e-9) == estimate.H
    assert estimate.H_floor == pytest.approx(1e-3 * estimate.H, rel=1e-3)


def test_rates_of_the_rule():
    rule = AutoRates(tau=0.01, mu_P=0.9, mu_B=0.5, eta=0.1, lambda_max_x=4.0)
    assert rule.alpha(0.4, 2.0) == (pytest.approx(0.4 * 0.01 / 2.0), False)
    assert rule.alpha(1e6, 2.0) == (pytest.approx(0.99 * 2 * 1.9 / 2.1), True)
    P = np.diag([3.0, 1.0])
    assert rule.beta(1e6, 2.0, P) == (pytest.approx(0.99 * 2 * 1.5 / (4 * 9 + 0.1)), True)
    free = AutoRates(tau=0.01, mu_P=0.9, mu_B=0.5, eta=0.0, lambda_max_x=4.0)
    assert free.beta(0.4, 2.0, np.zeros((2, 2))) == (pytest.approx(0.002), False)


@pytest.mark.parametrize(("c_alpha", "c_beta", "H"), [(0.4, 0.4, 2.0), (1e3, 1e3, 2.0), (0.4, 1e3, 0.5)])
def test_kernel_sets_the_rates_of_the_plain_rule(c_alpha, c_beta, H):
    """One `_set_rates` call against `schedule.AutoRates`, bounds active and not."""
    rng = np.random.default_rng(0)
    P = rng.normal(size=(3, 3))
    rule = AutoRates(tau=0.3, mu_P=0.9, mu_B=0.5, eta=0.1, lambda_max_x=4.0)
    state, hyper, world, scratch = packed(P, c_alpha, c_beta, H, rule)
    kernels._set_rates(0, world, hyper, state, scratch)
    alpha, alpha_cut = rule.alpha(c_alpha, H)
    beta, beta_cut = rule.beta(c_beta, H, P)
    assert state.alpha_t[0] == pytest.approx(alpha, rel=1e-12)
    assert state.beta_t[0] == pytest.approx(beta, rel=1e-12)
    assert state.clips[0].tolist() == [alpha_cut, beta_cut, 0]


def packed(P, c_alpha, c_beta, H, rule):
    """Kernel arguments of one run with the given predictor and curvature."""
    from cases import small

    from byolsim.backends.numba import backend
    from byolsim.world import World

    config = small(auto_alpha_c=c_alpha, auto_beta_c=c_beta, ema_m=0.7, mom_pred=0.9, mom_enc=0.5, weight_decay=0.1)
    world = World.from_config(config)
    state = backend._initial_state([config], world)
    state.P[0] = P
    state.H[0] = H
    arrays = backend._world_arrays(config, world)._replace(lambda_max_x=rule.lambda_max_x)
    return state, backend._hyper([config]), arrays, backend._scratch(config)
