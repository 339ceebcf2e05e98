"""Worlds: second moments, canonical directions and factors, whatever the world was given by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import OPTIONS, basis, random_moments, world_of

from byolsim.config.run import RunConfig
from byolsim.config.second_moments import MAX_Q
from byolsim.config.world_file import read_moments
from byolsim.errors import UserError
from byolsim.model.encoder import canonical_rows, initial_weights
from byolsim.model.world import World
from byolsim.model.world_facts import world_facts

TOLERANCE = 1e-12
"""Of sums of a few dozen products of numbers of order 1 to 10."""


def moment_worlds():
    """Worlds of second moments: full, symmetric, singular, and inside a subspace."""
    return {
        "full": World.from_moments(*random_moments(4, 0)),
        "symmetric": World.from_moments(*random_moments(4, 1, symmetric=True)),
        "singular": World.from_moments(*random_moments(5, 2, rank=3)),
        "inside": World.from_moments(*random_moments(3, 3), Q=basis(8, 3), sigma=0.5, sigma_plus=0.2),
        "inside-clean": World.from_moments(*random_moments(3, 4, symmetric=True), Q=basis(8, 3)),
    }


WORLDS = {**{name: world_of(name) for name in OPTIONS}, **moment_worlds()}


@pytest.fixture(params=WORLDS, name="world")
def _world(request):
    return WORLDS[request.param]


def close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_moments_inside_the_subspace_and_noise_outside_are_the_moments(world):
    Q, outside = world.Q, np.eye(world.d) - world.Q @ world.Q.T
    close(Q.T @ Q, np.eye(world.q))
    close(world.Sigma_x, Q @ world.S_xx @ Q.T + world.sigma**2 * outside)
    close(world.Sigma_s, Q @ world.S_px @ Q.T)
    close(world.Sigma_plus, Q @ world.S_pp @ Q.T + world.noise_plus**2 * outside)
    assert world.lambda_max_x == pytest.approx(np.linalg.eigvalsh(world.Sigma_x)[-1], rel=1e-12)


def test_moments_that_are_given_are_kept():
    S_xx, S_px, S_pp = random_moments(3, 7)
    for world in (World.from_moments(S_xx, S_px, S_pp), World.from_moments(S_xx, S_px, S_pp, basis(6, 3), 0.3, 0.0)):
        close(world.S_xx, S_xx)
        close(world.S_px, S_px)
        close(world.S_pp, S_pp)
        assert (world.r, world.noise_inside) == (None, False)


def test_the_joint_factor(world):
    L_x, M, L_c = world.joint_factor
    close(L_x @ L_x.T, world.S_xx)
    close(M @ L_x.T, world.S_px)
    close(M @ M.T + L_c @ L_c.T, world.S_pp)
    for L in (L_x, L_c):
        assert not np.triu(L, 1).any()
        assert (np.diag(L) >= 0).all()


def full_W(world):
    """W = Sigma_x^(-1/2) Sigma_px Sigma_x^(-1/2) as it is defined, d x d, with the pseudo-inverse root."""
    values, U = np.linalg.eigh(world.Sigma_x)
    inverse = np.array([v**-0.5 if v > 1e-12 * values[-1] else 0.0 for v in values])
    root = (U * inverse) @ U.T
    return root @ world.Sigma_s @ root


def test_gains_and_directions_are_those_of_the_definition(world):
    W = full_W(world)
    tolerance = 1e-9 if world is WORLDS["singular"] else TOLERANCE  # the inverse root of the smallest eigenvalue
    symmetric = np.linalg.norm(W - W.T) < 1e-9
    assert world.is_symmetric == symmetric
    W = (W + W.T) / 2
    expected = np.linalg.eigvalsh(W)
    expected = expected[np.argsort(-np.abs(expected))][: world.q]
    close(np.abs(world.gains), np.abs(expected), tolerance)
    assert (np.diff(np.abs(world.gains)) <= 1e-15).all()
    V = world.Q @ world.directions
    close(V.T @ V, np.eye(world.q))
    close(W @ V, V * world.gains, tolerance)
    # The free sign: the largest entry is positive.
    assert (world.directions[np.abs(world.directions).argmax(axis=0), np.arange(world.q)] > 0).all()
    close(world.S_root @ world.S_root, world.S_xx)


def test_gains_of_options():
    """lambda / (lambda + sigma^2), times the correlation with its sign; 0 along nuisance."""
    world = world_of("default")
    close(world.gains, world.lam / (world.lam + 0.25))
    rho = np.array([0.9, -0.5, 0.0])
    world = world_of("correlated")
    expected = rho * world.lam / (world.lam + 0.25)
    close(world.gains, expected[np.argsort(-np.abs(expected))])
    assert world.gains.min() < 0
    world = world_of("nuisance")
    close(world.gains[3:], np.zeros(2))
    close(world_of("one-sided").gains, world_of("default").gains)


def test_directions_of_equal_gains_have_the_variances_of_the_world():
    """Nuisance has gain 0 along all of its directions: only the variance tells them apart."""
    world = world_of("nuisance", nuisance_spectrum="4,2", mixing="orthonormal")
    V = world.directions
    close(np.diag(V.T @ world.S_xx @ V)[3:], np.array([4.25, 2.25]))


def test_nuisance_is_orthonormal_and_each_view_has_its_own():
    world, r = world_of("all"), 3
    N, A = world.A[:, r:], world.A[:, :r]
    close(N.T @ N, np.eye(3))
    close(A.T @ N, np.zeros((r, 3)))
    close(N.T @ world.Sigma_x @ N, np.diag([4.0, 2.0, 1.0]) + 0.25 * np.eye(3))
    close(N.T @ world.Sigma_plus @ N, np.diag([4.0, 2.0, 1.0]) + 0.04 * np.eye(3))
    close(world.Sigma_s @ N, np.zeros((9, 3)))
    close(world.A_pinv @ A, np.eye(r))
    close(world.A_pinv @ N, np.zeros((r, 3)))


def test_correlation_scales_what_the_views_share_and_nothing_else():
    plain, world = world_of("default"), world_of("correlated")
    close(world.A[:, :3], plain.A)
    close(world.Sigma_x, plain.Sigma_x)
    close(world.Sigma_plus, plain.Sigma_plus)
    close(world.Sigma_s, (plain.A * plain.lam * [0.9, -0.5, 0.0]) @ plain.A.T)


# --- from pairs and from moments ---


def test_from_pairs_has_the_covariances_of_the_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) + 3.0
    X_plus = X + rng.normal(size=(40, 4)) - 1.0
    world = World.from_pairs(X, X_plus)
    expected = np.cov(np.hstack([X, X_plus]).T, bias=True)
    close(world.Sigma_x, expected[:4, :4])
    close(world.Sigma_s, expected[4:, :4])
    close(world.Sigma_plus, expected[4:, 4:])
    assert not world.is_symmetric
    both = World.from_pairs(X, X_plus, exchangeable=True)
    expected = np.cov(np.hstack([np.vstack([X, X_plus]), np.vstack([X_plus, X])]).T, bias=True)
    close(both.Sigma_x, expected[:4, :4])
    close(both.Sigma_s, expected[4:, :4])
    close(both.Sigma_s, both.Sigma_s.T)
    close(both.Sigma_plus, both.Sigma_x)
    assert both.is_symmetric


@pytest.mark.parametrize(
    ("X", "X_plus", "line"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), "shapes"),
        (np.zeros(3), np.zeros(3), "shapes"),
        (np.ones((1, 2)), np.ones((1, 2)), "shapes"),
        (np.ones((4, 2)), np.ones((4, 2)), "all moments are zero"),
        ([[1.0, np.nan], [0.0, 1.0]], np.eye(2), "not finite"),
        ([["a", "b"], ["c", "d"]], np.eye(2), "could not convert"),
    ],
)
def test_pairs_that_are_none(X, X_plus, line):
    with pytest.raises(ValueError, match=line):
        World.from_pairs(X, X_plus)


eye, q2 = np.eye(2), basis(4, 2)
BAD = {
    "not symmetric": ({"S_xx": [[1.0, 0.1], [0.0, 1.0]]}, "S_xx is not symmetric"),
    "S_pp not symmetric": ({"S_pp": [[1.0, 1e-6], [0.0, 1.0]]}, "S_pp is not symmetric"),
    "not psd": ({"S_px": 1.001 * eye}, "not positive semi-definite"),
    "negative": ({"S_xx": -eye, "S_pp": -eye, "S_px": 0 * eye}, "no variance is positive"),
    "zero": ({"S_xx": 0 * eye, "S_pp": 0 * eye, "S_px": 0 * eye}, "all moments are zero"),
    "no variance": ({"S_xx": 0 * eye, "S_pp": 0 * eye, "S_px": eye}, "not positive semi-definite"),
    "shape": ({"S_px": np.ones((2, 3))}, "S_px has shape"),
    "not square": ({"S_xx": np.ones((2, 3))}, "S_xx has shape"),
    "a vector": ({"S_xx": np.ones(2)}, "S_xx has shape"),
    "empty": ({name: np.zeros((0, 0)) for name in ("S_xx", "S_px", "S_pp")}, "S_xx has shape"),
    "nan": ({"S_px": np.full((2, 2), np.nan)}, "S_px holds a number that is not finite"),
    "inf": ({"S_xx": np.full((2, 2), np.inf)}, "S_xx holds a number that is not finite"),
    "huge": ({"S_xx": 1e25 * eye}, "S_xx holds a number beyond 1e+24"),
    "complex": ({"S_xx": 1j * eye}, "S_xx holds complex128, not real numbers"),
    "objects": ({"S_xx": eye.astype(object)}, "S_xx holds object, not real numbers"),
    "text": ({"S_xx": eye.astype(str)}, "S_xx holds str"),
    "truth values": ({"S_xx": eye.astype(bool)}, "S_xx holds bool, not real numbers"),
    "Q not orthonormal": ({"Q": 1.1 * q2}, "Q has columns that are not orthonormal"),
    "Q too low": ({"Q": np.ones((1, 2))}, "Q has shape"),
    "Q with other columns": ({"Q": basis(4, 3)}, "Q has shape"),
    "Q not finite": ({"Q": np.full((4, 2), np.nan)}, "Q holds a number that is not finite"),
    "sigma where q = d": ({"sigma": 0.5}, "sigma = 0.5 has no meaning"),
    "sigma beside a square Q": ({"Q": eye, "sigma": 0.5}, "sigma = 0.5 has no meaning"),
    "sigma_plus where q = d": ({"sigma_plus": 0.5}, "sigma_plus = 0.5 has no meaning"),
    "negative sigma": ({"Q": q2, "sigma": -0.5}, "sigma = -0.5 is not allowed"),
    "sigma nan": ({"Q": q2, "sigma": np.nan}, "sigma holds a number that is not finite"),
    "large sigma": ({"Q": q2, "sigma_plus": 2e6}, "sigma_plus = 2e"),
    "several sigma": ({"Q": q2, "sigma": np.ones(2)}, "sigma has shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_moments_of_no_pair_of_views(case):
    given, line = BAD[case]
    with pytest.raises(ValueError, match=line.replace("+", r"\+")) as error:
        World.from_moments(**({"S_xx": eye, "S_px": 0.5 * eye, "S_pp": eye} | given))
    assert "\n" not in str(error.value)


def test_more_dimensions_than_can_be_checked_are_refused_before_they_are():
    many = np.broadcast_to(1.0, (MAX_Q + 1, MAX_Q + 1))  # one number
    with pytest.raises(ValueError, match=f"q must be at most {MAX_Q}"):
        World.from_moments(many, many, many)
    wide = np.broadcast_to(1.0, (10**8, 2))
    with pytest.raises(ValueError, match="MiB"):
        World.from_moments(eye, eye, eye, Q=wide)


def test_rounding_is_no_mistake():
    """Half a tolerance beside symmetry and positivity: the world is that of the nearest moments."""
    S = np.array([[1.0, 5e-10], [0.0, 1.0]])
    world = World.from_moments(S, eye * (1 + 2e-10), eye)
    close(world.S_xx, world.S_xx.T)
    close(world.S_px, eye, 1e-9)
    assert world.gains.max() <= 1 + 1e-9


# --- files and digests ---


@pytest.mark.parametrize("name", WORLDS)
def test_a_saved_world_is_the_same_world(name, tmp_path):
    """Also of options, whose noise is inside too: S_xx has it, and outside it is said by sigma."""
    world = WORLDS[name]
    path = world.save(tmp_path / "w.npz")
    again = World.from_config(RunConfig(world=str(path)))
    for moment in ("Sigma_x", "Sigma_s", "Sigma_plus"):
        close(getattr(again, moment), getattr(world, moment))
    close(again.gains, world.gains, 1e-9 if name == "singular" else TOLERANCE)
    assert again.is_symmetric == world.is_symmetric
    digest = read_moments(path).digest
    assert world.second_moments.digest == again.second_moments.digest == digest
    again.save(tmp_path / "again.npz")
    assert read_moments(tmp_path / "again.npz").digest == digest


def test_the_digest_is_that_of_the_numbers():
    S_xx, S_px, S_pp = np.diag([2.0, 1.0]), np.zeros((2, 2)), np.eye(2)
    digest = World.from_moments(S_xx, S_px, S_pp).second_moments.digest
    for other in (
        World.from_moments(S_xx, -S_px, S_pp),  # -0.0
        World.from_moments(S_xx.astype(np.float32), S_px.astype(np.int8), S_pp.astype(">f8")),
        World.from_moments(np.asfortranarray(S_xx), S_px.tolist(), S_pp),
    ):
        assert other.second_moments.digest == digest
    for other in (
        World.from_moments(S_xx, S_px, 2 * S_pp),
        World.from_moments(S_pp, S_px, S_xx),
        World.from_moments(S_xx, S_px, S_pp, Q=basis(2, 2)),
        World.from_moments(S_xx, S_px, S_pp, Q=basis(3, 2)),
        World.from_moments(S_xx, S_px, S_pp, Q=basis(3, 2), sigma=0.5),
        World.from_moments(S_xx, S_px, S_pp, Q=basis(3, 2), sigma=0.5, sigma_plus=0.25),
    ):
        assert other.second_moments.digest != digest


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 2**32), st.integers(-3, 3))
def test_units_scale_moments_and_leave_gains(q, extra, seed, power):
    S = random_moments(q, seed)
    outside = {"Q": basis(q + extra, q, seed), "sigma": 0.5} if extra else {}
    world = World.from_moments(*S, **outside)
    scale = 10.0**power
    outside |= {"sigma": 0.5 * scale} if extra else {}
    scaled = World.from_moments(*(scale**2 * M for M in S), **outside)
    close(scaled.Sigma_x / scale**2, world.Sigma_x)
    # An eigenvalue of S_xx may be 1e-3 of the largest, and its inverse root multiplies rounding.
    close(np.abs(scaled.gains), np.abs(world.gains), 1e-9)


def test_a_world_too_large_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("byolsim.config.second_moments.MAX_Q", 2)
    with pytest.raises(UserError, match="this world cannot be saved: S_xx has shape"):
        world_of("default").save(tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []


# --- facts ---


def test_energies_are_those_of_random_encoders(world):
    """Means over 2,000 encoders of k rows within 5 standard errors; the draws are fixed, so there is no false alarm."""
    k = 2
    facts = world_facts(world, k)
    config = RunConfig(d_latent=1, d_obs=world.d, latent_spectrum="flat:1", d_embed=k if world.d >= k else None)
    f = np.linalg.cholesky(world.Sigma_x + 1e-12 * np.eye(world.d))
    root = _root(world.Sigma_x)
    B = np.random.default_rng(3).normal(size=(2000, k, world.d)) / np.sqrt(world.d)
    assert initial_weights(config, world).B_o.std() == pytest.approx(B.std(), rel=0.6)  # the law of `zero_pred`
    energy = ((B @ root @ world.Q @ world.directions) ** 2).sum(axis=1)
    error = energy.std(axis=0) / np.sqrt(len(B)) + 1e-12
    assert (np.abs(energy.mean(axis=0) - facts.energies) < 5 * error).all()
    power = ((B @ f) ** 2).sum(axis=(1, 2))
    assert abs(power.mean() - facts.tr_C_oo) < 5 * power.std() / np.sqrt(len(B))
    assert facts.tr_C_oo == pytest.approx(k / world.d * np.trace(world.Sigma_x), rel=1e-12)


def _root(S):
    values, U = np.linalg.eigh(S)
    return (U * np.sqrt(np.maximum(values, 0))) @ U.T


def test_facts_of_options():
    facts = world_facts(world_of("default"), 2)
    assert (facts.d, facts.q, facts.r, facts.k, facts.rank) == (9, 3, 3, 2, 3)
    assert facts.S_px_symmetric and facts.W_symmetric and facts.decoupled
    assert (facts.room, facts.room_needed, facts.has_reduced_form) == (6, 8, False)
    lam = world_of("default").lam
    close(facts.thresholds, lam**2 / (4 * (lam + 0.25)))
    assert world_facts(WORLDS["full"], 2).thresholds is None
    assert world_facts(WORLDS["singular"], 2).rank == 3
    facts = world_facts(WORLDS["symmetric"], 2)
    assert facts.S_px_symmetric and facts.W_symmetric and not facts.decoupled and facts.thresholds is None


@pytest.mark.parametrize(("name", "k"), [("default", 2), ("nuisance", 7), ("inside", 3), ("symmetric", 4)])
def test_the_start_at_the_modes(name, k):
    """Orthonormal rows, of which the first are the canonical directions; beyond q a completion."""
    world = WORLDS[name]
    rows = canonical_rows(world, k)
    close(rows @ rows.T, np.eye(k))
    close(rows[: world.q], (world.Q @ world.directions).T[:k])
    if k > world.q:
        close(rows[world.q :] @ world.Q, np.zeros((k - world.q, world.q)))
