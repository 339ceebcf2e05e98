"""The algebra of the moments sampler in worlds of every kind: at the moments of one explicit minibatch it is exact.

docs/moments.md derives both forms. Here a minibatch is drawn sample by sample, its white coordinates xi are solved for,
and each form, given W W^T = sum xi xi^T and the N that the samples have, must return the minibatch's own gradient,
loss and feature covariance. Tolerances of 1e-10 leave room for rounding alone: all factors are well-conditioned here,
or singular only where a factor of 0 multiplies what is unknown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from byolsim.config.run import RunConfig
from byolsim.draws.streams import MomentsKey, moment_blocks, split_moments
from byolsim.model import gradients
from byolsim.model.linalg import lower_factor, lq_factor, lq_factorisation
from byolsim.model.moments import (
    ReducedWorld,
    direct_gradient,
    reduced_gradient,
    reduced_gradients,
    retriangulate,
)
from byolsim.model.world import World

SIZES = [1, 2, 3, 5, 9, 40]
"""From n < k to n >= q + 2k, for every world below."""


def of_options(d_latent: int, d_obs: int, spectrum: str, **options: object) -> World:
    """A world of options with a mixing matrix that is not orthonormal."""
    fixed = {"mixing": "gaussian", "latent_spectrum": spectrum, "sigma_n": 0.7}
    return World.from_config(RunConfig(d_latent=d_latent, d_obs=d_obs, **(fixed | options)))


def of_moments(q: int, d: int, sigma: float = 0.7, sigma_plus: float = 0.4, rank: int | None = None) -> World:
    """Second moments with an asymmetric S_px, inside a random subspace of d dimensions; S_xx has the given rank."""
    rng = np.random.default_rng(5)
    x, x_plus = rng.normal(size=(q, 2 * q + 1)), rng.normal(size=(q, 2 * q + 1))
    if rank is not None:
        x = rng.normal(size=(q, rank)) @ rng.normal(size=(rank, 2 * q + 1))
    S = [a @ b.T / (2 * q) for a, b in ((x, x), (x_plus, x), (x_plus, x_plus))]
    if d == q:
        return World.from_moments(*S)
    return World.from_moments(*S, Q=np.linalg.qr(rng.normal(size=(d, q)))[0], sigma=sigma, sigma_plus=sigma_plus)


WORLDS: dict[str, tuple[Callable[[], World], int]] = {
    "plain": (lambda: of_options(3, 17, "2.5,1.3,0.6"), 3),
    "k<r": (lambda: of_options(4, 17, "3,2,1,0.5"), 2),
    "k>r": (lambda: of_options(2, 19, "2,0.7"), 4),
    "k=1": (lambda: of_options(3, 8, "2.5,1.3,0.6"), 1),
    "nuisance": (lambda: of_options(2, 14, "2,0.7", d_nuisance=3, nuisance_spectrum="4,1,0.2"), 2),
    "clean target": (lambda: of_options(2, 15, "2,0.7", sigma_n_target=0.0), 3),
    "noisier target": (lambda: of_options(2, 15, "2,0.7", sigma_n_target=1.3), 3),
    "correlation": (lambda: of_options(3, 17, "2.5,1.3,0.6", correlation="-0.8,0.3,1"), 3),
    "all at once": (
        lambda: of_options(2, 22, "2,0.7", correlation="0.6,-1", d_nuisance=2, sigma_n_target=0.2, sigma_n=1.1),
        4,
    ),
    "moments": (lambda: of_moments(4, 17), 3),
    "moments, k>q": (lambda: of_moments(2, 19), 4),
    "moments, singular S_xx": (lambda: of_moments(4, 17, rank=2), 3),
    # The direct form alone: too few directions outside for the reduced one, or none at all.
    "moments, q=d": (lambda: of_moments(6, 6), 3),
    "moments, k>d-q": (lambda: of_moments(4, 6), 4),
    "moments, k=d": (lambda: of_moments(3, 5), 5),
    "k=d": (lambda: of_options(2, 4, "2,0.7", correlation="flat:0.5"), 4),
    "r=d": (lambda: of_options(4, 4, "3,2,1,0.5", sigma_n_target=0.1), 2),
}
REDUCED = [name for name, (world, k) in WORLDS.items() if world().d - world().q >= 4 * k]


class Minibatch:
    """An explicit minibatch in a generic state, with the latents and the noise that the moments replace."""

    def __init__(self, name: str, n: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        make, k = WORLDS[name]
        world = make()
        d, q = world.d, world.q
        self.n, self.k, self.world = n, k, world
        self.P, self.V = rng.normal(size=(k, k)), 0.3 * rng.normal(size=(k, d))
        self.B_o, self.B_t = rng.normal(size=(2, k, d)) / np.sqrt(d)
        self.latents = rng.normal(size=(len(world.variances_plus), n))  # white
        self.g = self.latents[:q]
        self.e = rng.normal(size=(d, n))
        Pi = np.eye(d) if world.noise_inside else np.eye(d) - world.Q @ world.Q.T
        self.X = world.A * np.sqrt(world.lam) @ self.g + world.sigma * Pi @ self.e
        noise = world.noise_plus * Pi @ rng.normal(size=(d, n))
        self.X_plus = world.loadings_plus * np.sqrt(world.variances_plus) @ self.latents + noise
        self.Pi = Pi
        self.delta = self.P @ self.B_o @ self.X - self.B_t @ self.X_plus
        self.G = gradients.sample_residual_gradient(self.P, self.B_o, self.B_t, self.X, self.X_plus)
        self.loss = gradients.sample_loss(self.P, self.B_o, self.B_t, self.X, self.X_plus)
        Z_o = self.B_o @ self.X
        self.C_oo = Z_o @ Z_o.T / n

    def coordinates(self):
        """X (3k, q + 4k) of the state, and the directions O (3k, d) that belong to its outside columns."""
        stack = np.vstack([self.B_o, self.V, self.B_t])
        inside = stack @ self.world.Q
        L, O = lq_factorisation(stack - inside @ self.world.Q.T)
        return np.hstack([inside, L, np.zeros((3 * self.k, self.k))]), O

    def cross(self, xi, D, outside):
        """W with W W^T = xi xi^T, and the N that makes sigma n^(-1/2) C N the cross moment of delta and `outside`."""
        W = lower_factor(xi)
        np.testing.assert_allclose(D @ xi, self.delta, atol=1e-11)
        C = lower_factor(D @ W / np.sqrt(self.n))
        cross = self.delta @ outside.T / self.n
        return W, np.linalg.pinv(C) @ cross * np.sqrt(self.n) / (self.world.sigma or 1.0)

    def agrees(self, drawn, G=None):
        """The loss and the feature covariance that a form returned are the minibatch's, and G likewise."""
        np.testing.assert_allclose(drawn.G if G is None else G, self.G, atol=1e-10)
        np.testing.assert_allclose(drawn.C_oo, self.C_oo, atol=1e-10)
        assert drawn.loss == pytest.approx(self.loss, rel=1e-10)


