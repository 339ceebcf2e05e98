"""Each numba kernel beside the plain formula that it must equal."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from byolsim.backends.numba import lane_linalg, linalg, rates, structures
from byolsim.backends.numba.lanes import lane_count
from byolsim.backends.numba.layers import above, above_square, initial_layers, through, through_square
from byolsim.backends.numba.losses import first_layer_gain, gain_bound, loss_of
from byolsim.model.linalg import lower_factor, lq_factor
from byolsim.model.schedule import AutoRates, CurvatureEstimate
from byolsim.model.world import World


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3), (4, 9), (10, 100)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150, 1e-310])
def test_householder_lq(shape, scale):
    B = scale * np.random.default_rng(0).normal(size=shape)
    L = np.empty((shape[0], shape[0]))
    linalg.householder_lq(B.copy(), L, np.empty((2, len(B))))
    # A subnormal B has fewer digits of its own.
    np.testing.assert_allclose(L / scale, lq_factor(B / scale), atol=1e-13 if scale > 1e-300 else 1e-12)
    assert (np.diag(L) >= 0).all()
    assert not np.triu(L, 1).any()


def test_householder_lq_of_rank_deficient_rows():
    B = np.random.default_rng(1).normal(size=(4, 6))
    B[2] = B[0] - 2 * B[1]
    B[3] = 0
    L = np.empty((4, 4))
    linalg.householder_lq(B.copy(), L, np.empty((2, len(B))))
    np.testing.assert_allclose(L @ L.T, B @ B.T, atol=1e-13)
    linalg.householder_lq(np.zeros((4, 6)), L, np.empty((2, 4)))
    assert not L.any()


def test_householder_lq_keeps_digits_that_a_gram_matrix_loses():
    """Rows that are parallel to one part in 1e10: the factor resolves their difference, B B^T could not."""
    B = np.random.default_rng(2).normal(size=(2, 8))
    step = np.random.default_rng(3).normal(size=8)
    B[1] = B[0] + 1e-10 * step
    L = np.empty((2, 2))
    linalg.householder_lq(B.copy(), L, np.empty((2, len(B))))
    unit = B[0] / np.linalg.norm(B[0])
    expected = 1e-10 * np.linalg.norm(step - (step @ unit) * unit)
    assert L[1, 1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-200])
def test_orthonormal_rows(scale):
    """O of B = L O, also where rows depend on one another: it is then any orthonormal set that B lies in."""
    B = np.random.default_rng(1).normal(size=(5, 9))
    B[3] = B[0] - 2 * B[1]
    W, L, O, reflections = scale * B, np.empty((5, 5)), np.empty((5, 9)), np.empty((2, 5))
    linalg.householder_lq(W, L, reflections)
    linalg.orthonormal_rows(W, reflections, O)
    np.testing.assert_allclose(O @ O.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(L @ O / scale, B, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 1), (5, 3), (3, 8)])
def test_lq_of_a_tall_matrix_is_trapezoidal(shape):
    E = np.random.default_rng(0).normal(size=shape)
    C = np.empty((shape[0], min(shape)))
    linalg.householder_lq(E.copy(), C, np.empty((2, shape[0])))
    np.testing.assert_allclose(C, lower_factor(E), atol=1e-14)


def in_lanes(matrices, dtype="float64"):
    return np.ascontiguousarray(np.moveaxis(np.stack(matrices), 0, -1)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3), (4, 1), (5, 2), (6, 8), (9, 12), (30, 40)])
def test_lane_lq(shape, dtype):
    """Each lane by itself, at any offset, whatever the scale of its neighbours."""
    rng = np.random.default_rng(0)
    small = 1e-200 if dtype == "float64" else 1e-25
    scales = [1.0, small, 1 / small**0.5, 0.0, 1.0, 1.0, 1.0, 1.0][: lane_count(dtype)]
    matrices = [scale * rng.normal(size=shape) for scale in scales]
    M = in_lanes([np.hstack([np.ones((shape[0], 2)), matrix]) for matrix in matrices], dtype)
    lane_linalg.lane_lq(M, 2, 2 + shape[1])
    for lane, (scale, matrix) in enumerate(zip(scales, matrices, strict=True)):
        expected = np.zeros(shape)
        expected[:, : min(shape)] = lower_factor(matrix / (scale or 1.0))
        tolerance = 3e-14 if dtype == "float64" else 2e-5
        np.testing.assert_allclose(M[:, 2:, lane].astype(float) / (scale or 1.0), expected, atol=tolerance)
    assert (M[:, :2] == 1).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 2e-15])
@pytest.mark.parametrize("relative", [1e-4, 1e-8, 1e-19, 1e-170])
def test_rows_of_any_size_beside_one_another_keep_their_digits(relative, scale, dtype):
    """Rows 2 and 3 are a tiny multiple of general ones, as a nearly collapsed encoder is beside its target.

    Both kernels against NumPy's factor of the rows in their own units, an LQ factorisation being row-wise scalable.
    """
    if dtype == "float32" and relative < 1e-19:
        pytest.skip("not a number of float32")
    general = np.random.default_rng(4).normal(size=(6, 9))
    units = scale * np.array([1.0, 1.0, relative, relative, 1.0, 1.0])
    rows = (units[:, None] * general).astype(dtype)
    expected = lq_factor(general)
    tolerance = 1e-13 if dtype == "float64" else 2e-5
    L = np.empty((6, 6), dtype)
    linalg.householder_lq(rows.copy(), L, np.empty((2, 6)))
    np.testing.assert_allclose(L / units[:, None], expected, atol=tolerance)
    M = in_lanes([rows] + [general] * (lane_count(dtype) - 1), dtype)
    lane_linalg.lane_lq(M, 0, 9)
    np.testing.assert_allclose(M[:, :6, 0] / units[:, None], expected, atol=tolerance)


def test_lane_lq_of_rank_deficient_and_signed_rows():
    """Dependent rows, a zero row, and rows that are triangular already with either sign."""
    rng = np.random.default_rng(1)
    dependent = rng.normal(size=(4, 6))
    dependent[2] = dependent[0] - 2 * dependent[1]
    zero_row = rng.normal(size=(4, 6))
    zero_row[1] = 0
    triangular = np.tril(rng.normal(size=(4, 6)))
    matrices = [dependent, zero_row, triangular, -np.eye(4, 6)]
    M = in_lanes(matrices)
    lane_linalg.lane_lq(M, 0, 6)
    for lane, matrix in enumerate(matrices):
        L = M[:, :4, lane]
        assert (np.diag(L) >= 0).all() and not np.triu(L, 1).any() and not M[:, 4:, lane].any()
        np.testing.assert_allclose(L @ L.T, matrix @ matrix.T, atol=1e-13)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (2, 3, 5), (3, 2, 7), (10, 10, 50), (5, 15, 13)])
def test_lane_products(rows, inner, columns):
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(4, rows, inner + 1)), rng.normal(size=(4, inner, columns + 2))
    C = in_lanes(np.zeros((4, rows, columns + 3)))
    lane_linalg.multiply(in_lanes(A), 1, in_lanes(B), 2, inner, C, 3, columns, 0.5)
    for lane in range(4):
        np.testing.assert_allclose(C[:, 3:, lane], 0.5 * A[lane][:, 1:] @ B[lane][:, 2:], atol=1e-13)
    for shape, S in (
        (lane_linalg.FULL, B[0][:, 2:]),
        (lane_linalg.LOWER, np.tril(B[0][:, 2:])),
        (lane_linalg.UPPER, np.triu(B[0][:, 2:])),
    ):
        lane_linalg.multiply_shared(in_lanes(A), 1, np.ascontiguousarray(S), shape, C, 3, 2.0)
        for lane in range(4):
            np.testing.assert_allclose(C[:, 3:, lane], 2 * A[lane][:, 1:] @ S, atol=1e-13)
    assert not C[:, :3].any()


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
    rule = AutoRates(tau=0.01, mu_P=0.9, mu_B=0.5, eta_P=0.1, eta_B=0.1, lambda_max_x=4.0)
    assert rule.alpha(0.4, 2.0) == (pytest.approx(0.4 * 0.01 / 2.0), False)
    assert rule.alpha(1e6, 2.0) == (pytest.approx(0.99 * 2 * 1.9 / 2.1), True)
    P = np.diag([3.0, 1.0])
    assert rule.beta(1e6, 2.0, P) == (pytest.approx(0.99 * 2 * 1.5 / (4 * 9 + 0.1)), True)
    free = AutoRates(tau=0.01, mu_P=0.9, mu_B=0.5, eta_P=0.0, eta_B=0.0, lambda_max_x=4.0)
    assert free.beta(0.4, 2.0, np.zeros((2, 2))) == (pytest.approx(0.002), False)


@pytest.mark.parametrize(("c_alpha", "c_beta", "H"), [(0.4, 0.4, 2.0), (1e3, 1e3, 2.0), (0.4, 1e3, 0.5)])
def test_kernel_sets_the_rates_of_the_plain_rule(c_alpha, c_beta, H):
    """One `set_rates` call against `schedule.AutoRates`, bounds active and not."""
    rng = np.random.default_rng(0)
    P = rng.normal(size=(3, 3))
    rule = AutoRates(tau=0.3, mu_P=0.9, mu_B=0.5, eta_P=0.1, eta_B=0.1, lambda_max_x=4.0)
    course, hyper, world, work = packed(P, c_alpha, c_beta, H, rule)
    may_be_cut = rates.beta_may_be_cut(0, course.now[0, structures.SQUARE_P], world.lambda_max_x, hyper, course.now)
    gain = linalg.spectral_norm_squared(P, work.square)
    rates.set_rates(0, gain, may_be_cut, world.lambda_max_x, work.square, hyper, course.now, course.clips, course)
    alpha, alpha_cut = rule.alpha(c_alpha, H)
    beta, beta_cut = rule.beta(c_beta, H, P)
    assert course.now[0, structures.ALPHA_T] == pytest.approx(alpha, rel=1e-12)
    assert course.now[0, structures.BETA_T] == pytest.approx(beta, rel=1e-12)
    assert course.clips[0].tolist() == [alpha_cut, beta_cut, 0]


@numba.njit
def gains(P, layers, now, loss, square):
    """The gain that bounds beta, and what is at least as much, as `step.update` finds them."""
    PU = through(P, layers)
    most = gain_bound(through_square(0, now, layers), above_square(layers), loss)
    return first_layer_gain(PU, above(P, layers), square, loss), most


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pred_jacobian": "straight"},
        {"symmetric_loss": True},
        {"stop_grad": False, "tau": 1.0},
        {"stop_grad": False, "tau": 1.0, "pred_jacobian": "straight"},
    ],
)
def test_kernel_has_the_gain_of_the_plain_rule(depth, options):
    """At a rate far above the limit: beta = 0.99 limit, from which the plain form's gain follows."""
    from cases import small

    rng = np.random.default_rng(1)
    config = small(d_latent=3, enc_depth=depth, **options)
    P, upper = rng.normal(size=(3, 3)), rng.normal(size=(depth - 1, 3, 3))
    layers = initial_layers([config], World.from_config(config), config.d_obs)
    if depth > 1:
        layers.U[:] = upper[1] @ upper[0]
    now = np.zeros((1, structures.NOW))
    now[0, structures.SQUARE_P] = np.sum(P**2)
    gain, most = gains(P, layers, now, loss_of(config, config.d_obs), np.empty((3, 3)))
    straight, one = config.pred_jacobian == "straight", not config.stop_grad
    rule = AutoRates(0.1, 0.0, 0.0, 0.0, 0.0, 2.0, straight, one)
    beta, is_cut = rule.beta(1e9, 1.0, P, upper[1] @ upper[0] if depth > 1 else None)
    assert is_cut
    assert gain == pytest.approx(0.99 * 2 / (2.0 * beta), rel=1e-12)
    assert most >= gain


def packed(P, c_alpha, c_beta, H, rule):
    """Kernel arguments of one run with the given predictor and curvature."""
    from cases import small

    from byolsim.backends.numba import packing
    from byolsim.backends.numba.samplers.whole import world_arrays
    from byolsim.model.world import World

    config = small(auto_alpha_c=c_alpha, auto_beta_c=c_beta, ema_m=0.7, mom_pred=0.9, mom_enc=0.5, weight_decay=0.1)
    world = World.from_config(config)
    course = packing.initial_course([config], P[None], P[None])
    course.now[0, structures.H_T] = H
    arrays = world_arrays(config, world)._replace(lambda_max_x=rule.lambda_max_x)
    return course, packing.hyperparameters([config]), arrays, packing.work_arrays(config, world.d)
