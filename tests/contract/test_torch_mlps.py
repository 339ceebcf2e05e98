"""What MLPs have of losses, decays, schedules and rules, against loops that a user would write with torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import HAS_TORCH, needs_torch, one_run, small

from byolsim.config.run import RunConfig
from byolsim.draws.streams import minibatch_blocks, split_draws
from byolsim.model.encoder import initial_layers
from byolsim.model.samplers import view_key
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

pytestmark = needs_torch
if HAS_TORCH:
    import torch

    from byolsim.backends.torch import training

MODELS: dict[str, dict[str, Any]] = {
    "encoder": {"enc": "mlp", "hidden": 6},
    "predictor": {"pred": "mlp", "hidden": 6, "activation": "tanh"},
    "both": {"enc": "mlp", "pred": "mlp", "hidden": 7, "activation": "gelu"},
}
LOSSES: dict[str, dict[str, Any]] = {
    "one way": {"ema_m": 0.8},
    "symmetric": {"symmetric_loss": True, "ema_m": 0.8},
    "one encoder": {"stop_grad": False},
    "one encoder, symmetric": {"stop_grad": False, "symmetric_loss": True},
    "schedules": {"lr_schedule": "cosine", "warmup": 4, "ema_schedule": "cosine", "ema_m": 0.8},
    "decays": {"weight_decay": 0.1, "weight_decay_enc": 0.02, "weight_decay_pred": 0.0, "ema_m": 0.8},
    "target": {"target_init": "independent", "ema_m": 0.8},
}


class Loop:
    """One run by `torch.nn.functional.linear`, `backward` and `torch.optim.SGD`; samples are rows."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config, self.world, self.key = config, world, view_key(config, config.batch_size)
        encoder, predictor, target = initial_layers(config, world)
        self.encoder, self.predictor = (
            [torch.tensor(W, requires_grad=True) for W in layers] for layers in (encoder, predictor)
        )
        self.target = [torch.tensor(W) for W in target] if config.stop_grad else self.encoder
        self.optimisers = [
            torch.optim.SGD(layers, lr=1.0, momentum=mu, weight_decay=eta)
            for layers, mu, eta in (
                (self.predictor, config.mom_pred, config.eta_P),
                (self.encoder, config.mom_enc, config.eta_B),
            )
        ]

    def forward(self, layers, x):
        activations = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}
        first, *second = layers
        x = torch.nn.functional.linear(x, first)
        return torch.nn.functional.linear(activations[self.config.activation](x), *second) if second else x

    def one_way(self, x, x_plus):
        prediction = self.forward(self.predictor, self.forward(self.encoder, x))
        return 0.5 * (prediction - self.forward(self.target, x_plus)).square().sum(dim=1).mean()

    def step(self, t: int, row: np.ndarray) -> float:
        config, world, T = self.config, self.world, self.config.epochs
        z, e, e_plus = (torch.from_numpy(part.T.copy()) for part in split_draws(row, self.key))
        signal = (z * torch.tensor(np.sqrt(world.lam))) @ torch.tensor(world.A).T
        x, x_plus = signal + world.sigma * e, signal + world.noise_plus * e_plus
        loss = self.one_way(x, x_plus)
        if config.symmetric_loss:
            loss = (loss + self.one_way(x_plus, x)) / 2
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        w = config.warmup or 0
        factor = t / w if t <= w else (1 + math.cos(math.pi * (t - w) / (T - w))) / 2 if config.lr_schedule else 1.0
        for optimiser, rate in zip(self.optimisers, (config.lr_pred, config.lr_enc), strict=True):
            optimiser.param_groups[0]["lr"] = factor * rate
            optimiser.step()
        if config.stop_grad:
            tau = config.tau * ((1 + math.cos(math.pi * t / T)) / 2 if config.ema_schedule else 1.0)
            with torch.no_grad():
                for slow, fast in zip(self.target, self.encoder, strict=True):
                    slow.lerp_(fast, tau)
        return float(loss.detach())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", LOSSES)
def test_a_group_of_mlps_is_a_loop_for_each_run(kind, model):
    """Twelve steps of two runs that differ in all that a schedule or a decay may; the loss of every step."""
    values = MODELS[model] | LOSSES[kind] | {"epochs": 12, "lr_pred": 0.03, "lr_enc": 0.02, "sigma_n_target": 0.2}
    configs = [small(**values), small(**(values | {"warmup": 5, "weight_decay_pred": 0.3}))]
    world = World.from_config(configs[0])
    group, loops = training.Group(configs, world, torch.device("cpu")), [Loop(config, world) for config in configs]
    for t, row in enumerate(next(minibatch_blocks(loops[0].key, 12)), start=1):
        group.step(t, torch.from_numpy(row))
        for k, loop in enumerate(loops):
            assert group.loss[k].item() == pytest.approx(loop.step(t, row), rel=1e-11)
    for k, loop in enumerate(loops):
        parts = ((group.encoder, loop.encoder), (group.predictor, loop.predictor), (group.target, loop.target))
        for stacked, plain in parts:
            for W_stacked, W in zip(stacked, plain, strict=True):
                torch.testing.assert_close(W_stacked[k].detach(), W.detach(), rtol=1e-10, atol=1e-12)
    # and not the numbers of the loss of one view, one target and constant rates
    without = {name: value for name, value in values.items() if name not in LOSSES[kind]}
    other = Loop(small(**without, ema_m=0.8), world)
    for t, row in enumerate(next(minibatch_blocks(other.key, 12)), start=1):
        other.step(t, row)
    change = max(
        (W_stacked[0] - W).abs().max().item() for W_stacked, W in zip(group.encoder, other.encoder, strict=True)
    )
    assert (change > 1e-4) == (kind != "one way")