def solve(L, values):
    """w with L w = `values`, of least norm where L is singular."""
    return np.linalg.lstsq(L, values, rcond=1e-13)[0]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", WORLDS)
def test_direct_form_at_the_moments_of_a_minibatch_is_its_gradient(name, n):
    m = Minibatch(name, n)
    world, q, sigma = m.world, m.world.q, m.world.sigma
    L_b, Q = lq_factorisation(m.B_o @ m.Pi)
    M_t = m.B_t @ world.loadings_plus * np.sqrt(world.variances_plus)
    alone = M_t[:, q:] @ M_t[:, q:].T + world.noise_plus**2 * m.B_t @ m.Pi @ m.B_t.T
    L_w = lq_factor(np.hstack([M_t[:, q:], world.noise_plus * m.B_t @ m.Pi]))
    np.testing.assert_allclose(L_w @ L_w.T, alone, atol=1e-12)
    w = solve(L_w, m.B_t @ m.X_plus - M_t[:, :q] @ m.g)
    D = np.hstack([m.P @ m.B_o @ world.A * np.sqrt(world.lam) - M_t[:, :q], sigma * m.P @ L_b, -L_w])
    W, N = m.cross(np.vstack([m.g, Q @ m.e, w]), D, sigma * (m.e - Q.T @ Q @ m.e))
    m.agrees(direct_gradient(m.P, m.B_o, m.B_t, world, W, N, n))


