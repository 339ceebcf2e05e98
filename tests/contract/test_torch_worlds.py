"""Torch in worlds of every kind, at every width and from every start: linear models equal the plain form, MLPs run.

`test_contract` draws configurations at random; here is, by name, what one could get wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import HAS_TORCH, SMALL, gram, needs_torch, one_run, small
from configurations import SAMPLERS, sampler_options

from byolsim.backends import get_backend
from byolsim.config.fields import names
from byolsim.config.run import RunConfig
from byolsim.draws.streams import evaluation_draws, minibatch_blocks, split_draws
from byolsim.errors import UserError
from byolsim.model import gradients
from byolsim.model.encoder import initial_layers
from byolsim.model.metrics import METRICS, OF_LINEAR_MODELS, OF_LINEAR_P, order_metrics, sampled_metrics
from byolsim.model.samplers import sampler_of, view_key
from byolsim.model.start import Start
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

pytestmark = needs_torch
if HAS_TORCH:
    import torch

    from byolsim.backends.torch import layers, snapshots, training
    from byolsim.backends.torch.backend import _one_thread as one_thread
    from byolsim.backends.torch.world import TorchWorld

D = 27
"""Observed dimension: room for the reduced form, q + 4 k, of all that is below."""

TOLERANCE = {"float64": 1e-12, "float32": 1e-3}
"""Of the largest value that a quantity had so far, at least 1. Forty steps make some tens of roundings, 1e-16 or 6e-8
each, of one: the worst of this catalogue had 3e-15 and 5e-6. What is above that is room for other processors."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bottleneck": {"d_embed": 2},
    "spare rows": {"d_embed": 5},
    "correlation": {"correlation": "0.9,-0.4,0"},
    "nuisance": {"d_nuisance": 2, "nuisance_spectrum": "3,0.5"},
    "nuisance, correlation, k > r": {"d_nuisance": 3, "correlation": "linear:1:-0.5", "d_embed": 4},
    "clean target": {"sigma_n_target": 0.0},
    "clean view, noisy target": {"sigma_n": 0.0, "sigma_n_target": 0.7},
    "one row": {"correlation": "flat:0.6", "sigma_n_target": 1.2, "d_embed": 1},
    "modes": {"init": "modes", "correlation": "0.2,0.9,-0.8", "init_pred_scale": 0.5},
    "modes and more": {"init": "modes", "d_embed": 5},
    "scales": {"init_scale": 0.3, "init_pred_scale": 2.0},
    "target of its own": {"target_init": "independent", "init_scale": 0.5, "d_nuisance": 1},
    "target at 0": {"target_init": "zero", "d_embed": 4},
}
"""What differs from `SMALL`. None starts from P = 0: see `has_sampler`."""

FILES: dict[str, dict[str, Any]] = {
    "part of the space": {},
    "part of the space, bottleneck": {"d_embed": 2, "target_init": "independent"},
    "part of the space, spare rows": {"d_embed": 5},
    "all of the space": {"d_embed": 3},
    "singular": {"d_embed": 2},
    "singular, all of the space": {"d_embed": 2, "init_scale": 0.5},
}
"""Worlds of second moments, q = 4 of D dimensions or all of q = 4."""


def world_of(kind: str, q: int = 4) -> World:
    """Moments in general position; singular ones leave x in 2 of q dimensions, and x+ a function of x."""
    rng = np.random.default_rng(7)
    rank = 2 if kind.startswith("singular") else 3 * q
    x, own = rng.normal(size=(2, q, rank)) / rank**0.5
    x_plus = x @ np.array([[0.8, 0.3], [-0.5, 0.1]]) if rank == 2 else 0.6 * x + 0.3 * own
    moments = (x @ x.T, x_plus @ x.T, x_plus @ x_plus.T)
    if kind.endswith("all of the space"):
        return World.from_moments(*moments)
    return World.from_moments(*moments, np.linalg.qr(rng.normal(size=(D, q)))[0], sigma=0.4, sigma_plus=0.9)


