"""Columns and lists of the canonical directions: against their definitions, where they are null, and near 0."""

from __future__ import annotations

import numpy as np
import pytest

from byolsim.config.run import RunConfig
from byolsim.model.metrics import OF_LINEAR_MODELS, measure, order_metrics
from byolsim.model.modes import MOST_MODES, SPECTRA, sorted_eigenvalues, spectrum_sizes
from byolsim.model.order import OrderParameters, SampledFeatures, inside_outside
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

EPS = np.finfo(np.float64).eps


def state(P, B_o, world):
    """One state of a run, its target the online encoder."""
    b, L = inside_outside(B_o, world.Q)
    parts = {"P": P, "b_o": b, "L_o": L, "b_t": b, "L_t": L}
    return OrderParameters(**{name: M[None, None] for name, M in parts.items()}, gap=np.zeros((1, 1)))


def columns(P, B_o, world, dtype="float64"):
    return {name: float(values[0, 0]) for name, values in order_metrics(state(P, B_o, world), world, dtype).items()}


def lists(P, B_o, world):
    found = measure(state(P, B_o, world), world, spectra=True).spectra
    return {name: values[0, 0] for name, values in found.items()}


def moments_world(rng, q, d, sigma=0.4, symmetric=True):
    """Second moments in general position inside q of d dimensions, with correlations of both signs."""
    F = rng.normal(size=(q, q)) / np.sqrt(q)
    S_xx = F @ F.T + 0.2 * np.eye(q)
    V = np.linalg.qr(rng.normal(size=(q, q)))[0]
    W = (V * np.linspace(0.9, -0.5, q)) @ V.T
    if not symmetric:
        W = W + 0.05 * np.triu(rng.normal(size=(q, q)), 1)
    values, U = np.linalg.eigh(S_xx)
    root = (U * np.sqrt(values)) @ U.T
    Q = np.linalg.qr(rng.normal(size=(d, q)))[0] if d > q else None
    return World.from_moments(S_xx, root @ W @ root, S_xx, Q=Q, sigma=sigma if d > q else 0.0)


WORLDS = {
    "options": lambda: World.from_config(RunConfig(d_latent=4, d_obs=9, latent_spectrum="geometric:0.5:4")),
    "gaussian": lambda: World.from_config(RunConfig(d_latent=4, d_obs=9, mixing="gaussian", latent_spectrum="4,3,2,1")),
    "nuisance": lambda: World.from_config(
        RunConfig(d_latent=3, d_obs=9, d_nuisance=2, correlation="0.9,-0.8,0.3", latent_spectrum="4,3,2")
    ),
    "moments": lambda: moments_world(np.random.default_rng(3), 5, 9),
    "all of it": lambda: moments_world(np.random.default_rng(4), 6, 6),
}


