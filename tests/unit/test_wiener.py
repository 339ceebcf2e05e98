"""P* near rank loss, against exact rational arithmetic; W_excess and loss_rel; ranks of products that would vanish."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from cases import HAS_TORCH, needs_torch, one_run, small

from byolsim.config.run import RunConfig
from byolsim.model.metrics import has_collapsed, order_metrics, sampled_metrics
from byolsim.model.order import OrderParameters
from byolsim.model.wiener import ACCURACY
from byolsim.model.world import World

if HAS_TORCH:
    import torch

    from byolsim.backends.torch import layers, snapshots, training

R = 3
LAM = np.array([2.0, 1.0, 0.5])
WORLD = World(np.eye(7, R), LAM, 0.5)
"""A has orthonormal columns and all constants are dyadic: the exact arithmetic below knows the same world."""

W_OF_P_STAR = ("W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err")


def measured(P, b_o, L_o, b_t, dtype="float64", world=WORLD):
    """The metrics of one state with L_t = 0."""
    stacked = {"P": P, "b_o": b_o, "L_o": L_o, "b_t": b_t, "L_t": np.zeros((R, R))}
    order = OrderParameters(**{name: M[None, None] for name, M in stacked.items()}, gap=np.zeros((1, 1)))
    return {name: value[0, 0] for name, value in order_metrics(order, world, dtype).items()}


# --- exact arithmetic: lists of rows of fractions ---


def exact(M):
    return [[Fraction(float(x)) for x in row] for row in M]


def times(A, B):
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*B, strict=True)] for row in A]


def plus(A, B, factor=1):
    return [[x + factor * y for x, y in zip(a, b, strict=True)] for a, b in zip(A, B, strict=True)]


def transposed(A):
    return [list(column) for column in zip(*A, strict=True)]


def solved(A, B):
    """X with X A = B for an invertible A, by Gauss-Jordan elimination."""
    rows = [a + b for a, b in zip(transposed(A), transposed(B), strict=True)]
    for k in range(len(rows)):
        pivot = next(i for i in range(k, len(rows)) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(len(rows)):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return transposed([row[len(rows) :] for row in rows])


def covariances(b_o, L_o, b_t):
    """C_oo and C_to of a state, exactly."""
    b, L, t = exact(b_o), exact(L_o), exact(b_t)
    lam, noise = exact(np.diag(LAM)), Fraction(WORLD.sigma) ** 2
    C_oo = plus(times(times(b, lam), transposed(b)), plus(times(b, transposed(b)), times(L, transposed(L))), noise)
    return C_oo, times(times(t, lam), transposed(b))


def wiener(b_o, L_o, b_t):
    """P* of a state of full rank, exactly."""
    return solved(*covariances(b_o, L_o, b_t))


def size(M):
    return float(sum(x * x for row in M for x in row)) ** 0.5


# --- states near rank loss ---


def rotation(rng):
    return np.linalg.qr(rng.normal(size=(R, R)))[0]


def near_rank_loss(kind, weak, seed=0):
    """(b_o, L_o, b_t) whose third mode has the gain `weak`, in rotated features.

    decoupled : every mode is its own, as in a run with B_t = B_o: P* is of order 1 and does not know the dead mode.
    correlated : what is left of the third mode points into noise and signal at random: P* grows as 1 / weak.
    """
    rng = np.random.default_rng(seed)
    O, gain = rotation(rng), np.diag([1.0, 0.5, weak])
    if kind == "decoupled":
        b = O @ gain
        return b, np.zeros((R, R)), b
    return O @ gain @ rotation(rng), O @ gain @ np.tril(rng.normal(size=(R, R))), rng.normal(size=(R, R))


STATES = [(kind, decade) for kind in ("decoupled", "correlated") for decade in range(17)]
ALIVE = [state for state in STATES if state[1] < 14]


@pytest.mark.parametrize(("kind", "decade"), ALIVE)
def test_wiener_errors_have_the_stated_accuracy_or_are_null(kind, decade):
    """Whatever is not null agrees with exact arithmetic to 1e-6 of P*, also after a rounding error in the state."""
    b_o, L_o, b_t = near_rank_loss(kind, 10.0**-decade)
    P_star = wiener(b_o, L_o, b_t)
    rng = np.random.default_rng(1)
    moved = [M * (1 + 2.0**-52 * rng.uniform(-1, 1, size=M.shape)) for M in (b_o, L_o, b_t)]
    for P in (np.zeros((R, R)), rng.normal(size=(R, R))):
        error = size(plus(exact(P), P_star, -1))
        for state in ((b_o, L_o, b_t), moved):
            ours = measured(P, *state)
            assert len({np.isnan(ours[name]) for name in W_OF_P_STAR}) == 1
            if not np.isnan(ours["W_Fro_raw"]):
                assert abs(10 ** ours["W_Fro_raw"] - error) <= ACCURACY["float64"] * size(P_star)


@pytest.mark.parametrize(("kind", "known"), [("decoupled", 4), ("correlated", 7)])
def test_where_the_wiener_predictor_is_null(kind, known):
    """Shown as far as it is known, null from there on, and shown again where the dead mode is zero up to rounding.

    The error is eps / s^2 where P* does not grow and eps / s where it does; zero is 64 eps = 1.4e-14. Decades next to
    the limits may be either.
    """
    shown = [
        not np.isnan(measured(np.eye(R), *near_rank_loss(kind, 10.0**-decade))["W_Fro_raw"]) for decade in range(17)
    ]
    assert all(shown[: known + 1]) and not any(shown[known + 2 : 14]) and all(shown[15:])


def test_a_mode_that_is_zero_up_to_rounding_is_left_out():
    nothing, rounding = (measured(np.eye(R), *near_rank_loss("decoupled", weak)) for weak in (0.0, 1e-16))
    for name in (*W_OF_P_STAR, "W_excess"):
        assert rounding[name] == pytest.approx(nothing[name], abs=1e-12), name


@pytest.mark.parametrize("level", [1e-6, 1e-9, 0.0])
def test_a_mode_at_the_rounding_of_single_precision_is_dead(level):
    """What rounding leaves of a dead mode points anywhere; in float32 it stays near 1e-7 of the others."""
    b, L, _ = near_rank_loss("decoupled", 0.0)
    noise = np.random.default_rng(2).normal(size=(3, R, R))
    b_o, L_o = b + level * noise[0], L + level * np.tril(noise[1])
    dead, single = measured(np.eye(R), b, L, b), measured(np.eye(R), b_o, L_o, b, "float32")
    for name in (*W_OF_P_STAR, "W_excess", "enc_proj_dist"):
        assert single[name] == pytest.approx(dead[name], abs=1e-4), name
    if level > 0:
        double = measured(np.eye(R), b_o, L_o, b)
        assert not abs(double["W_Fro_raw"] - dead["W_Fro_raw"]) < 0.1, "in double precision such a mode lives"


def test_a_dying_mode_leaves_no_spike():
    """One mode of three dies by decay. P* of what is left of it is the ratio of two vanishing numbers."""
    config = RunConfig(
        d_latent=3, d_obs=15, latent_spectrum="2,1,.05", weight_decay=0.04, lr_pred=0.02, lr_enc=0.02, mom_pred=0.9,
        mom_enc=0.9, ema_m=0.9, sampler="moments", batch_size=100_000, epochs=8000, log_every=500,
    )  # fmt: skip
    double, single = (one_run(RunConfig(**(config.model_dump() | {"dtype": t}))) for t in ("float64", "float32"))
    at = {epoch: i for i, epoch in enumerate(double.epochs)}
    assert np.isnan(double.columns["W_Fro_raw"][at[2500]])
    assert single.columns["W_Fro_raw"][at[8000]] == pytest.approx(double.columns["W_Fro_raw"][at[8000]], abs=1e-2)
    assert double.columns["W_Fro_raw"][at[8000]] < -1
    for record in (double, single):
        assert np.nanmax(record.columns["W_Fro_raw"]) < 2
        # the loss knows nothing of a mode that is gone, and neither does the error that it is made of
        late = record.columns["W_excess"][at[500] :]
        assert np.isfinite(late).all() and np.ptp(late) < 0.1
    np.testing.assert_allclose(single.columns["W_excess"], double.columns["W_excess"], atol=1e-3)


# --- W_excess and loss_rel ---


@pytest.mark.parametrize(("kind", "decade"), [state for state in ALIVE if state[1] < 8])
def test_excess_is_exact_also_where_the_wiener_predictor_is_not(kind, decade):
    """Against norm((P - P*) C_oo^(1/2))^2 in fractions. Its error is eps / s: each power less than that of P*."""
    b_o, L_o, b_t = near_rank_loss(kind, 10.0**-decade)
    C_oo, _ = covariances(b_o, L_o, b_t)
    P = np.random.default_rng(3).normal(size=(R, R))
    D = plus(exact(P), wiener(b_o, L_o, b_t), -1)
    excess = times(times(D, C_oo), transposed(D))
    square = float(sum(excess[i][i] for i in range(R)))
    assert 10 ** (2 * measured(P, b_o, L_o, b_t)["W_excess"]) == pytest.approx(square, rel=1e-14 * 10**decade + 1e-13)


def test_excess_is_the_root_of_twice_the_excess_loss():
    rng = np.random.default_rng(4)
    b_o, L_o, b_t = rng.normal(size=(R, R)), np.tril(rng.normal(size=(R, R))), rng.normal(size=(R, R))
    P, P_star = rng.normal(size=(R, R)), np.array(wiener(b_o, L_o, b_t), dtype=float)
    at_P, at_best = measured(P, b_o, L_o, b_t), measured(P_star, b_o, L_o, b_t)
    assert at_P["loss_pop"] - at_best["loss_pop"] == pytest.approx(0.5 * 10 ** (2 * at_P["W_excess"]), rel=1e-12)
    target = np.sqrt((b_t**2 * (LAM + WORLD.sigma**2)).sum())
    # at P* nothing but rounding is left: a few times the floor of the logarithm
    assert np.log10(2.0**-52 * target) <= at_best["W_excess"] < np.log10(2.0**-47 * target)


@pytest.mark.parametrize("target", [1.0, 1e-200, 0.0])
@pytest.mark.parametrize("online", [1.0, 1e-150, 1e-200, 1e-310, 0.0])
@pytest.mark.parametrize("gain", [1.0, 1e-200, 0.0])
def test_excess_is_finite_at_collapse(online, target, gain):
    """Null only where encoder or predictor, and the target, are nothing at all."""
    rng = np.random.default_rng(5)
    P, b, L = gain * rng.normal(size=(R, R)), rng.normal(size=(R, R)), np.tril(rng.normal(size=(R, R)))
    columns = measured(P, online * b, online * L, target * b)
    assert not any(np.isinf(value) for value in columns.values())
    assert np.isfinite(columns["W_excess"]) == (target > 0 or gain * online > 0)
    assert np.isnan(columns["loss_rel"]) == (target == 0 or gain * online / target > 1e154)


def test_relative_loss_is_one_for_the_predictor_that_says_nothing():
    b_o, L_o, b_t = near_rank_loss("correlated", 0.5)
    assert measured(np.zeros((R, R)), b_o, L_o, b_t)["loss_rel"] == pytest.approx(1.0, rel=1e-14)
    # at B_o = B_t = A^+ with P* mode j keeps 1 - w_j^2 of its variance lam_j + sigma^2
    gain = LAM / (LAM + WORLD.sigma**2)
    kept = ((1 - gain**2) * (LAM + WORLD.sigma**2)).sum() / (LAM + WORLD.sigma**2).sum()
    for scale in (1.0, 1e-200):
        best = measured(np.diag(gain), scale * np.eye(R), np.zeros((R, R)), scale * np.eye(R))
        assert best["loss_rel"] == pytest.approx(kept, rel=1e-13)


def test_runs_have_both_columns_from_the_start():
    """From `zero_pred` the start is P = 0: loss_rel is 1 and the excess that of saying nothing."""
    record = one_run(small(init="zero_pred", lr_pred=0.02, lr_enc=0.02))
    assert record.columns["loss_rel"][0] == pytest.approx(1.0, rel=1e-14)
    assert np.isfinite(record.columns["W_excess"]).all() and record.columns["loss_rel"][-1] < 1


# --- effective ranks ---


@pytest.mark.parametrize("gain", [1e-162, 1e-200, 1e-300])
def test_ranks_of_predictions_outlive_their_product(gain):
    """P and B_o may each be a number where their product is not."""
    rng = np.random.default_rng(6)
    P, b, L = rng.normal(size=(R, R)), rng.normal(size=(R, R)), np.tril(rng.normal(size=(R, R)))
    full, tiny = measured(P, b, L, b), measured(gain * P, gain * b, gain * L, gain * b)
    for name in ("erank_encoded", "erank_pred", "erank_sv_encoded", "erank_sv_pred"):
        assert tiny[name] == pytest.approx(full[name], rel=1e-12), name


def test_a_collapsing_run_keeps_both_ranks_equally_long():
    config = small(
        sampler="population", weight_decay=3.0, lr_pred=0.02, lr_enc=0.02, epochs=2500, log_every=50, d_latent=2
    )
    record = one_run(config)
    last = {name: record.epochs[np.isfinite(record.columns[name])][-1] for name in ("erank_encoded", "erank_pred")}
    assert last["erank_pred"] == last["erank_encoded"]
    assert record.columns["Hmax_exact"][-1] < 1e-50 and record.collapsed


def test_collapse_is_relative_to_the_start():
    assert has_collapsed(np.array([0.9e-6, 1.1e-6, np.nan, 0.0]), 1.0).tolist() == [True, False, False, True]
    assert not has_collapsed(1e-30, 1e-25).item()
    assert not has_collapsed(0.0, np.nan).item()


# --- models measured on a sample ---


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=needs_torch)])
def test_a_linear_predictor_on_sampled_features_has_its_excess(backend):
    """The sample's loss, less that of the sample's own least squares solution."""
    config = small(backend=backend, enc="mlp", hidden=6, init="random", lr_pred=0.02, lr_enc=0.02)
    world = World.from_config(config)
    group = training.Group([config], world, torch.device("cpu"))
    log = snapshots.SampledLog.of(group, world)
    log.take(group)
    found = log.parameters(torch.ones((1, 1), dtype=torch.bool))
    columns = {name: value[0, 0] for name, value in sampled_metrics(found, world).items()}
    z_o = layers.apply([W.double() for W in group.encoder], log.x[None], group.activation)[0].detach().numpy()
    z_t = layers.apply([W.double() for W in group.target], log.x_plus[None], group.activation)[0].detach().numpy()
    best = np.linalg.lstsq(z_o.T, z_t.T, rcond=None)[0].T
    predictors = {"now": found.P[0, 0], "best": best}
    loss = {name: 0.5 * ((P @ z_o - z_t) ** 2).sum() / z_o.shape[1] for name, P in predictors.items()}
    assert columns["loss_pop"] == pytest.approx(loss["now"], rel=1e-12)
    assert 0.5 * 10 ** (2 * columns["W_excess"]) == pytest.approx(loss["now"] - loss["best"], rel=1e-9)
    assert columns["loss_rel"] == pytest.approx(2 * loss["now"] * z_t.shape[1] / (z_t**2).sum(), rel=1e-12)