def in_file(folder, kind: str, **options: Any) -> RunConfig:
    """A run of `SMALL` in a world of `FILES`."""
    beside = {name: value for name, value in SMALL.items() if name not in names(RunConfig, "of_world")}
    path = world_of(kind).save(folder / "world.npz")
    return RunConfig(**(beside | FILES.get(kind, {}) | options | {"world": str(path)}))


def run_of(kind: str, folder, **options: Any) -> RunConfig:
    """A run of either catalogue, with rates that move it far."""
    rates = {"lr_pred": 0.05, "lr_enc": 0.03, "ema_m": 0.9, "weight_decay": 0.01, "batch_size": 9}
    if kind in FILES:
        return in_file(folder, kind, **(rates | options))
    return small(**({"d_obs": D} | rates | OPTIONS[kind] | options))


def has_sampler(kind: str, sampler: str) -> bool:
    """Whether the sampler has a form in this world, and rounding chooses none of its draws.

    Without noise outside there is no reduced form. In it the draws belong to directions that the rows of B_o, V_B and
    B_t span one after the other: where some rows of B_o start without an outside part, and others with one (`modes` at
    k > q), the first step leaves those rows of V_B in the span of B_o. Rounding then chooses directions in their place
    that the other rows of V_B meet: the law is the same, and the draw another one. So too at P = 0 with few samples.
    """
    return sampler != "reduced" or not (kind.endswith("all of the space") or kind == "modes and more")


def cases() -> list[Any]:
    """Every kind of world and start with every sampler that it has."""
    pairs = [(kind, sampler) for kind in (*OPTIONS, *FILES) for sampler in SAMPLERS if has_sampler(kind, sampler)]
    return [pytest.param(*pair, id=f"{pair[1]}-{pair[0]}") for pair in pairs]


def both(config: RunConfig, initial: Start | None = None):
    """The blocks of the plain backend and of torch."""
    blocks = []
    for name in ("numpy", "torch"):
        on = RunConfig(**(config.model_dump() | {"backend": name, "device": "cpu"}))
        blocks.append(next(get_backend(name).simulate(World.from_config(on), [on], lambda epochs: None, initial)))
    return blocks


