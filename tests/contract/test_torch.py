"""The torch backend: an independent check of the linear model, and MLPs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import HAS_TORCH, one_run, problem, small
from hypothesis import given, settings
from hypothesis import strategies as st

from byolsim.backends import get_backend
from byolsim.backends.base import GroupTooLarge
from byolsim.config.grid import SweepConfig, expand
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, minibatch_blocks, split_draws
from byolsim.errors import UserError
from byolsim.model import gradients
from byolsim.model.encoder import initial_layers
from byolsim.model.metrics import METRICS, OF_LINEAR_P
from byolsim.model.world import World
from byolsim.simulate import simulate_runs
from byolsim.sweeps import compute
from byolsim.sweeps import writer as writing
from byolsim.sweeps.grid import tasks

pytestmark = [pytest.mark.torch, pytest.mark.skipif(not HAS_TORCH, reason="no torch")]
if HAS_TORCH:
    import torch

    from byolsim.backends.torch import layers, schedule, snapshots, training

    HAS_CUDA = torch.cuda.is_available()
else:
    HAS_CUDA = False
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)

MLPS: dict[str, dict[str, Any]] = {
    "mlp-encoder": {"enc": "mlp", "hidden": 6},
    "mlp-predictor": {"pred": "mlp", "hidden": 6, "activation": "tanh"},
    "both": {"enc": "mlp", "pred": "mlp", "hidden": 7, "activation": "gelu"},
}


@PROPERTY
@given(
    st.tuples(st.integers(1, 5), st.integers(0, 6), st.integers(1, 9), st.integers(0, 2**16)),
    st.sampled_from([0.0, 0.3]),
)
def test_closed_form_kronecker_form_and_autograd_agree(shape, eta):
    """The third and independent form of the gradients; tests/unit/test_gradients.py has the others."""
    r, extra, n, seed = shape
    p = problem(r, r + extra, n, seed)
    P, B_o, B_t, X, X_plus = (torch.tensor(M) for M in (p.P, p.B_o, p.B_t, p.X, p.X_plus))
    P.requires_grad_()
    B_o.requires_grad_()
    loss = 0.5 * (P @ B_o @ X - B_t @ X_plus).square().sum() / n + 0.5 * eta * (P.square().sum() + B_o.square().sum())
    automatic = [g.numpy() for g in torch.autograd.grad(loss, [P, B_o])]
    G = gradients.sample_residual_gradient(p.P, p.B_o, p.B_t, p.X, p.X_plus)
    closed = gradients.gradients(p.P, p.B_o, G, eta)
    kron = gradients.gradients_kron(p.P, p.B_o, p.B_t, *p.moments, eta)
    for name, a, c, k in zip(("P", "B_o"), automatic, closed, kron, strict=True):
        np.testing.assert_allclose(a, c, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(a, k, atol=1e-12, err_msg=name)


@PROPERTY
@given(
    st.fixed_dictionaries(
        {
            "d_latent": st.integers(1, 4),
            "d_obs": st.integers(4, 9),
            "batch_size": st.integers(1, 14),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "pred_update_every": st.integers(1, 3),
            "enc_update_every": st.integers(1, 3),
            "sampler": st.sampled_from(["minibatch", "population"]),
            "seed": st.integers(0, 1000),
        }
    ),
    st.sampled_from([{"lr_pred": 0.01, "lr_enc": 0.02}, {"lr_pred": 0.02}, {"lr_enc": 0.01}, {}]),
)
def test_kernels_and_autograd_take_the_same_steps(values, rates):
    """One step of each, over random shapes, batches, decays and update periods."""
    config = small(**values, **rates, epochs=3, log_every=1, latent_spectrum="geometric:0.5:2")
    assert_same_run(config, rtol=1e-11)


def assert_same_run(config, rtol):
    numba, torch_ = (one_run(RunConfig(**(config.model_dump() | {"backend": name}))) for name in ("numba", "torch"))
    assert numba.clips == torch_.clips
    assert numba.status == torch_.status
    np.testing.assert_array_equal(numba.epochs, torch_.epochs)
    for name in METRICS:
        np.testing.assert_allclose(torch_.columns[name], numba.columns[name], rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize(
    "rates",
    [
        {"lr_pred": 1e-3, "lr_enc": 1e-3},
        {},
        {"lr_pred": 1e-2, "mom_pred": 0.9},
        {"lr_enc": 1e-2, "weight_decay": 0.01, "pred_update_every": 3},
        {"ema_m": 0.9, "auto_alpha_c": 1.0, "auto_beta_c": 1.0},
    ],
)
@pytest.mark.parametrize("sampler", ["minibatch", "population"])
def test_two_hundred_steps_agree_to_1e_9(rates, sampler):
    """Every column of every epoch, at the default shape, for each kind of schedule."""
    assert_same_run(RunConfig(epochs=200, log_every=10, device="cpu", sampler=sampler, **rates), rtol=1e-9)


def test_single_precision_agrees_to_its_own_rounding():
    """200 steps of float32 on both backends: rounding of 6e-8 a step."""
    config = RunConfig(epochs=200, dtype="float32", device="cpu")
    numba, torch_ = (one_run(RunConfig(**(config.model_dump() | {"backend": name}))) for name in ("numba", "torch"))
    np.testing.assert_allclose(torch_.columns["loss_pop"], numba.columns["loss_pop"], rtol=1e-4)


@pytest.mark.parametrize("model", MLPS)
@pytest.mark.parametrize("shift", range(4))
def test_a_group_of_mlps_equals_groups_of_one(model, shift):
    """The same bits at every position of a group."""
    configs = [
        small(**MLPS[model], init="zero_pred", epochs=20, **rates)
        for rates in ({"lr_pred": 0.01, "lr_enc": 0.02}, {}, {"lr_pred": 1e3}, {"ema_m": 0.9})
    ]
    configs = configs[shift:] + configs[:shift]
    together = simulate_runs(configs)
    for config, record in zip(configs, together, strict=True):
        alone = one_run(config)
        assert record.status == alone.status == ("diverged" if config.lr_pred == 1e3 else "completed")
        for name in METRICS:
            np.testing.assert_array_equal(record.columns[name], alone.columns[name], err_msg=name)


@pytest.mark.parametrize("model", MLPS)
@pytest.mark.parametrize("init", ["zero_pred", "random"])
def test_batched_mlps_equal_one_autograd_loop_per_run(model, init):
    """The batched path against `torch.nn.functional.linear`, `backward` and `torch.optim.SGD`, run by run."""
    configs = [
        small(**MLPS[model], init=init, epochs=12, log_every=12, lr_pred=a, lr_enc=0.02, weight_decay=0.01)
        for a in (0.01, 0.03)
    ]
    world = World.from_config(configs[0])
    group = training.Group(configs, world, torch.device("cpu"))
    key = MinibatchKey(configs[0].seed, 5, world.d, world.r)
    rows = next(minibatch_blocks(key, 12))
    for t, row in enumerate(rows, start=1):
        group.step(t, torch.from_numpy(row))
    for k, config in enumerate(configs):
        encoder, predictor, target = plain_loop(config, world, rows, key)
        for stacked, plain in ((group.encoder, encoder), (group.predictor, predictor), (group.target, target)):
            for W_stacked, W in zip(stacked, plain, strict=True):
                torch.testing.assert_close(W_stacked[k].detach(), W.detach(), rtol=1e-11, atol=1e-13)


def plain_loop(config, world, rows, key):
    """One run as a user would write it."""
    activation = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[config.activation]

    def forward(layers, x):
        x = torch.nn.functional.linear(x, layers[0])
        return x if len(layers) == 1 else torch.nn.functional.linear(activation(x), layers[1])

    *online, slow_start = initial_layers(config, world)
    encoder, predictor = ([torch.tensor(W, requires_grad=True) for W in layers] for layers in online)
    target = [torch.tensor(W) for W in slow_start]
    decay = config.weight_decay
    optimisers = [
        torch.optim.SGD(predictor, lr=config.lr_pred, momentum=config.mom_pred, weight_decay=decay),
        torch.optim.SGD(encoder, lr=config.lr_enc, momentum=config.mom_enc, weight_decay=decay),
    ]
    for row in rows:
        z, e, e_plus = (torch.from_numpy(part.T.copy()) for part in split_draws(row, key))
        signal = (z * torch.tensor(np.sqrt(world.lam))) @ torch.tensor(world.A).T
        prediction = forward(predictor, forward(encoder, signal + world.sigma * e))
        with torch.no_grad():
            z_t = forward(target, signal + world.sigma * e_plus)
        loss = 0.5 * (prediction - z_t).square().sum(dim=1).mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(target, encoder, strict=True):
                slow.lerp_(fast, config.tau)
    return encoder, predictor, target


def linear_and_its_mlp():
    """A linear group, and the same functions written as MLPs with the identity for activation."""
    config = small(lr_pred=0.01, lr_enc=0.02)
    world = World.from_config(config)
    linear = training.Group([config], world, torch.device("cpu"))
    mlp_config = small(enc="mlp", pred="mlp", hidden=3, lr_pred=0.01, lr_enc=0.02)
    mlp = training.Group([mlp_config], world, torch.device("cpu"))
    mlp.activation = layers.ACTIVATIONS["identity"]
    mix = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    for part in ("encoder", "predictor"):
        (W,) = getattr(linear, part)
        first, second = getattr(mlp, part)
        first.data = (mix @ W.detach()).contiguous()
        second.data = mix.T.expand(1, 3, 3).clone()
    mlp.target = [W.detach().clone() for W in mlp.encoder]
    return world, linear, mlp


def test_an_mlp_with_identity_activation_is_the_linear_model():
    """Same loss, same features, and the chain rule ties the gradients: dL/dW_1 = W_2^T dL/dW, dL/dW_2 = dL/dW W_1^T."""
    world, linear, mlp = linear_and_its_mlp()
    key = MinibatchKey(1, 5, world.d, world.r)
    x, x_plus = (
        v.expand(1, -1, -1) for v in linear.world.views(torch.from_numpy(next(minibatch_blocks(key, 1))[0]), 5)
    )
    results = []
    for group in (linear, mlp):
        z_o = layers.apply(group.encoder, x, group.activation)
        residual = layers.apply(group.predictor, z_o, group.activation) - layers.apply(
            group.target, x_plus, group.activation
        )
        loss = 0.5 * residual.square().sum() / 5
        results.append((z_o, loss, torch.autograd.grad(loss, [*group.encoder, *group.predictor])))
    (z, loss, (g_B, g_P)), (z_mlp, loss_mlp, (g_1, g_2, h_1, h_2)) = results
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(z_mlp, z, **close)
    torch.testing.assert_close(loss_mlp, loss, **close)
    for first, second, whole, (W_1, W_2) in ((g_1, g_2, g_B, mlp.encoder), (h_1, h_2, g_P, mlp.predictor)):
        torch.testing.assert_close(first, W_2.mT @ whole, **close)
        torch.testing.assert_close(second, whole @ W_1.mT, **close)


def test_metrics_of_a_linear_function_are_found_by_the_linear_fit():
    """The encoder metrics of an identity-activation MLP equal those of the linear encoder that it is."""
    from byolsim.model.metrics import order_metrics, sampled_metrics

    world, linear, mlp = linear_and_its_mlp()
    columns = []
    for group, metrics in ((linear, order_metrics), (mlp, sampled_metrics)):
        log = snapshots.GroupLog(group, world)
        log.take(0)
        columns.append(metrics(log.block().order, world))
    exact, sampled = columns
    for name in ("BA_err_aligned", "enc_procrustes_fro", "enc_proj_dist"):
        # Least squares on 1024 views in 8 dimensions is exact for a linear function, up to rounding.
        np.testing.assert_allclose(sampled[name], exact[name], rtol=1e-10, err_msg=name)
    for name in ("loss_pop", "loss_rel", "erank_encoded", "erank_pred", "Hmax_exact"):
        # Sample values: relative errors of about sqrt(2 / 1024) = 4 %, for the fixed seed well below 5 of them.
        np.testing.assert_allclose(sampled[name], exact[name], rtol=0.2, err_msg=name)
    assert all(math.isnan(sampled[name][0, 0]) for name in OF_LINEAR_P)


@pytest.mark.parametrize("model", MLPS)
def test_an_mlp_run_has_every_column_that_has_a_meaning(model):
    record = one_run(small(**MLPS[model], init="zero_pred", lr_pred=0.02, lr_enc=0.02))
    null = {name for name in METRICS if np.isnan(record.columns[name][-1])}
    assert null == (set() if "pred" not in MLPS[model] else set(OF_LINEAR_P))
    assert not any(np.isinf(column).any() for column in record.columns.values())
    assert record.columns["loss_pop"][-1] < record.columns["loss_pop"][0]
    ranks = record.columns["erank_encoded"]
    assert ((ranks >= 1) & (ranks <= 3)).all()


def test_the_curvature_of_an_mlp_is_that_of_its_features():
    """A frozen encoder: H_t averages minibatch covariances, whose largest eigenvalue is near the sample's."""
    config = small(enc="mlp", pred="mlp", lr_pred=0.01, lr_enc=0.0, batch_size=500, epochs=400, log_every=400)
    record = one_run(config)
    assert record.columns["Hmax"][-1] == pytest.approx(record.columns["Hmax_exact"][-1], rel=0.1)


