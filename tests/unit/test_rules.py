"""Rules, losses and depth at their edges: what is refused, what a run that goes on knows, bounds of the schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import one_run, small, trajectory
from pydantic import ValidationError

from byolsim.config.describe import first_error
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_weights
from byolsim.model.gradients import encoder_gradient, layer_gradients
from byolsim.model.schedule import LIMIT_FRACTION, AutoRates, ema_rate, rate_factor
from byolsim.model.start import Start, check_start
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

MLP: dict[str, Any] = {"enc": "mlp"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pred_rule": "optimal", "lr_pred": 0.1}, "lr_pred = 0.1 belongs to pred_rule = 'learned', not to 'optimal'"),
    ({"pred_rule": "identity", "auto_alpha_c": 0.4}, "auto_alpha_c = 0.4 belongs to pred_rule = 'learned'"),
    ({"pred_rule": "optimal", "pred_update_every": 2}, "with 'optimal' the predictor is set every pred_every steps"),
    ({"pred_rule": "directcopy", "weight_decay_pred": 0.1}, "weight_decay_pred = 0.1 belongs to pred_rule = 'learned'"),
    ({"pred_rule": "identity", "init_pred_scale": 2.0}, "init_pred_scale = 2.0 belongs to pred_rule = 'learned'"),
    ({"pred_rule": "identity", "pred_every": 3}, "pred_every = 3 belongs to pred_rule = 'optimal' or 'directpred'"),
    ({"pred_rule": "optimal", "pred_symmetric": True}, "pred_symmetric = True belongs to pred_rule = 'learned'"),
    ({"pred_power": 2.0}, "pred_power = 2.0 belongs to pred_rule = 'directpred' or 'directcopy' or 'spectral', not to"),
    ({"pred_rule": "spectral", "pred_corr": "BBT", "pred_corr_rate": 0.2}, "and pred_corr = 'BBT' has none"),
    (
        {"stop_grad": False, "ema_m": 0.9},
        "stop_grad = False has one encoder and no EMA: ema_m and tau must not be given",
    ),
    ({"stop_grad": False, "target_init": "zero"}, "target_init = 'zero' has no meaning with stop_grad = False"),
    ({"stop_grad": False, "ema_schedule": "cosine"}, "ema_schedule = 'cosine' has no meaning with stop_grad = False"),
    ({"stop_grad": False, "sampler": "moments"}, "use sampler = 'minibatch' or 'population'"),
    ({"symmetric_loss": True, "sampler": "moments"}, "use sampler = 'minibatch' or 'population'"),
    ({"warmup": 9, "epochs": 8}, "warmup = 9 is more than epochs = 8: must be at most as many"),
    (MLP | {"init": "modes"}, "with an MLP use init = 'zero_pred' or 'random'"),
    ({"pred": "mlp", "enc_depth": 2}, "enc_depth = 2 needs linear models: with an MLP use enc = 'linear' and pred"),
    ({"pred": "mlp", "pred_rule": "directpred"}, "'directpred' needs linear models: with an MLP use pred = 'linear'"),
    ({"pred": "mlp", "pred_symmetric": True}, "with an MLP use pred = 'linear'"),
    (MLP | {"pred_rule": "optimal"}, "with an MLP use enc = 'linear' and pred = 'linear'"),
    (MLP | {"pred_rule": "spectral", "pred_corr": "BBT"}, "with an MLP use pred_corr = 'C_oo'"),
    (MLP | {"pred_jacobian": "straight"}, "with an MLP use pred_jacobian = 'full'"),
]


@pytest.mark.parametrize(("options", "line"), REFUSED, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_what_has_no_meaning_is_refused_in_one_line_that_names_the_option(options, line):
    with pytest.raises(ValidationError) as refusal:
        RunConfig(**options)
    text = first_error(refusal.value, (RunConfig,))
    assert line in text and "\n" not in text
    assert any(name in text for name in options)


def test_of_one_configuration_there_is_one_form():
    """Defaults that are given are those that are not."""
    null = {"pred_norm": "none", "pred_corr": "C_oo", "pred_every": 1}
    assert RunConfig(pred_rule="spectral", **null).run_id == RunConfig(pred_rule="spectral").run_id
    null = {"pred_symmetric": False, "pred_jacobian": "full", "symmetric_loss": False, "enc_depth": 1, "warmup": 0}
    null |= {"lr_schedule": "constant", "ema_schedule": "constant", "target_init": "copy", "weight_decay_enc": 0.0}
    assert RunConfig(**null).run_id == RunConfig().run_id
    assert RunConfig(stop_grad=False).run_id == RunConfig(stop_grad=False, tau=1.0).run_id


def test_grids_of_rules_without_a_rate_and_of_one_encoder():
    taus, options = (1e-2, 1e-1, 2), {"seeds": (1,), "batch_sizes": (3,), "lr_pred_logspace": (1e-3, 1e-2, 3)}
    runs = expand(SweepConfig(pred_rule="directpred", tau_logspace=taus, **options))
    assert [(run.tau, run.lr_pred, run.lr_enc) for run in runs] == [(0.01, 0.0, None), (0.1, 0.0, None)]
    runs = expand(SweepConfig(stop_grad=False, tau_logspace=taus, lr_enc_mode="same", **options))
    np.testing.assert_allclose([(run.tau, run.lr_pred) for run in runs], [(1, 1e-3), (1, 10**-2.5), (1, 1e-2)])
    assert len({run.run_id for run in runs}) == 3


@pytest.mark.parametrize("sampler", ["minibatch", "population"])
@pytest.mark.parametrize("rule", ["identity", "optimal", "directpred", "directcopy"])
def test_a_run_of_a_rule_goes_on_as_if_it_had_not_ended(rule, sampler):
    """P of the last setting, and the average F, are part of where a run ends: the rows are the same bits."""
    options: dict[str, Any] = {
        "backend": "numpy", "sampler": sampler, "pred_rule": rule, "lr_enc": 0.05, "tau": 0.1, "log_every": 1,
        "enc_depth": 2,
    }  # fmt: skip
    options |= {} if rule == "identity" else {"pred_every": 4}
    whole, half = one_run(small(epochs=20, **options)), one_run(small(epochs=10, **options))
    (rest,) = simulate_runs([small(epochs=10, **options)], initial=half.final)
    assert (half.final.memory is None) == (rule in ("identity", "optimal"))
    for name in ("loss", "loss_pop", "W_excess", "gap"):
        np.testing.assert_array_equal(rest.columns[name][1:], whole.columns[name][11:])
    np.testing.assert_array_equal(rest.columns["loss_pop"][0], whole.columns["loss_pop"][10])


def test_a_start_that_a_loss_or_a_schedule_cannot_have_is_refused():
    P, B = np.eye(3), np.ones((3, 8))
    start = Start(P, 0 * P, B, 0 * B, 2 * B)
    with pytest.raises(ValueError, match="initial B_t is not B_o, and stop_grad = False has one encoder"):
        check_start(start, small(stop_grad=False))
    check_start(start._replace(B_t=B), small(stop_grad=False))
    for name in ("lr_schedule", "ema_schedule"):
        with pytest.raises(ValueError, match=f"{name} = 'cosine' ends at step 40, and the start has 7 steps behind it"):
            check_start(start._replace(epoch=7), small(**{name: "cosine"}))
        check_start(start, small(**{name: "cosine"}))


@pytest.mark.parametrize("target_init", ["copy", "zero", "independent"])
def test_layers_start_at_the_root_of_the_scale_each(target_init):
    """The product of the layers is the encoder of one layer at that scale, in the target too."""
    shallow = small(init_scale=0.3, target_init=target_init)
    deep = small(init_scale=0.3, target_init=target_init, enc_depth=3)
    world = World.from_config(deep)
    one, three = initial_weights(shallow, world), initial_weights(deep, world)
    for W, first, upper in ((one.B_o, three.B_o, three.upper), (one.B_t, three.B_t, three.upper_t)):
        np.testing.assert_allclose(upper[1] @ upper[0] @ first, W, atol=1e-15)
    assert three.upper_t.any() != (target_init == "zero")
    np.testing.assert_allclose(three.upper[0], 0.3 ** (1 / 3) * np.eye(3), rtol=1e-15)


def test_schedules_count_their_steps_from_one_to_the_last():
    config = small(epochs=40, warmup=4, lr_schedule="cosine", ema_schedule="cosine", tau=0.2)
    assert [rate_factor(t, config) for t in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert rate_factor(22, config) == pytest.approx(0.5) and rate_factor(40, config) == 0.0
    assert ema_rate(20, config) == pytest.approx(0.1) and ema_rate(40, config) == 0.0
    assert rate_factor(40, small(epochs=40, warmup=40, lr_schedule="cosine")) == 1.0
    record = one_run(small(backend="numpy", epochs=40, warmup=4, log_every=2, lr_pred=0.01, lr_enc=0.02, tau=0.2))
    np.testing.assert_allclose(record.columns["lr_enc_t"][:4], [0.02, 0.01, 0.02, 0.02])
    np.testing.assert_allclose(record.columns["lr_pred_t"][:4], [0.01, 0.005, 0.01, 0.01])


@pytest.mark.parametrize("one_encoder", [False, True])
@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_bound_of_beta_lies_above_the_curvature_of_the_first_layer(depth, straight, one_encoder):
    """The gradient is linear in W_1: its largest stretch, by columns of its matrix, against what the limit assumes.

    Where the loss or the Jacobian is another one, the bound of the ordinary loss is wrong by more than a factor of 2.
    """
    rng = np.random.default_rng(depth)
    k, d = 3, 5
    S = np.cov(rng.normal(size=(2 * d, 40)))
    S_xx, S_px, S_pp = S[:d, :d], S[d:, :d], S[d:, d:]
    largest = max(np.linalg.eigvalsh(M)[-1] for M in (S_xx, S_pp))
    ratios, plain = [], []
    for size in (0.1, 1.0, 3.0):
        P, upper = size * rng.normal(size=(k, k)), rng.normal(size=(depth - 1, k, k))
        U = upper[1] @ upper[0] if depth > 1 else np.eye(k)

        def gradient(w: np.ndarray, P: np.ndarray = P, upper: np.ndarray = upper, U: np.ndarray = U) -> np.ndarray:
            B = U @ w.reshape(k, d)
            B_t = B if one_encoder else 0 * B
            G, G_plus = P @ B @ S_xx - B_t @ S_px, P @ B @ S_px.T - B_t @ S_pp
            whole = encoder_gradient(P, G, G_plus if one_encoder else None, straight)
            return layer_gradients(whole, w.reshape(k, d), upper)[0].ravel()

        h = np.linalg.norm([gradient(e) for e in np.eye(k * d)], 2)
        rule = AutoRates(1.0, 0.0, 0.0, 0.0, 0.0, largest, straight, one_encoder)
        limit, cut = rule.beta(1e9, 1.0, P, U if depth > 1 else None)
        assert cut
        ratios.append(2 * LIMIT_FRACTION / limit / h)
        without, _ = AutoRates(1.0, 0.0, 0.0, 0.0, 0.0, largest).beta(1e9, 1.0, P, U if depth > 1 else None)
        plain.append(2 * LIMIT_FRACTION / without / h)
    assert min(ratios) >= 1 - 1e-12
    assert min(ratios) < 4, "a bound, and no wild one"
    assert (min(plain) < 1 / 2) == (straight or one_encoder)


def test_the_bound_of_one_encoder_looks_at_both_views():
    config = small(stop_grad=False, sigma_n=0.1, sigma_n_target=5.0)
    world = World.from_config(config)
    assert world.lambda_max_plus == pytest.approx(np.linalg.eigvalsh(world.Sigma_plus)[-1])
    assert world.lambda_max_plus > 2 * world.lambda_max_x


def test_a_product_of_layers_that_leaves_the_bound_diverges():
    """Forty layers of norm 3 or so each, by 2 I or by I: the product is 1e12 times the first, or the first."""
    config = small(backend="numpy", enc_depth=40, lr_pred=0.0, lr_enc=0.0)
    for factor, epoch in ((2.0, 1), (1.0, None)):
        upper = factor * np.tile(np.eye(3), (39, 1, 1))
        initial = {"P": np.eye(3), "B_o": np.ones((3, 8)), "upper": upper, "V_upper": 0 * upper, "upper_t": upper}
        (record,) = simulate_runs([config], initial=initial)
        assert record.diverged_epoch == epoch


def test_a_rule_that_sets_an_infinite_predictor_diverges():
    record = one_run(
        small(backend="numpy", pred_rule="spectral", pred_power=100.0, init_scale=1e5, latent_spectrum="flat:100")
    )
    assert (record.status, record.diverged_epoch) == ("diverged", 1)


@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize("form", ["none", "max"])
def test_a_spectral_rule_takes_in_every_step_and_sets_at_its_own(form, every):
    """P_t of the average F of C_oo before the steps 1 to t, at t = 1, 1 + every, ...; else P_(t - 1)."""
    options: dict[str, Any] = {"pred_rule": "spectral", "pred_norm": form, "pred_power": 0.7, "pred_eps": 0.05}
    config = small(
        **options, backend="numpy", sampler="population", lr_enc=0.1, tau=0.3, epochs=12, log_every=1, pred_every=every,
        pred_corr_rate=0.4, enc_depth=2,
    )  # fmt: skip
    world, order = World.from_config(config), trajectory(config).order
    F = None
    for t in range(1, 13):
        b, L = order.b_o[0, t - 1], order.L_o[0, t - 1]
        C_oo = b @ world.S_xx @ b.T + world.sigma**2 * L @ L.T
        F = C_oo if F is None else 0.6 * F + 0.4 * C_oo
        if (t - 1) % (every or 1) == 0:
            s, U = np.linalg.eigh(F)
            p = s**0.7 + 0.05 * s.max() if form == "none" else (s / s.max()) ** 0.7 + 0.05
            P = (U * p) @ U.T
        np.testing.assert_allclose(order.P[0, t], P, atol=1e-12)
    assert np.linalg.norm(order.P[0, 1] - order.P[0, 12]) > 0.01