@pytest.mark.parametrize("name", ["moments, k>d-q", "moments, k=d", "moments, q=d"])
def test_rows_that_complete_a_singular_encoder_lie_in_the_hole_and_leave_no_trace(name):
    """B_o Pi has rank d - q < k: without the last projection G would have noise where the views have none."""
    m = Minibatch(name, 9)
    world, k, sigma = m.world, m.k, m.world.sigma
    Q = lq_factorisation(m.B_o @ m.Pi)[1]
    assert np.linalg.norm(Q @ world.Q) > 0.5, "no row lies in the hole: the case says nothing"
    key = MomentsKey(2, 9, world.d, world.q, "direct", k, "world")
    W, N = split_moments(next(moment_blocks(key, 1))[0], key)
    drawn = direct_gradient(m.P, m.B_o, m.B_t, world, W, N, 9)
    # In the hole G has the part of g alone, whatever N is.
    D = np.hstack([
        m.P @ m.B_o @ world.A - (m.B_t @ world.loadings_plus)[:, : world.q], sigma * m.P @ m.B_o @ m.Pi @ Q.T,
        -lq_factor(np.hstack([(m.B_t @ world.loadings_plus)[:, world.q :], world.noise_plus * m.B_t @ m.Pi])),
    ])  # fmt: skip
    signal = (D @ W @ W.T)[:, : world.q] @ world.A.T / 9
    np.testing.assert_allclose(drawn.G @ world.Q, signal @ world.Q, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", REDUCED)
def test_reduced_form_at_the_moments_of_a_minibatch_is_its_step(name, n):
    """G on every known direction, and after a step all Gram matrices of the explicit update."""
    m = Minibatch(name, n)
    world, k, q, sigma = m.world, m.k, m.world.q, m.world.sigma
    reduced = ReducedWorld(world)
    X, O = m.coordinates()
    b_o, b_t, L_oo, L_t = X[:k, :q], X[2 * k :, :q], X[:k, q : q + k], X[2 * k :, q : q + 3 * k]
    # The whitened joint inside part, solved for from the samples: nothing of the program but its factor.
    L_x, M = reduced.L_x, reduced.M
    F = np.block([[L_x, np.zeros((q, q))], [M, reduced.scale * reduced.root]])
    joint = np.block([[world.S_xx, world.S_px.T], [world.S_px, world.S_pp]])
    np.testing.assert_allclose(F @ F.T, joint, atol=1e-10)
    x_in = world.Q.T @ m.X
    outside = m.X - world.Q @ x_in
    g = solve(F, np.vstack([x_in, world.Q.T @ m.X_plus]))[:q]
    np.testing.assert_allclose(L_x @ g, x_in, atol=1e-11)
    L_w = lq_factor(np.hstack([b_t @ (reduced.scale * reduced.root), reduced.scale * reduced.ratio * L_t]))
    w = solve(L_w, m.B_t @ m.X_plus - b_t @ M @ g)
    xi = np.vstack([g, O[:k] @ outside / (sigma or 1.0), w])
    D = np.hstack([m.P @ b_o @ L_x - b_t @ M, sigma * m.P @ L_oo, -L_w])
    unknown = outside - O.T @ O @ outside
    W, fresh = m.cross(xi, D, unknown)
    _, known = m.cross(xi, D, O[k:] @ outside)
    fresh = fresh if n >= k else np.vstack([fresh, np.zeros((k - n, world.d))])
    N_4, O_4 = lq_factorisation(fresh)
    N = np.hstack([known, N_4[: len(known)]])
    drawn = reduced_gradient(m.P, X, reduced, W, N, n)
    directions = np.vstack([world.Q.T, O, O_4])
    np.testing.assert_allclose(drawn.G[:, : q + 3 * k], m.G @ directions[: q + 3 * k].T, atol=1e-10)
    m.agrees(drawn, drawn.G @ directions)

    mu, beta, tau, eta = 0.8, 0.3, 0.2, 0.1
    grad_P, grad_B = gradients.gradients(m.P, m.B_o, m.G, eta)
    V = mu * m.V + grad_B
    B_o = m.B_o - beta * V
    explicit = np.vstack([B_o, V, (1 - tau) * m.B_t + tau * B_o])
    plain_P, in_coordinates = reduced_gradients(m.P, X, drawn.G, eta)
    V = mu * X[k : 2 * k] + in_coordinates
    B_o = X[:k] - beta * V
    after = retriangulate(np.vstack([B_o, V, (1 - tau) * X[2 * k :] + tau * B_o]), k)
    np.testing.assert_allclose(plain_P, grad_P, atol=1e-10)
    np.testing.assert_allclose(after[:, :q], explicit @ world.Q, atol=1e-10)
    np.testing.assert_allclose(after @ after.T, explicit @ explicit.T, atol=1e-10)
    assert not np.triu(after[:, q:], 1).any()


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("n", [1, 3, 30])
@pytest.mark.parametrize("name", ["plain", "k<r", "k>r", "all at once", "moments"])
def test_second_moment_of_the_gradient(name, n, form):
    """E[G G^T] = sigma^2 / n (d - q - k) E[delta delta^T] on the directions outside the subspace and B_o's rows.

    This sees a wrong C or N, which the algebra above passes by. Means of 2,000 draws within 5 standard
    errors: with fixed draws the test is certain; over seeds it would fail with probability below 1e-3.
    """
    m = Minibatch(name, n)
    world, k, q, d = m.world, m.k, m.world.q, m.world.d
    both = np.linalg.qr(np.hstack([world.Q, m.B_o.T]))[0]
    rows = np.hstack([m.P @ m.B_o, -m.B_t])
    power = rows @ np.block([[world.Sigma_x, world.Sigma_s.T], [world.Sigma_s, world.Sigma_plus]]) @ rows.T
    key, coordinates, reduced = MomentsKey(3, n, d, q, form, k), m.coordinates()[0], ReducedWorld(world)
    squares, losses = [], []
    for block in moment_blocks(key, 2000):
        for row in block:
            W, N = split_moments(row, key)
            if form == "direct":
                drawn = direct_gradient(m.P, m.B_o, m.B_t, world, W, N, n)
                rest = drawn.G - drawn.G @ both @ both.T
            else:
                drawn = reduced_gradient(m.P, coordinates, reduced, W, N, n)
                rest = drawn.G[:, q + k :]
            squares.append(rest @ rest.T)
            losses.append(drawn.loss)
    for values, expected in (
        (np.array(squares), world.sigma**2 / n * (d - q - k) * power),
        (np.array(losses), 0.5 * np.trace(power)),
    ):
        error = values.std(axis=0) / np.sqrt(len(values))
        assert (abs(values.mean(axis=0) - expected) < 5 * error).all()