def by_definition(P, B_o, world):
    """Everything from d x d matrices."""
    k, q, d = len(P), world.q, world.d
    values, U = np.linalg.eigh(world.Sigma_x)
    root = (U * np.sqrt(np.maximum(values, 0.0))) @ U.T
    C, F = B_o @ world.Sigma_x @ B_o.T, B_o @ root
    gains, V = np.concatenate([world.gains, np.zeros(d - q)]), world.Q @ world.directions
    eigenvalues = np.array(sorted(np.linalg.eigvals(P), key=lambda v: (-abs(v), -v.real, -v.imag)))
    found = {
        "P_asymmetry": np.linalg.norm(P - P.T) / np.linalg.norm(P),
        "commutator": np.linalg.norm(P @ C - C @ P) / np.linalg.norm(P) / np.linalg.norm(C),
        "gain_err": np.linalg.norm(eigenvalues - gains[:k]),
    }
    if k == d or (k <= q and abs(gains[k - 1]) > abs(gains[k]) + 1e-9):
        span = np.eye(d) if k == d else V[:, :k] @ V[:, :k].T
        found["span_err"] = np.linalg.norm(np.linalg.pinv(F) @ F - span)
    f = F @ V[:, : min(q, MOST_MODES)]
    spectra = {
        "P_eig_re": eigenvalues.real,
        "P_eig_im": eigenvalues.imag,
        "C_oo_eig": np.linalg.eigvalsh(C)[::-1],
        "BB_eig": np.linalg.eigvalsh(B_o @ B_o.T)[::-1],
        "mode_energy": (f**2).sum(axis=0),
        "mode_gain": np.array([v @ P @ v / (v @ v) for v in f.T]),
    }
    return found, spectra


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("k", [1, 3, 4, 6, 9])
def test_columns_and_lists_equal_their_definitions(name, k):
    """The definitions square matrices of condition number below 1e3: they are good to about 1e-10."""
    world = WORLDS[name]()
    if k > world.d:
        pytest.skip("no more rows than dimensions")
    rng = np.random.default_rng(k)
    P, B_o = rng.normal(size=(k, k)), rng.normal(size=(k, world.d))
    found, spectra = by_definition(P, B_o, world)
    ours = columns(P, B_o, world)
    for column, value in found.items():
        np.testing.assert_allclose(ours[column], value, rtol=1e-9, atol=1e-9, err_msg=column)
    assert ("span_err" in found) == np.isfinite(ours["span_err"])
    for column, values in lists(P, B_o, world).items():
        np.testing.assert_allclose(values, spectra[column], rtol=1e-8, atol=1e-9, err_msg=column)


@pytest.mark.parametrize("name", WORLDS)
def test_the_energies_of_the_modes_and_the_noise_outside_are_all_there_is(name):
    """tr C_oo = sum_j ||f_j||^2 + sigma^2 ||L_o||^2, to rounding."""
    world = WORLDS[name]()
    B_o = np.random.default_rng(1).normal(size=(4, world.d))
    found = lists(np.eye(4), B_o, world)
    outside = world.sigma**2 * np.linalg.norm(inside_outside(B_o, world.Q)[1]) ** 2
    np.testing.assert_allclose(found["mode_energy"].sum() + outside, found["C_oo_eig"].sum(), rtol=1e-13)


def test_where_modes_decouple_the_gains_are_the_eigenvalues():
    """B_o = V_k^T and P = diag(w): every distance is 0, to rounding, and mode_gain is w."""
    world = WORLDS["moments"]()
    B_o, P = (world.Q @ world.directions[:, :3]).T, np.diag(world.gains[:3])
    # Rows of B_o are no eigenvectors of Sigma_x: those of Sigma_x^(-1/2) are what decouples.
    white = (world.Q @ np.linalg.solve(world.S_root, world.directions[:, :3])).T
    ours, found = columns(P, white, world), lists(P, white, world)
    for name in ("P_asymmetry", "commutator", "span_err", "gain_err"):
        assert ours[name] < 1e-13, name
    np.testing.assert_allclose(found["mode_gain"][:3], world.gains[:3], rtol=1e-13)
    np.testing.assert_allclose(found["mode_energy"], [1, 1, 1, 0, 0], atol=1e-13)
    assert columns(P, B_o, world)["span_err"] > 1e-3


@pytest.mark.parametrize("angle", [1e-3, 1e-8, 1e-12, 1e-15])
def test_a_small_angle_keeps_its_digits(angle):
    """One row turned by an angle out of V_k: the distance is sqrt(2) sin, where projectors would give 0 below 1e-8."""
    world = World(np.eye(7)[:, :3], np.array([3.0, 2.0, 1.0]), 0.5)
    B_o = np.diag([1.0, 2.0]) @ np.eye(7)[:2]
    B_o[1, 2] = 2.0 * np.tan(angle) * np.sqrt(2.25 / 1.25)  # in the coordinates in which x is white, tan(angle)
    np.testing.assert_allclose(columns(np.eye(2), B_o, world)["span_err"], np.sqrt(2) * np.sin(angle), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1e-30, 1e-150, 1e-200, 1e-290])
