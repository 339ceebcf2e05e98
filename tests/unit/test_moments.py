"""The moments sampler: its kernels beside the plain formulas, its limits. `test_moments_algebra.py` has the algebra."""

from __future__ import annotations

import numpy as np
import pytest
from cases import BACKENDS, gram, one_run, small, trajectory

from byolsim.config.run import RunConfig
from byolsim.draws.streams import MomentsKey, moment_blocks, split_moments
from byolsim.model import gradients
from byolsim.model.encoder import initial_weights
from byolsim.model.moments import (
    ReducedWorld,
    direct_gradient,
    reduced_coordinates,
    reduced_gradient,
    retriangulate,
)
from byolsim.model.schedule import AutoRates, CurvatureEstimate
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

r = 3
VARIANTS = {
    "plain": {},
    "momentum-and-decay": {"mom_enc": 0.8, "mom_pred": 0.7, "weight_decay": 0.05},
    "periods": {"pred_update_every": 2, "enc_update_every": 3},
    "no-noise": {"sigma_n": 0.0},
    "schedule": {"auto_alpha_c": 0.3, "auto_beta_c": 0.5, "lr_pred": None, "lr_enc": None, "auto_every": 4},
    "from-the-fixed-point": {"init": "pinv"},
    # Decay shrinks the encoder to 1e-6 of the target, which follows slowly.
    "collapse": {
        "weight_decay": 1.0, "lr_pred": 0.3, "lr_enc": 0.3, "ema_m": 0.999, "mom_enc": 0.0, "mom_pred": 0.0,
        "latent_spectrum": "flat:0.1", "sigma_n": 0.3,
    },
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("n", [1, 4, 11, 300])
@pytest.mark.parametrize("variant", VARIANTS)
def test_trajectory_equals_the_plain_form(backend, form, n, variant):
    """40 steps of a backend beside the plain formulas on the same draws; 1e-9 leaves room for rounding to grow."""
    if (variant, form, n) == ("collapse", "reduced", 1):
        pytest.skip("L is singular, and rounding chooses the directions that complete it: the same law, another draw")
    rates = {"lr_pred": 0.02, "lr_enc": 0.01, "ema_m": 0.9, "auto_alpha_c": 0.0, "auto_beta_c": 0.0}
    config = small(
        backend=backend, sampler="moments", moments_form=form, d_obs=19, batch_size=n, **(rates | VARIANTS[variant])
    )
    block, expected = trajectory(config), plain_rows(config)
    order = block.order
    for k, (epoch, row) in enumerate(expected.items()):
        assert block.epochs[k] == epoch
        for name in ("P", "b_o", "b_t"):
            np.testing.assert_allclose(getattr(order, name)[0, k], row[name], rtol=1e-9, atol=1e-11)
        for name in ("o", "t"):
            outside = getattr(order, f"L_{name}")[0, k]
            np.testing.assert_allclose(outside @ outside.T, row[f"gram_{name}"], rtol=1e-9, atol=1e-11)
        for name in ("gap", "loss", "Hmax", "lr_pred_t", "lr_enc_t"):
            if epoch > 0 or name == "gap":
                assert (block.steps | {"gap": order.gap})[name][0, k] == pytest.approx(row[name], rel=1e-9), name


@pytest.mark.parametrize("size", [1, 2, 5, 7, 10, 11])
def test_reduced_kernels_at_every_size(size):
    """The products work on blocks of 2 x 5 and the reflections in pairs: sizes that leave every kind of rest."""
    config = small(
        sampler="moments", d_latent=size, d_obs=5 * size, batch_size=2 * size + 1, latent_spectrum="flat:2", epochs=12
    )
    assert config.moments_form == "reduced"
    block, expected = trajectory(config), plain_rows(config)
    for k, row in enumerate(expected.values()):
        np.testing.assert_allclose(block.order.P[0, k], row["P"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(block.order.b_o[0, k], row["b_o"], rtol=1e-9, atol=1e-11)


def plain_rows(config):
    """Logged values by the plain forms of `byolsim.model.moments`, with the schedule's plain form."""
    world = World.from_config(config)
    size, n = config.k, config.batch_size
    reduced = ReducedWorld(world)
    key = MomentsKey(config.seed, n, world.d, world.q, config.moments_form, size, config.world_id or "")
    start = initial_weights(config, world)
    is_reduced = config.moments_form == "reduced"
    X = reduced_coordinates(start, world) if is_reduced else np.vstack([start.B_o, start.V_B, start.B_t])
    P, V_P = start.P, start.V_P
    curvature = CurvatureEstimate(size, config.power_iters)
    rule = AutoRates(config.tau, config.mom_pred, config.mom_enc, config.eta_P, config.eta_B, world.lambda_max_x)
    alpha, beta = config.lr_pred, config.lr_enc
    rows = {0: plain_row(P, X, world, is_reduced, {})}
    for t, draws in enumerate((row for block in moment_blocks(key, config.epochs) for row in block), start=1):
        W, N = split_moments(draws, key)
        if is_reduced:
            drawn = reduced_gradient(P, X, reduced, W, N, n)
        else:
            drawn = direct_gradient(P, X[:size], X[2 * size :], world, W, N, n)
        if (t - 1) % config.auto_every == 0:
            curvature.tick(drawn.C_oo)
        H = max(curvature.H, curvature.H_floor)
        if config.auto_alpha_c:
            alpha = rule.alpha(config.auto_alpha_c, H)[0]
        if config.auto_beta_c:
            beta = rule.beta(config.auto_beta_c, H, P)[0]
        grad_P, grad_B = gradients.gradients(P, X[:size], drawn.G, config.weight_decay)
        if t % config.pred_update_every == 0:
            V_P = config.mom_pred * V_P + grad_P
            P = P - alpha * V_P
        B, V, B_t = X[:size], X[size : 2 * size], X[2 * size :]
        if t % config.enc_update_every == 0:
            V = config.mom_enc * V + grad_B
            B = B - beta * V
        X = np.vstack([B, V, (1 - config.tau) * B_t + config.tau * B])
        if is_reduced:
            X = retriangulate(X, size)
        if t % config.log_every == 0 or t == config.epochs:
            step = {"loss": drawn.loss, "Hmax": curvature.H, "lr_pred_t": alpha, "lr_enc_t": beta}
            rows[t] = plain_row(P, X, world, is_reduced, step)
    return rows


def plain_row(P, X, world, is_reduced, step):
    size, q = len(P), world.q
    inside = X[:, :q] if is_reduced else X @ world.Q
    outside = X[:, q:] if is_reduced else X - inside @ world.Q.T
    o, t = slice(0, size), slice(2 * size, 3 * size)
    return step | {
        "P": P,
        "b_o": inside[o],
        "b_t": inside[t],
        "gram_o": outside[o] @ outside[o].T,
        "gram_t": outside[t] @ outside[t].T,
        "gap": np.linalg.norm(X[o] - X[t]),
    }


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_deviation_from_the_population_shrinks_as_the_root_of_n(form):
    """A hundred times the batch, a tenth of the deviation; the ratio of two means of 80 seeds is within 30 % of that.

    The deviation of one run has a relative spread of about a half, so the ratio has one of about 8 %: with fixed seeds
    the test is certain, over seeds it would fail once in thousands of times.
    """

    def final(n, sampler, seed):
        shape = {"d_obs": 16, "epochs": 30, "lr_pred": 0.05, "lr_enc": 0.05, "seed": seed, "sampler": sampler}
        more = {"moments_form": form, "batch_size": n} if sampler == "moments" else {}
        return trajectory(small(**shape, **more)).order.P[0, -1]

    deviation = {
        n: np.mean([np.linalg.norm(final(n, "moments", s) - final(n, "population", s)) for s in range(80)])
        for n in (10**4, 10**6)
    }
    assert deviation[10**4] / deviation[10**6] == pytest.approx(10, rel=0.3)
    assert deviation[10**6] < 1e-2


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_single_precision_follows_double(form):
    """Rounding of 6e-8 a step, over 40 steps that amplify it little."""
    runs = [one_run(small(sampler="moments", moments_form=form, d_obs=20, dtype=t)) for t in ("float64", "float32")]
    for name in ("loss", "loss_pop", "gap", "Hmax"):
        double, single = (run.columns[name] for run in runs)
        np.testing.assert_allclose(single, double, rtol=2e-4, equal_nan=True)


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_effective_ranks_near_collapse(backend, form):
    """At 1e-20 of the target the encoder's relative shape is that of the plain form: ranks see nothing else."""
    config = small(
        backend=backend, sampler="moments", moments_form=form, d_obs=19, lr_enc=0.3, lr_pred=0.3, weight_decay=1.0,
        ema_m=0.999, mom_enc=0.0, mom_pred=0.0, epochs=147, latent_spectrum="flat:0.1", sigma_n=0.3,
    )  # fmt: skip
    record = one_run(config)
    order = [trajectory(config).order.b_o[0, -1], plain_rows(config)[147]["b_o"]]
    assert np.linalg.norm(order[1]) < 1e-12
    np.testing.assert_allclose(order[0] / np.linalg.norm(order[0]), order[1] / np.linalg.norm(order[1]), atol=1e-6)
    assert record.columns["erank_encoded"][-1] > 1.0


@pytest.mark.parametrize("sampler", [{"sampler": "minibatch"}, {"moments_form": "direct"}, {"moments_form": "reduced"}])
def test_a_collapse_in_single_precision_is_no_divergence(sampler):
    """Rows of B_o come below 1e-19 of one another, where squares vanish in float32."""
    config = small(
        **({"sampler": "moments"} | sampler), dtype="float32", d_obs=20, lr_enc=0.4, lr_pred=0.4, weight_decay=0.3,
        ema_m=0.999, mom_enc=0.0, mom_pred=0.0, epochs=600, log_every=10, latent_spectrum="0.6,0.01,0.003",
    )  # fmt: skip
    record = one_run(config)
    assert record.status == "completed"
    assert np.isfinite(record.columns["gap"]).all()


@pytest.mark.parametrize("form", ["direct", "reduced"])
@pytest.mark.parametrize("n", [1, 7])
def test_a_collapsed_encoder_stays_finite(form, n):
    """Weight decay that shrinks everything below the range where squares exist: no NaN, no divergence, and B -> 0."""
    config = small(
        sampler="moments", moments_form=form, d_obs=20, batch_size=n, epochs=4000, log_every=500, lr_pred=0.4,
        lr_enc=0.4, weight_decay=0.9, mom_enc=0.0, mom_pred=0.0, init="zero_pred", ema_m=0.5,
    )  # fmt: skip
    order = trajectory(config).order
    norms = np.sqrt(np.trace(gram(order.b_o[0], order.L_o[0]), axis1=1, axis2=2))
    assert np.isfinite(norms).all() and norms[-1] < 1e-200
    record = one_run(config)
    assert record.status == "completed"
    assert np.isfinite(record.columns["loss"]).all() and np.isfinite(record.columns["BA_err_aligned"]).all()


@pytest.mark.parametrize("form", ["direct", "reduced"])
def test_divergence_is_noted_and_does_not_touch_the_others(form):
    """A run whose rate is a thousand times too large ends alone: its neighbours have the bits of a run by itself."""
    runs = [small(sampler="moments", moments_form=form, d_obs=20, lr_pred=lr, lr_enc=0.01) for lr in (0.01, 1e3, 0.02)]
    together = simulate_runs(runs)
    assert [record.status for record in together] == ["completed", "diverged", "completed"]
    for config, record in zip(runs, together, strict=True):
        alone = one_run(config)
        assert alone.diverged_epoch == record.diverged_epoch
        for name, column in record.columns.items():
            np.testing.assert_array_equal(alone.columns[name], column)


def test_groups_of_every_size_give_the_same_bits():
    """1 to 6 runs, so 1 or 2 packs with every number of empty lanes."""
    runs = [small(sampler="moments", d_obs=20, lr_pred=lr) for lr in np.geomspace(1e-3, 1e-1, 6)]
    reference = [one_run(config) for config in runs]
    for size in range(2, 7):
        for record, expected in zip(simulate_runs(runs[:size]), reference, strict=False):
            for name, column in record.columns.items():
                np.testing.assert_array_equal(column, expected.columns[name])


def test_a_longer_run_continues_a_shorter_one():
    short, long = (one_run(small(sampler="moments", d_obs=20, epochs=epochs)) for epochs in (21, 42))
    for name, column in short.columns.items():
        np.testing.assert_array_equal(column, long.columns[name][: len(column)])


def test_auto_form_depends_on_the_shape_alone():
    def form(**shape):
        return RunConfig(sampler="moments", **shape).moments_form

    assert form() == form(batch_size=1) == form(d_obs=50) == "reduced"
    assert form(d_obs=49) == form(d_latent=30, d_obs=100) == "direct"
    explicit = RunConfig(sampler="moments", moments_form="reduced")
    assert RunConfig(sampler="moments").run_id == explicit.run_id
    assert RunConfig(sampler="moments", moments_form="direct").run_id != explicit.run_id


def test_bartlett_diagonals():
    """chi-square with n - i degrees on W's diagonal and d - 4r - i on N's: their means, within 5 standard errors."""
    key = MomentsKey(7, 12, 5 * r + 2, r, "reduced")
    draws = [split_moments(row, key) for block in moment_blocks(key, 4000) for row in block]
    for squares, degrees in (
        (np.array([np.diag(W) ** 2 for W, _ in draws]), 12 - np.arange(9)),
        (np.array([np.diag(N[:, 2 * r :]) ** 2 for _, N in draws]), 5 * r + 2 - 4 * r - np.arange(r)),
    ):
        error = np.sqrt(2 * degrees / len(draws))
        assert (abs(squares.mean(axis=0) - degrees) < 5 * error).all()
    W, N = draws[0]
    assert W.shape == (9, 9) and N.shape == (r, 3 * r)
    assert not np.triu(W, 1).any() and not np.triu(N[:, 2 * r :], 1).any()
