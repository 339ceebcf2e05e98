"""The gradients: closed form = Kronecker form = finite differences, for any shapes and weight decay.

Their third form, by autograd, is in tests/contract.
"""

from __future__ import annotations

import naive
import numpy as np
from cases import problem
from hypothesis import given, settings
from hypothesis import strategies as st

from byolsim.model import gradients as model

# Derandomised: the examples are the same on every run, so there is no false alarm.
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
shapes = st.tuples(st.integers(1, 5), st.integers(0, 6), st.integers(1, 9), st.integers(0, 2**16))
decays = st.sampled_from([0.0, 0.3])


@PROPERTY
@given(shapes, decays)
def test_matrix_form_equals_kronecker_form(shape, eta):
    r, extra, n, seed = shape
    p = problem(r, r + extra, n, seed)
    S_xx, S_px = p.moments
    G = model.sample_residual_gradient(p.P, p.B_o, p.B_t, p.X, p.X_plus)
    np.testing.assert_allclose(G, model.moment_residual_gradient(p.P, p.B_o, p.B_t, S_xx, S_px), atol=1e-12)
    for plain, kron in zip(
        model.gradients(p.P, p.B_o, G, eta),
        model.gradients_kron(p.P, p.B_o, p.B_t, S_xx, S_px, eta),
        strict=True,
    ):
        # Sums of at most 11 x 9 products of numbers of order 1: rounding stays below 1e-12.
        np.testing.assert_allclose(plain, kron, atol=1e-12)


@PROPERTY
@given(shapes, decays)
def test_gradients_equal_finite_differences(shape, eta):
    r, extra, n, seed = shape
    p = problem(r, r + extra, n, seed)
    G = model.sample_residual_gradient(p.P, p.B_o, p.B_t, p.X, p.X_plus)
    differences = naive.sample_gradients_fd(p.P, p.B_o, p.B_t, p.X.T, p.X_plus.T, eta)
    for plain, difference in zip(model.gradients(p.P, p.B_o, G, eta), differences, strict=True):
        # The loss is quadratic in each entry, so a central difference is exact up to rounding over its step 1e-3.
        np.testing.assert_allclose(plain, difference, atol=1e-10)


@PROPERTY
@given(shapes, decays)
def test_hessians_are_the_change_of_the_gradient(shape, eta):
    r, extra, n, seed = shape
    p = problem(r, r + extra, n, seed)
    S_xx, S_px = p.moments
    H_P, H_B = model.hessians(p.P, p.B_o, S_xx, eta)
    rng = np.random.default_rng(seed)
    step_P, step_B = rng.normal(size=p.P.shape), rng.normal(size=p.B_o.shape)
    base = model.gradients_kron(p.P, p.B_o, p.B_t, S_xx, S_px, eta)
    moved_P = model.gradients_kron(p.P + step_P, p.B_o, p.B_t, S_xx, S_px, eta)
    moved_B = model.gradients_kron(p.P, p.B_o + step_B, p.B_t, S_xx, S_px, eta)
    # Each gradient is affine in its own parameter, so a finite step is exact.
    np.testing.assert_allclose(
        H_P @ step_P.reshape(-1, order="F"), (moved_P[0] - base[0]).reshape(-1, order="F"), atol=1e-10
    )
    np.testing.assert_allclose(
        H_B @ step_B.reshape(-1, order="F"), (moved_B[1] - base[1]).reshape(-1, order="F"), atol=1e-10
    )


@PROPERTY
@given(shapes)
def test_population_form_is_the_moment_form_at_the_population_moments(shape):
    r, extra, n, seed = shape
    p = problem(r, r + extra, n, seed)
    np.testing.assert_allclose(
        model.population_residual_gradient(p.P, p.B_o, p.B_t, p.world),
        model.moment_residual_gradient(p.P, p.B_o, p.B_t, p.world.Sigma_x, p.world.Sigma_s),
        atol=1e-12,
    )
    expected = naive.population_loss(p.P, p.B_o, p.B_t, p.world.A, p.world.lam, p.world.sigma)
    np.testing.assert_allclose(model.population_loss(p.P, p.B_o, p.B_t, p.world), expected, rtol=1e-12)