def test_initial_layers():
    config = RunConfig(enc="mlp", pred="mlp", hidden=400, d_obs=300, backend="torch", init="zero_pred")
    world = World.from_config(config)
    (W_1, W_2), (V_1, V_2), target = initial_layers(config, world)
    assert [W.shape for W in (W_1, W_2, V_1, V_2)] == [(400, 300), (10, 400), (400, 10), (10, 400)]
    # Standard deviations of 4,000 to 120,000 entries: 5 % is more than four standard errors.
    assert W_1.std() == pytest.approx(math.sqrt(2 / 300), rel=0.05)
    assert W_2.std() == pytest.approx(math.sqrt(1 / 400), rel=0.05)
    assert not V_2.any()
    assert all(np.array_equal(slow, fast) for slow, fast in zip(target, (W_1, W_2), strict=True))
    tanh = RunConfig(enc="mlp", activation="tanh", hidden=400, d_obs=300, backend="torch")
    assert initial_layers(tanh, world)[0][0].std() == pytest.approx(math.sqrt(1 / 300), rel=0.05)


def test_the_norm_by_squaring():
    """What CUDA uses for ||P||_2^2, against singular values, at P = 0 and with equal singular values too."""
    P = torch.randn(500, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    P[0] = 0
    P[1] = torch.eye(6)
    exact = torch.linalg.matrix_norm(P, 2).square()
    # 2^14 squarings leave a gap of g = 1 - s2^2/s1^2 a weight of exp(-2^14 g) and an error below g times that.
    torch.testing.assert_close(schedule.norm_squared_by_squaring(P), exact, rtol=1e-4 / 2, atol=0)
    assert (schedule.norm_squared_by_squaring(P) / exact - 1)[2:].abs().median() < 1e-14


def test_a_diverging_scheduled_run_counts_as_numba_does():
    """Clips stop counting where a run diverged, and what was handed over earlier does not change."""
    options = {"ema_m": 0.5, "auto_alpha_c": 30.0, "auto_beta_c": 30.0, "epochs": 60, "log_every": 1, "d_latent": 3}
    numba, torch_ = (one_run(small(backend=name, **options)) for name in ("numba", "torch"))
    assert numba.status == torch_.status == "diverged"
    assert numba.diverged_epoch == torch_.diverged_epoch
    assert numba.clips == torch_.clips


@pytest.mark.parametrize("model", MLPS)
def test_sampled_metrics_are_those_of_the_sample(model):
    """Loss, gap and curvature against NumPy on the same evaluation sample."""
    config = small(**MLPS[model], init="random")
    world = World.from_config(config)
    group = training.Group([config], world, torch.device("cpu"))
    group.step(1, torch.from_numpy(next(minibatch_blocks(MinibatchKey(42, 5, 8, 3), 1))[0]))
    log = snapshots.GroupLog(group, world)
    log.take(1)
    columns = log.block().order

    def numpy_of(layers, x):
        act = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "gelu": gelu}[config.activation]
        weights = [W[0].detach().numpy() for W in layers]
        return weights[0] @ x if len(weights) == 1 else weights[1] @ act(weights[0] @ x)

    x, x_plus = log.state.x.numpy(), log.state.x_plus.numpy()
    z_o, z_t = numpy_of(group.encoder, x), numpy_of(group.target, x_plus)
    loss = 0.5 * ((numpy_of(group.predictor, z_o) - z_t) ** 2).sum() / x.shape[1]
    assert columns.loss[0, 0] == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(columns.F[0, 0] @ columns.F[0, 0].T, z_o @ z_o.T / x.shape[1], atol=1e-12)
    gap = sum(((W - W_t) ** 2).sum().item() for W, W_t in zip(group.encoder, group.target, strict=True))
    assert columns.gap[0, 0] == pytest.approx(math.sqrt(gap), rel=1e-12)