@pytest.mark.parametrize("rule", ["directpred", "directcopy", "spectral"])
def test_a_spectral_rule_sets_a_linear_predictor_from_the_features_of_an_mlp(rule):
    """P of every step from F = the average of its minibatches' (1/n) Z Z^T, in NumPy; P takes no step of its own."""
    config = small(enc="mlp", hidden=6, pred_rule=rule, lr_enc=0.05, epochs=6, ema_m=0.9, batch_size=7)
    world, key = World.from_config(config), view_key(config, 7)
    group, F = training.Group([config], world, torch.device("cpu")), None
    power, eps = {"directpred": (0.5, 0.1), "directcopy": (1.0, 0.0), "spectral": (0.5, 0.0)}[rule]
    for t, row in enumerate(next(minibatch_blocks(key, 6)), start=1):
        W_1, W_2 = (W[0].detach().numpy().copy() for W in group.encoder)
        x, _ = (view.numpy() for view in group.world.views(torch.from_numpy(row), 7))
        Z = W_2 @ np.maximum(W_1 @ x, 0)
        F = Z @ Z.T / 7 if F is None else 0.7 * F + 0.3 * Z @ Z.T / 7
        s, U = np.linalg.eigh(F)
        expected = U @ np.diag(np.maximum(s, 0) ** power + eps * s[-1]) @ U.T
        group.step(t, torch.from_numpy(row))
        np.testing.assert_allclose(group.predictor[0][0].detach().numpy(), expected, rtol=0, atol=1e-12)
        assert not np.array_equal(W_1, group.encoder[0][0].detach().numpy())
    assert not group.V_pred[0].any()
    record = one_run(config)
    assert record.status == "completed"
    assert record.columns["loss_pop"][-1] < record.columns["loss_pop"][0]


def test_a_linear_predictor_of_an_mlp_stays_symmetric_or_the_identity():
    symmetric, identity = (
        training.Group([config], World.from_config(config), torch.device("cpu"))
        for config in (
            small(enc="mlp", pred_symmetric=True, lr_pred=0.1, lr_enc=0.02),
            small(enc="mlp", pred_rule="identity", lr_enc=0.02),
        )
    )
    for t, row in enumerate(next(minibatch_blocks(view_key(symmetric.config, 5), 6)), start=1):
        for group in (symmetric, identity):
            group.step(t, torch.from_numpy(row))
    P = symmetric.predictor[0].detach()
    assert torch.equal(P, P.mT) and (symmetric.V_pred[0] - symmetric.V_pred[0].mT).abs().max() > 1e-3
    assert torch.equal(identity.predictor[0][0].detach(), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("model", MODELS)
def test_a_run_has_its_bits_beside_others(model):
    """Every schedule and decay in one group, and a run that diverges."""
    others: list[dict[str, Any]] = [
        {"warmup": 3}, {"lr_schedule": "cosine"}, {"ema_schedule": "cosine", "warmup": 2}, {"weight_decay_enc": 0.2},
        {"lr_enc": 1e6, "weight_decay_enc": 10.0},
    ]  # fmt: skip
    rule = {"pred_rule": "directpred", "pred_power": 0.7} if model == "encoder" else {"lr_pred": 0.02}
    values = MODELS[model] | rule | {"lr_enc": 0.02, "ema_m": 0.9, "symmetric_loss": True, "epochs": 15}
    runs = [small(**(values | own)) for own in ({}, *others)]
    alone = [one_run(run) for run in runs]
    assert alone[-1].status == "diverged"
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4]):
        for index, record in zip(order, simulate_runs([runs[i] for i in order]), strict=True):
            assert record.status == alone[index].status
            for name, column in record.columns.items():
                np.testing.assert_array_equal(column, alone[index].columns[name], err_msg=name)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"enc": "mlp", "enc_depth": 2}, "enc_depth = 2 needs linear models: with an MLP use enc"),
        ({"pred": "mlp", "enc_depth": 3}, "enc_depth = 3 needs linear models: with an MLP use enc"),
        (
            {"pred": "mlp", "pred_rule": "directpred"},
            "pred_rule = 'directpred' needs linear models: with an MLP use pred",
        ),
        (
            {"pred": "mlp", "pred_rule": "identity"},
            "pred_rule = 'identity' needs linear models: with an MLP use pred",
        ),
        ({"enc": "mlp", "pred_rule": "optimal"}, "needs linear models: with an MLP use"),
        ({"enc": "mlp", "pred_rule": "directpred", "pred_corr": "BBT"}, "needs linear models: with an MLP use"),
        ({"pred": "mlp", "pred_symmetric": True}, "needs linear models: with an MLP use"),
        ({"enc": "mlp", "pred_jacobian": "straight"}, "pred_jacobian = 'straight' needs linear models"),
        ({"pred": "mlp", "pred_jacobian": "straight"}, "pred_jacobian = 'straight' needs linear models"),
        ({"enc": "mlp", "sampler": "moments"}, "needs linear models"),
        ({"enc": "mlp", "sampler": "population"}, "needs linear models"),
    ],
)
def test_what_an_mlp_has_not_is_refused_in_one_line(options, line):
    with pytest.raises(ValueError, match=line):
        RunConfig(**options)