def test_nothing_relative_sees_the_scale_of_a_collapsing_encoder(size):
    """And P as small: the products of the definitions would vanish."""
    world = WORLDS["nuisance"]()
    rng = np.random.default_rng(2)
    P, B_o = rng.normal(size=(4, 4)), rng.normal(size=(4, world.d))
    full, small = columns(P, B_o, world), columns(size * P, size * B_o, world)
    for name in ("P_asymmetry", "commutator", "span_err"):
        np.testing.assert_allclose(small[name], full[name], rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(lists(P, size * B_o, world)["mode_gain"], lists(P, B_o, world)["mode_gain"], rtol=1e-11)


def test_what_has_no_value_is_null():
    world = WORLDS["options"]()
    rng = np.random.default_rng(5)
    P, B_o = rng.normal(size=(4, 4)), rng.normal(size=(4, 9))
    names = ("P_asymmetry", "commutator", "span_err", "gain_err")

    def null(P, B_o, world=world, dtype="float64"):
        ours = columns(P, B_o, world, dtype)
        return {name for name in names if np.isnan(ours[name])}

    assert null(P, B_o) == set()
    assert null(0 * P, B_o) == {"P_asymmetry", "commutator"}
    assert null(P, 0 * B_o) == {"commutator", "span_err"}
    assert np.isnan(lists(P, 0 * B_o, world)["mode_gain"]).all()
    assert not lists(P, 0 * B_o, world)["mode_energy"].any()
    # W is not symmetric: no gains, no V_k; the lists tell of its symmetric part
    skew = moments_world(np.random.default_rng(6), 5, 9, symmetric=False)
    assert not skew.is_symmetric and null(P, B_o, skew) == {"span_err", "gain_err"}
    assert np.isfinite(lists(P, B_o, skew)["mode_gain"]).all()
    # two gains of one modulus: the first k directions are not determined between them, only before and after
    even = World.from_config(RunConfig(d_latent=4, d_obs=9, latent_spectrum="4,2,2,1", correlation="1,-1,1,1"))
    for k, tie in ((1, set()), (2, {"span_err"}), (3, set()), (4, set()), (5, {"span_err"}), (9, set())):
        assert null(np.eye(k), rng.normal(size=(k, 9)), even) == tie, k


def test_rank_counts_in_the_distance_of_spans():
    """A dead row leaves one of the k directions uncovered: sqrt(1) where the others are right."""
    world = World(np.eye(6)[:, :3], np.array([3.0, 2.0, 1.0]), 0.5)
    B_o = np.eye(6)[:3] * np.array([[1.0], [1.0], [0.0]])
    np.testing.assert_allclose(columns(np.eye(3), B_o, world)["span_err"], 1.0, rtol=1e-14)
    B_o[2, 5] = 1e-6  # within the roundings of single precision, and a direction outside in double
    np.testing.assert_allclose(columns(np.eye(3), B_o, world, "float32")["span_err"], 1.0, rtol=1e-14)
    np.testing.assert_allclose(columns(np.eye(3), B_o, world)["span_err"], np.sqrt(2), rtol=1e-9)


def test_the_order_of_eigenvalues():
    """By descending modulus; of one modulus the larger real part, and of a pair the positive imaginary part first."""
    P = np.zeros((6, 6))
    P[:2, :2] = [[0.0, -2.0], [2.0, 0.0]]
    P[2, 2], P[3, 3], P[4, 4] = -1.0, 1.0, 5.0
    np.testing.assert_allclose(sorted_eigenvalues(P), [5, 2j, -2j, 1, -1, 0], rtol=4 * EPS)
    many = np.stack([P, P.T, np.eye(6)])[None]
    assert sorted_eigenvalues(many).shape == (1, 3, 6)
    np.testing.assert_array_equal(sorted_eigenvalues(many)[0, 1], sorted_eigenvalues(P.T))


def test_lists_of_a_run_by_its_shape():
    assert spectrum_sizes(RunConfig(log_spectra=False)) == {}
    sizes = spectrum_sizes(RunConfig(d_latent=66, d_obs=70, d_embed=7))
    assert sizes == {"P_eig_re": 7, "P_eig_im": 7, "C_oo_eig": 7, "BB_eig": 7, "mode_energy": 64, "mode_gain": 64}
    assert set(sizes) == set(SPECTRA)
    world = World.from_config(RunConfig(d_latent=66, d_obs=70, d_embed=7, latent_spectrum="linear:1:9"))
    found = lists(np.eye(7), np.random.default_rng(0).normal(size=(7, 70)), world)
    assert {name: len(values) for name, values in found.items()} == sizes


@pytest.mark.parametrize("linear", [True, False])
def test_of_an_mlp_there_is_what_has_a_meaning(linear):
    """The spectrum of the sample's features, and of a predictor that is a matrix."""
    world, rng = WORLDS["options"](), np.random.default_rng(7)
    square = {name: rng.normal(size=(1, 1, 4, 4)) for name in ("F", "F_pred", "cross", "b_o", "L_o")}
    P = rng.normal(size=(1, 1, 4, 4))
    one = np.ones((1, 1))
    features = SampledFeatures(P=P if linear else None, **square, loss=one, target_power=9 * one, gap=one)
    found = measure(features, world, spectra=True)
    assert all(np.isnan(found.columns[name][0, 0]) for name in OF_LINEAR_MODELS)
    assert all(np.isfinite(found.columns[name][0, 0]) == linear for name in ("P_asymmetry", "commutator"))
    C = square["F"][0, 0] @ square["F"][0, 0].T
    np.testing.assert_allclose(found.spectra["C_oo_eig"][0, 0], np.linalg.eigvalsh(C)[::-1], rtol=1e-10)
    if linear:
        asked = np.linalg.norm(P[0, 0] @ C - C @ P[0, 0]) / np.linalg.norm(P) / np.linalg.norm(C)
        np.testing.assert_allclose(found.columns["commutator"][0, 0], asked, rtol=1e-12)
        np.testing.assert_array_equal(found.spectra["P_eig_re"][0, 0], sorted_eigenvalues(P[0, 0]).real)
    known = {"C_oo_eig", "P_eig_re", "P_eig_im"} if linear else {"C_oo_eig"}
    assert {name for name, values in found.spectra.items() if np.isfinite(values).any()} == known
    assert set(found.spectra) == set(SPECTRA)


def test_lists_change_no_column():
    """The same decompositions, or others beside them: no bit differs."""
    world, rng = WORLDS["nuisance"](), np.random.default_rng(8)
    one = state(rng.normal(size=(4, 4)), rng.normal(size=(4, 9)), world)
    with_them, without = measure(one, world, spectra=True), measure(one, world)
    assert without.spectra == {} and set(with_them.columns) == set(without.columns)
    for name, values in without.columns.items():
        np.testing.assert_array_equal(with_them.columns[name], values, err_msg=name)


def test_a_run_whose_modes_stay_decoupled():
    """From V_k and P = I on population gradients: 400 steps of rounding, and `mode_gain` is P's eigenvalue."""
    shape = {"d_latent": 4, "d_obs": 12, "latent_spectrum": "4,3,2,1", "epochs": 400, "log_every": 100}
    (record,) = simulate_runs(
        [RunConfig(backend="numpy", sampler="population", init="modes", lr_pred=0.01, lr_enc=0.01, **shape)]
    )
    for name in ("span_err", "commutator", "P_asymmetry"):
        assert (record.columns[name] < 1e-13).all(), name
    gains = np.sort(record.spectra["mode_gain"], axis=1)[:, ::-1]
    np.testing.assert_allclose(gains, record.spectra["P_eig_re"], rtol=1e-13)
    assert (np.diff(record.columns["gain_err"]) < 0).all(), "the gains are where P goes"
    assert not record.spectra["P_eig_im"].any()