def gelu(v):
    return 0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2)))


def test_an_mlp_without_noise_has_finite_metrics():
    record = one_run(small(**MLPS["both"], init="zero_pred", sigma_n=0.0, lr_pred=0.01, lr_enc=0.01))
    assert record.columns["enc_procrustes_fro"][-1] < 100
    assert not any(np.isinf(column).any() for column in record.columns.values())


def test_out_of_memory_halves_the_group(monkeypatch, tmp_path):
    config = SweepConfig(
        backend="torch", device="cpu", seeds=(1,), batch_sizes=(3,), d_latent=2, d_obs=4, latent_spectrum="flat:1",
        epochs=4, lr_pred_logspace=(1e-3, 1e-2, 3), tau_logspace=(1e-2, 1e-1, 2),
    )  # fmt: skip
    (group,) = tasks(expand(config), 1)
    sizes = []
    simulate = compute.simulate_group

    def small_memory(runs, progress, **ends):
        sizes.append(len(runs))
        if len(runs) > 3 or runs[0] == group[0]:
            raise GroupTooLarge(f"{len(runs)} runs do not fit")
        return simulate(runs, progress, **ends)

    monkeypatch.setattr(compute, "simulate_group", small_memory)
    outcomes = compute.compute_and_store(group, writing.Writer(tmp_path), lambda steps: None)
    assert sizes == [8, 4, 2, 1, 1, 2, 4, 2, 2]
    assert [outcome.status for outcome in outcomes] == ["failed"] + ["completed"] * 7
    assert outcomes[0].reason == "GroupTooLarge: 1 runs do not fit"


