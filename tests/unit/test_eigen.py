"""Jacobi's eigenvalues and singular values in kernels, the predictors made of them, and the limit that noise sets."""

from __future__ import annotations

import numpy as np
import pytest

from byolsim.backends.numba import eigen, rates
from byolsim.backends.numba.rules import At, optimal, whole_rows
from byolsim.config.run import RunConfig
from byolsim.model.order import inside_outside
from byolsim.model.theory import mean_square_limit, optimal_predictor
from byolsim.model.world import World


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("rank", [0, 1, 7])
def test_eigenvectors(k: int, rank: int) -> None:
    """Some ten sweeps of k^2 / 2 rotations, each of one rounding of the largest eigenvalue."""
    B = np.random.default_rng(k).normal(size=(k, min(rank, k)))
    S = B @ B.T
    D, V, P = S.copy(), np.empty((k, k)), np.empty((k, k))
    eigen.eigenvectors(D, V)
    tolerance = 1e-14 * max(1.0, float(np.abs(S).max(initial=0)))
    np.testing.assert_allclose(np.sort(np.diag(D)), np.linalg.eigvalsh(S), atol=tolerance)
    np.testing.assert_allclose(V @ V.T, np.eye(k), atol=1e-14)
    eigen.from_eigenvectors(np.diag(D).copy(), V, P)
    np.testing.assert_allclose(P, S, atol=tolerance)
    np.testing.assert_array_equal(P, P.T)


def test_singular_values_keep_their_digits() -> None:
    """Rows of sizes 1 to 1e-12: each singular value to 1e-13 of itself, where those of a plain SVD end at 1e-16."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** -np.arange(0, 15, 3)
    L = scales[:, None] * np.tril(rng.normal(size=(5, 5)) + 3 * np.eye(5))
    G, J = L.copy(), np.empty((5, 5))
    eigen.orthogonal_rows(G, J)
    np.testing.assert_allclose(J @ J.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(J @ L, G, atol=1e-15)
    sizes = np.linalg.norm(G, axis=1)
    cosines = (G / sizes[:, None]) @ (G / sizes[:, None]).T
    np.testing.assert_allclose(cosines, np.eye(5), atol=1e-14)
    assert np.prod(sizes) == pytest.approx(abs(np.linalg.det(L / scales[:, None])) * np.prod(scales), rel=1e-13)


@pytest.mark.parametrize("small", [1.0, 1e-6, 1e-12, 1e-16, 0.0])
def test_the_optimum_by_its_factor(small: float) -> None:
    """The last row of the encoder nearly in the span of the others: the plain pseudo-inverse to 1e-14 / small of P.

    Where the last singular value counts as zero, both leave it out and agree to rounding.
    """
    config = RunConfig(pred_rule="optimal", d_latent=3, d_obs=9, d_embed=3, correlation="linear:1:-0.4")
    world = World.from_config(config)
    B_o, B_t = np.random.default_rng(1).normal(size=(2, 3, 9))
    B_o[2] = B_o[0] - B_o[1] + small * B_o[2]
    P = np.zeros((1, 3, 3))
    memory = optimal.start(At([config], P, world, whole_rows(world), None))
    optimal.before_step(0, 1, P[0], B_o, B_t, np.eye(3), memory)
    b_o, L_o = inside_outside(B_o, world.Q)
    expected = optimal_predictor(b_o, L_o, B_t @ world.Q, world, memory.cutoff)
    size = np.linalg.norm(expected)
    relative = 1e-14 / small if small > 1e-13 else 1e-13
    np.testing.assert_allclose(P[0], expected, rtol=0, atol=10 * relative * size)


@pytest.mark.parametrize(("n", "mu"), [(1, 0.0), (6, 0.9), (1000, 0.5)])
def test_the_limit_of_noise(n: int, mu: float) -> None:
    """Fifty halvings: 1e-15 of the first pole."""
    c = np.array([2.0, 0.5, 0.0, -1e-17])
    found = rates._mean_square_limit(np.diag(c), float(n), mu)
    assert found == pytest.approx(mean_square_limit(np.maximum(c, 0), n, mu), rel=1e-12)
    assert rates._mean_square_limit(np.zeros((2, 2)), float(n), mu) == np.inf