def assert_equal(plain, torch_, tolerance: float) -> None:
    """Gram matrices for factors, which are not unique below full rank; the gap against the encoders."""
    for name in ("epochs", "valid", "diverged_epoch", "clips"):
        np.testing.assert_array_equal(getattr(torch_, name), getattr(plain, name), err_msg=name)
    assert plain.diverged_epoch[0] < 0

    def quantities(block):
        order = block.order
        stacks = {name: getattr(order, name)[0] for name in ("P", "b_o", "b_t", "gap")}
        stacks |= {name: gram(0 * L, L)[0] for name, L in (("L_o", order.L_o), ("L_t", order.L_t))}
        return stacks | {name: values[0] for name, values in block.steps.items()}

    ours = quantities(torch_)
    for name, values in quantities(plain).items():
        assert ours[name].shape == values.shape, name
        size = max(1.0, np.nanmax(np.abs(values)))
        np.testing.assert_allclose(ours[name] / size, values / size, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("kind", "sampler"), cases())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_equals_the_plain_form(kind, sampler, dtype, tmp_path):
    config = run_of(kind, tmp_path, **sampler_options(sampler), dtype=dtype)
    plain, torch_ = both(config)
    k, q = config.k, config.structured
    assert torch_.order.P.shape[2:] == torch_.order.L_t.shape[2:] == (k, k)
    assert torch_.order.b_o.shape[2:] == (k, q)
    assert_equal(plain, torch_, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["nuisance, correlation, k > r", "part of the space, bottleneck"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("options", [{"batch_size": 2}, {"pred_update_every": 2, "enc_update_every": 3, "tau": 0.7}])
def test_small_batches_periods_and_the_schedule(kind, sampler, options, tmp_path):
    """With fewer samples than rows W is a trapezoid; the rates follow the curvature of k features."""
    config = run_of(kind, tmp_path, **sampler_options(sampler))
    values = {name: v for name, v in config.model_dump().items() if name not in ("lr_pred", "lr_enc")}
    assert_equal(
        *both(RunConfig(**(values | {"auto_alpha_c": 0.2, "auto_beta_c": 0.1} | options))), TOLERANCE["float64"]
    )


def start_of(config: RunConfig, columns: int, epoch: int) -> Start:
    """Weights, momentum and a target in general position."""
    rng = np.random.default_rng(11)
    k = config.k
    P, V_P = 0.5 * rng.normal(size=(2, k, k))
    B_o, V_B, B_t = rng.normal(size=(3, k, columns)) / columns**0.5
    return Start(P, V_P, B_o, V_B, B_t, epoch)


@pytest.mark.parametrize("kind", ["plain", "nuisance, correlation, k > r", "part of the space", "all of the space"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_given_start_has_momentum_and_draws_behind_it(kind, sampler, tmp_path):
    if not has_sampler(kind, sampler):
        pytest.skip("without noise outside there is no reduced form")
    config = run_of(kind, tmp_path, **sampler_options(sampler))
    assert_equal(*both(config, start_of(config, config.d_obs, epoch=13)), TOLERANCE["float64"])


@pytest.mark.parametrize("kind", ["plain", "part of the space"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_goes_on_from_where_it_stood(kind, sampler, tmp_path):
    """The same bits: a start is all that the next step needs. The reduced form goes on from its coordinates."""
    config = run_of(kind, tmp_path, **sampler_options(sampler), weight_decay=0.0, log_every=1, backend="torch")
    world = World.from_config(config)
    (whole,) = get_backend("torch").simulate(world, [config], lambda epochs: None)
    group = training.Group([config], world, torch.device("cpu"))
    block = next(sampler_of(config).blocks())
    with one_thread():
        for t in range(1, 14):
            group.step(t, torch.from_numpy(block[t - 1]))
    width = config.structured + 3 * config.k if sampler == "reduced" else config.d_obs
    (P,), (V_P,), (B_o,), (V_B,), (B_t,) = (
        [W[0].detach().numpy() for W in part]
        for part in (group.predictor, group.V_pred, group.encoder, group.V_enc, group.target)
    )
    start = Start(P, V_P, *(M[:, :width] for M in (B_o, V_B, B_t)), epoch=13)
    rest = RunConfig(**(config.model_dump() | {"epochs": config.epochs - 13}))
    (block,) = get_backend("torch").simulate(world, [rest], lambda epochs: None, start)
    for name in ("P", "b_o", "b_t", "L_o", "L_t", "gap"):
        np.testing.assert_array_equal(getattr(block.order, name)[0], getattr(whole.order, name)[0, 13:], err_msg=name)
    np.testing.assert_array_equal(block.steps["loss"][0, 1:], whole.steps["loss"][0, 14:])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_has_its_bits_beside_any_other(sampler, tmp_path):
    """Runs of one group may start, and their targets, in different ways."""
    config = run_of("part of the space, spare rows", tmp_path, **sampler_options(sampler), backend="torch")
    runs = [
        RunConfig(**(config.model_dump() | own))
        for own in ({}, {"target_init": "zero"}, {"init": "random", "target_init": "independent"}, {"init_scale": 0.2})
    ]
    alone = [one_run(run) for run in runs]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        for index, record in zip(order, simulate_runs([runs[i] for i in order]), strict=True):
            for name in METRICS:
                np.testing.assert_array_equal(record.columns[name], alone[index].columns[name], err_msg=name)


@pytest.mark.parametrize("kind", ["correlation", "nuisance, correlation, k > r", "clean view, noisy target", *FILES])
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_autograd_finds_the_closed_form(kind, eta, tmp_path):
    """V' - mu V of one step of the population, against `gradients` and against the (d, d) moments of the world."""
    config = run_of(kind, tmp_path, sampler="population", weight_decay=eta)
    world, at = World.from_config(config), start_of(config, config.d_obs, epoch=0)
    group = training.Group([config], world, torch.device("cpu"), at)
    group.step(1, torch.empty(0, dtype=torch.float64))
    found = (
        (group.V_pred[0][0] - config.mom_pred * torch.tensor(at.V_P)).numpy(),
        (group.V_enc[0][0] - config.mom_enc * torch.tensor(at.V_B)).numpy(),
    )
    P, B_o, B_t = at.P, at.B_o, at.B_t
    G = gradients.population_residual_gradient(P, B_o, B_t, world)
    dense = gradients.moment_residual_gradient(P, B_o, B_t, world.Sigma_x, world.Sigma_s)
    for residual in (G, dense):
        for ours, closed in zip(found, gradients.gradients(P, B_o, residual, eta), strict=True):
            # Sums of at most 27 x 27 products of numbers of order 1.
            np.testing.assert_allclose(ours, closed, atol=1e-13)
    F = P @ B_o
    power = F @ world.Sigma_x @ F.T - 2 * F @ world.Sigma_s.T @ B_t.T + B_t @ world.Sigma_plus @ B_t.T
    assert group.loss.item() == pytest.approx(0.5 * np.trace(power), rel=1e-12)
    assert group.loss.item() == pytest.approx(gradients.population_loss(P, B_o, B_t, world), rel=1e-12)


@pytest.mark.parametrize("kind", ["plain", "nuisance, correlation, k > r", "clean view, noisy target", *FILES])
def test_views_have_the_moments_of_the_world(kind, tmp_path):
    """20,000 pairs: each of at most 3 d^2 sample moments within 6 standard errors, false alarms 1 in 2e5 a case."""
    config = run_of(kind, tmp_path)
    world, n = World.from_config(config), 20_000
    key = view_key(config, n)
    row = torch.from_numpy(next(minibatch_blocks(key, 1))[0])
    x, x_plus = (v.numpy() for v in TorchWorld.of(world, torch.device("cpu"), torch.float64).views(row, n))
    for one, other, exact, (S, T) in (
        (x, x, world.Sigma_x, (world.Sigma_x, world.Sigma_x)),
        (x_plus, x, world.Sigma_s, (world.Sigma_plus, world.Sigma_x)),
        (x_plus, x_plus, world.Sigma_plus, (world.Sigma_plus, world.Sigma_plus)),
    ):
        error = np.sqrt((np.outer(np.diag(S), np.diag(T)) + exact**2) / n)
        assert (np.abs(one @ other.T / n - exact) <= 6 * error + 1e-12).all()


MLPS: dict[str, dict[str, Any]] = {
    "encoder": {"enc": "mlp"},
    "predictor": {"pred": "mlp", "activation": "tanh"},
    "both": {"enc": "mlp", "pred": "mlp"},
}
ACTIVATIONS = {"relu": lambda v: np.maximum(v, 0.0), "tanh": np.tanh}


def forward(config: RunConfig, weights, x):
    """One layer or two in NumPy, samples as columns."""
    if len(weights) == 1:
        return weights[0] @ x
    return weights[1] @ ACTIVATIONS[config.activation](weights[0] @ x)


@pytest.mark.parametrize("model", MLPS)
@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("target_init", [None, "zero", "independent"])
@pytest.mark.parametrize("kind", ["part of the space", "all of the space", "singular", "nuisance"])
def test_an_mlp_runs_in_any_world(kind, target_init, k, model, tmp_path):
    """The loss of epoch 0 is the mean over the evaluation sample; what has a meaning has a value; training trains."""
    k = min(k, 4) if kind == "all of the space" else k
    options = MLPS[model] | {"hidden": 7, "d_embed": k, "target_init": target_init, "init": "random", "init_scale": 1.5}
    config = run_of(kind, tmp_path, **options, device="cpu", weight_decay=0.0)
    world, (encoder, predictor, target) = World.from_config(config), initial_layers(config, World.from_config(config))
    assert [W.shape[0] for W in (encoder[-1], predictor[-1], target[-1])] == [k, k, k]

    key = view_key(config, snapshots.evaluation_size(world.d))
    g, e, e_plus = split_draws(evaluation_draws(key), key)
    Pi = np.eye(world.d) if world.noise_inside else np.eye(world.d) - world.Q @ world.Q.T
    x = world.A @ (np.sqrt(world.lam)[:, None] * g[: world.q])
    x_plus = world.loadings_plus @ (np.sqrt(world.variances_plus)[:, None] * g)
    if len(e):
        x, x_plus = x + world.sigma * Pi @ e, x_plus + world.noise_plus * Pi @ e_plus
    z_t = forward(config, target, x_plus)
    residual = forward(config, predictor, forward(config, encoder, x)) - z_t
    record = one_run(config)
    assert record.status == "completed"
    expected = 0.5 * (residual**2).sum(axis=0).mean()
    for name in ("loss", "loss_pop"):
        assert record.columns[name][0] == pytest.approx(expected, rel=1e-12)

    null = {name for name in METRICS if np.isnan(record.columns[name][-1])}
    unknown = {*OF_LINEAR_MODELS, *(OF_LINEAR_P if "pred" in MLPS[model] else ())}
    if k != world.r:
        unknown |= {"BA_err_aligned", "enc_procrustes_fro"}
    assert null - {"enc_proj_dist"} == unknown
    assert ("enc_proj_dist" in null) == (world.r is None)
    assert not any(np.isinf(column).any() for column in record.columns.values())
    for name in ("erank_encoded", "erank_pred", "erank_sv_encoded", "erank_sv_pred"):
        assert 1 <= record.columns[name][-1] <= k
    assert np.isnan(record.columns["loss_rel"][0]) == (target_init == "zero")
    if target_init is None:
        assert record.columns["loss_pop"][-1] < record.columns["loss_pop"][0]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["plain", "nuisance", "part of the space"])
def test_sampled_metrics_of_a_linear_function_are_those_of_its_matrices(kind, k, tmp_path):
    """A linear model and the same function as an MLP whose activation is the identity, at k = r and elsewhere."""
    config = run_of(kind, tmp_path, d_embed=k, target_init="independent")
    mlp_config = RunConfig(**(config.model_dump() | {"enc": "mlp", "hidden": 9, "backend": "torch"}))
    world = World.from_config(config)
    linear, mlp = (training.Group([c], world, torch.device("cpu")) for c in (config, mlp_config))
    mlp.activation = layers.ACTIVATIONS["identity"]
    mix = torch.linalg.qr(torch.randn(9, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    for part in ("encoder", "target"):
        (W,), (first, second) = getattr(linear, part), getattr(mlp, part)
        first.data, second.data = (mix @ W.detach()).contiguous(), mix.T.expand(1, k, 9).clone()
    mlp.predictor[0].data = linear.predictor[0].detach().clone()
    columns = []
    for group, metrics in ((linear, order_metrics), (mlp, sampled_metrics)):
        log = snapshots.GroupLog(group, world)
        log.take(0)
        columns.append(metrics(log.block().order, world))
    exact, sampled = columns
    assert exact.keys() == sampled.keys()
    for name in ("BA_err_aligned", "enc_procrustes_fro", "enc_proj_dist"):
        # The fit on 1024 views in 27 dimensions is exact for a linear function.
        np.testing.assert_allclose(sampled[name], exact[name], rtol=1e-9, err_msg=name)
    for name in ("loss_pop", "loss_rel", "erank_encoded", "erank_pred", "Hmax_exact"):
        # Sample values: relative errors of about (2 / 1024)^(1/2) = 4 %, of a fixed seed.
        np.testing.assert_allclose(sampled[name], exact[name], rtol=0.2, err_msg=name)
    np.testing.assert_allclose(sampled["W_excess"], exact["W_excess"], atol=np.log10(1.2))


def test_an_mlp_refuses_a_given_start():
    config = small(enc="mlp", device="cpu")
    world = World.from_config(config)
    with pytest.raises(UserError) as error:
        next(get_backend("torch").simulate(world, [config], lambda epochs: None, start_of(config, world.d, epoch=3)))
    assert str(error.value) == (
        "a start that is given as matrices needs linear models: an MLP starts as its options say"
    )