def test_cuda_out_of_memory_is_a_group_too_large(monkeypatch):
    from byolsim.backends.torch import backend

    with pytest.raises(GroupTooLarge, match="7 runs do not fit"), backend._memory(small(), 7):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.skipif(HAS_CUDA, reason="there is CUDA")
def test_without_cuda():
    backend = get_backend("torch")
    with pytest.raises(UserError, match="device = cuda is not there"):
        backend.resolve(RunConfig(device="cuda"))
    assert backend.resolve(RunConfig(enc="mlp")).device == "cpu"


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA")
def test_cuda_takes_the_steps_of_the_cpu():
    """Linear and MLP, double precision: other kernels sum in another order, so rounding differs."""
    for model in ({}, *MLPS.values()):
        config = small(**({"init": "zero_pred"} | model), epochs=50, lr_pred=0.01, backend="torch")
        cpu, cuda = (one_run(RunConfig(**(config.model_dump() | {"device": device}))) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(cuda.columns["loss_pop"], cpu.columns["loss_pop"], rtol=1e-8)


def test_groups_on_cuda_are_as_large_as_memory_allows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80 * 2**30, 80 * 2**30))
    backend = get_backend("torch")
    linear, mlp = (backend.group_limit(RunConfig(backend="torch", device="cuda", **m)) for m in ({}, {"enc": "mlp"}))
    assert linear > 4096
    assert 1024 < mlp < linear
    assert backend.group_limit(RunConfig(backend="torch", device="cpu")) == 64
