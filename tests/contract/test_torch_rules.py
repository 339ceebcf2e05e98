"""Torch, whose gradients come of the loss alone, with every rule, loss, depth, decay and schedule of linear models.

Against the plain form, in which they are formulas; `test_torch_mlps` has the same of MLPs.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from cases import HAS_TORCH, needs_torch, one_run
from comparing import errors
from configurations import SAMPLERS, sampler_options
from hypothesis import given, settings

from byolsim.backends import get_backend
from byolsim.config.run import RunConfig
from byolsim.model.metrics import METRICS
from byolsim.model.theory import mean_square_limit
from byolsim.model.world import World
from byolsim.simulate import simulate_runs

pytestmark = needs_torch
if HAS_TORCH:
    import torch

    from byolsim.backends.torch import schedule

TOLERANCE = {"float64": 1e-12, "float32": 1e-4}
"""In units of `comparing.sizes_of`. Twelve steps make some roundings, 1e-16 or 6e-8 each, of one: the worst of this
catalogue had 3e-15 and 2e-6. What is above that is room for other processors."""

BASE: dict[str, Any] = {
    "d_latent": 3,
    "d_obs": 24,
    "d_nuisance": 1,
    "correlation": "0.9,-0.4,0.6",
    "sigma_n_target": 0.3,
    "d_embed": 4,
    "batch_size": 9,
    "epochs": 12,
    "log_every": 2,
    "latent_spectrum": "geometric:0.5:4",
    "mixing": "gaussian",
    "init": "random",
    "device": "cpu",
    "mom_pred": 0.5,
    "mom_enc": 0.4,
    "lr_enc": 0.03,
    "weight_decay": 0.01,
}
LEARNED: dict[str, Any] = {"lr_pred": 0.05, "ema_m": 0.8}
KINDS: dict[str, dict[str, Any]] = {
    "symmetric P": LEARNED | {"pred_symmetric": True, "pred_update_every": 2},
    "identity": {"pred_rule": "identity", "ema_m": 0.8},
    "optimal": {"pred_rule": "optimal", "ema_m": 0.8, "d_embed": 3},
    "optimal, every third": {"pred_rule": "optimal", "ema_m": 0.8, "pred_every": 3, "d_embed": 2},
    "directpred": {"pred_rule": "directpred", "ema_m": 0.8},
    "directpred, by the maximum": {"pred_rule": "directpred", "ema_m": 0.8, "pred_norm": "max", "pred_power": 0.7},
    "directcopy": {"pred_rule": "directcopy", "ema_m": 0.8, "pred_corr_rate": 1.0, "lr_enc": 0.01},
    "spectral, of B": {"pred_rule": "spectral", "ema_m": 0.8, "pred_corr": "BBT", "pred_every": 2},
    "straight": LEARNED | {"pred_jacobian": "straight"},
    "deep": LEARNED | {"enc_depth": 3, "init_scale": 0.5, "target_init": "independent"},
    "deep and straight": {"pred_rule": "directpred", "ema_m": 0.8, "enc_depth": 2, "pred_jacobian": "straight"},
    "deep, its optimum": {"pred_rule": "optimal", "ema_m": 0.8, "enc_depth": 2, "d_embed": 3, "enc_update_every": 2},
    "decays": LEARNED | {"weight_decay_pred": 0.0, "weight_decay_enc": 0.2},
    "schedules": LEARNED | {"lr_schedule": "cosine", "warmup": 4, "ema_schedule": "cosine"},
    "automatic": {"auto_alpha_c": 3.0, "auto_beta_c": 5.0, "ema_m": 0.5, "enc_depth": 2, "auto_every": 3}
    | {"lr_enc": None, "ema_schedule": "cosine", "warmup": 3},
    "one encoder": {"lr_pred": 0.05, "stop_grad": False},
    "symmetric loss": LEARNED | {"symmetric_loss": True},
    "both views both ways": {"pred_rule": "directpred", "stop_grad": False, "symmetric_loss": True}
    | {"enc_depth": 2, "pred_jacobian": "straight", "lr_schedule": "cosine"},
}
"""What differs from `BASE`. `optimal` has no more rows than the views have latents in common: in the reduced form a P
of less than full rank would leave it to rounding which directions V_B spans, and so which draw is whose."""


def allowed(kind: str, sampler: str) -> bool:
    """The moments sampler draws what the online view alone needs."""
    return sampler in ("minibatch", "population") or {"stop_grad", "symmetric_loss"}.isdisjoint(KINDS[kind])


def run_of(kind: str, sampler: str, **options: Any) -> RunConfig:
    return RunConfig(**(BASE | KINDS[kind] | sampler_options(sampler) | options))


def blocks_of(backend: str, group: list[RunConfig]):
    """What a backend makes of a group; the plain one takes its runs by themselves in any case."""
    able = get_backend(backend)
    on = [able.resolve(RunConfig(**(config.model_dump() | {"backend": backend}))) for config in group]
    return [next(able.simulate(World.from_config(run), [run], lambda epochs: None)) for run in on]


def assert_equal(ours, plain, tolerance: float) -> None:
    for name in ("epochs", "valid", "diverged_epoch", "clips"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name), err_msg=name)
    for name, deviations in errors(ours, plain).items():
        np.testing.assert_array_less(deviations, tolerance, err_msg=name)


def cases() -> list[Any]:
    pairs = [(kind, sampler) for kind in KINDS for sampler in SAMPLERS if allowed(kind, sampler)]
    return [pytest.param(*pair, id=f"{pair[1]}-{pair[0]}") for pair in pairs]


@pytest.mark.parametrize(("kind", "sampler"), cases())
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_torch_equals_the_plain_form(kind, sampler, dtype):
    config = run_of(kind, sampler, dtype=dtype)
    (plain,), (ours,) = (blocks_of(name, [config]) for name in ("numpy", "torch"))
    assert plain.valid.all()
    assert_equal(ours, plain, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_makes_a_difference(kind):
    """Another run than the one without it: a test of equality is none of an option that both leave out."""
    own = {name: value for name, value in KINDS[kind].items() if name not in LEARNED}
    (with_it,) = blocks_of("torch", [run_of(kind, "population")])
    without = RunConfig(**(BASE | LEARNED | {name: v for name, v in own.items() if name in ("d_embed", "tau")}))
    (default,) = blocks_of("torch", [RunConfig(**(without.model_dump() | sampler_options("population")))])
    assert max(error.max() for error in errors(with_it, default).values()) > 1e-3


SPECTRAL = ("directpred", "directcopy", "spectral")
RATES = {"lr_enc": 0.02, "mom_pred": 0.5, "mom_enc": 0.3, "init": "random"}


@st.composite
def groups(draw: Any) -> list[RunConfig]:
    """Two runs of any rule, loss, Jacobian, depth and world, that differ in all that the runs of a group may."""
    sampler, rule = (
        draw(st.sampled_from(SAMPLERS)),
        draw(st.sampled_from(("learned", "identity", *SPECTRAL, "optimal"))),
    )
    r = draw(st.integers(1, 3))
    k = draw(st.integers(1, r if rule == "optimal" else r + 2))
    nuisance = draw(st.sampled_from((0, 2)))
    common: dict[str, Any] = sampler_options(sampler) | {
        "d_latent": r,
        "d_embed": k,
        "d_obs": r + nuisance + 4 * k + draw(st.integers(0, 3)),
        "d_nuisance": nuisance or None,
        "correlation": draw(st.sampled_from((None, "flat:0.6", "flat:-0.5"))),
        "sigma_n_target": draw(st.sampled_from((None, 0.0, 1.0))),
        "latent_spectrum": "geometric:0.5:3",
        "seed": draw(st.integers(0, 99)),
        # with fewer samples than rows C_oo is singular, and the roots of rounding errors around 0 are 1e-8
        "batch_size": k + draw(st.sampled_from((1, 4, 40))),
        "epochs": 5,
        "log_every": 1,
        "device": "cpu",
        "pred_rule": rule,
        "enc_depth": draw(st.integers(1, 3)),
        "pred_jacobian": draw(st.sampled_from((None, "straight"))),
        "enc_update_every": draw(st.integers(1, 2)),
        "auto_every": 2,
    }
    if rule == "learned":
        common |= {"pred_symmetric": draw(st.sampled_from((None, True))), "pred_update_every": draw(st.integers(1, 2))}
    elif rule in SPECTRAL:
        options = {"pred_norm": (None, "max"), "pred_power": (None, 1.3), "pred_eps": (None, 0.3), "pred_every": (1, 2)}
        common |= {name: draw(st.sampled_from(values)) for name, values in options.items()}
        common |= draw(st.sampled_from(({}, {"pred_corr": "BBT"}, {"pred_corr_rate": 0.6})))
    if sampler in ("minibatch", "population"):
        common |= {"stop_grad": draw(st.booleans()), "symmetric_loss": draw(st.sampled_from((None, True)))}
    return [RunConfig(**common, **draw(own(rule, common.get("stop_grad", True)))) for _ in range(2)]


@st.composite
def own(draw: Any, rule: str, stop_grad: bool) -> dict[str, Any]:
    """What the runs of a group may differ in."""
    values = RATES | {
        "weight_decay": draw(st.sampled_from((0.0, 0.03))),
        "weight_decay_enc": draw(st.sampled_from((None, 0.01))),
        "warmup": draw(st.sampled_from((None, 2, 5))),
        "lr_schedule": draw(st.sampled_from((None, "cosine"))),
        "init_scale": draw(st.sampled_from((None, 0.6))),
    }
    if stop_grad:
        values |= {"tau": draw(st.sampled_from((0.2, 0.9))), "ema_schedule": draw(st.sampled_from((None, "cosine")))}
        values["target_init"] = draw(st.sampled_from((None, "zero", "independent")))
    if rule == "learned":
        values["weight_decay_pred"] = draw(st.sampled_from((None, 0.2)))
        values |= draw(st.sampled_from(({"lr_pred": 0.02}, {"auto_alpha_c": 0.4}, {"auto_alpha_c": 30.0})))
    if draw(st.booleans()):
        values |= {"lr_enc": None, "auto_beta_c": draw(st.sampled_from((0.01, 0.3)))}
    return values


@settings(max_examples=60, deadline=None, derandomize=True)
@given(groups())
def test_a_group_equals_plain_runs_over_the_whole_space(group):
    """Five steps: rounding, which a P of small eigenvalues and rates near their limits enlarge, to 1e-9."""
    backend = get_backend("torch")
    (together,) = backend.simulate(World.from_config(group[0]), [on(run) for run in group], lambda epochs: None)
    for index, plain in enumerate(blocks_of("numpy", group)):
        assert_equal(run_in(together, index), plain, 1e-9)


def on(config: RunConfig) -> RunConfig:
    return RunConfig(**(config.model_dump() | {"backend": "torch"}))


def run_in(block, index: int):
    """The block of one run of a group."""
    one = slice(index, index + 1)
    order = replace(block.order, **{f.name: getattr(block.order, f.name)[one] for f in fields(block.order)})
    steps = {name: values[one] for name, values in block.steps.items()}
    cut = {name: getattr(block, name)[one] for name in ("valid", "diverged_epoch", "clips")}
    return replace(block, order=order, steps=steps, **cut)


@pytest.mark.parametrize(
    ("kind", "sampler", "dtype"),
    [
        ("directpred, by the maximum", "minibatch", "float64"),
        ("both views both ways", "population", "float32"),
        ("deep, its optimum", "direct", "float64"),
        ("deep and straight", "reduced", "float32"),
        ("automatic", "minibatch", "float64"),
    ],
)
def test_a_run_has_its_bits_beside_any_other(kind, sampler, dtype):
    """Also beside one that diverges, whose matrices no factorisation takes."""
    config = run_of(kind, sampler, dtype=dtype, backend="torch", weight_decay=0.0)
    others = [{"warmup": 3}, {"lr_schedule": "cosine"}, {"weight_decay_enc": 0.3}, {"lr_enc": 1e6, "auto_beta_c": 0.0}]
    if config.stop_grad:
        others += [{"ema_schedule": "cosine", "warmup": 5}, {"tau": 0.01}]
    runs = [config, *(RunConfig(**(config.model_dump() | own)) for own in others)]
    alone = [one_run(run) for run in runs]
    assert [record.status for record in alone] == ["completed"] * 4 + ["diverged"] + ["completed"] * (len(runs) - 5)
    for order in (list(range(len(runs))), [4, 2, 0, 3, 1]):
        for index, record in zip(order, simulate_runs([runs[i] for i in order]), strict=True):
            assert (record.status, record.clips) == (alone[index].status, alone[index].clips)
            for name in METRICS:
                np.testing.assert_array_equal(record.columns[name], alone[index].columns[name], err_msg=name)


@pytest.mark.parametrize("kind", ["deep", "directpred", "optimal", "both views both ways"])
def test_a_run_diverges_where_the_plain_one_does(kind):
    """At the first step after which one layer, or P, is out of bounds: they grow by far more than a rounding a step."""
    config = run_of(kind, "minibatch", lr_enc=10.0, epochs=40)
    (plain,), (ours,) = (blocks_of(name, [config]) for name in ("numpy", "torch"))
    assert 0 < plain.diverged_epoch[0] == ours.diverged_epoch[0]
    np.testing.assert_array_equal(ours.valid, plain.valid)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_deep_run_goes_on_as_one_longer_run(sampler, dtype):
    """To the last bit, with what rounding took from every layer of its target."""
    options = {"dtype": dtype, "backend": "torch", "log_every": 1, "ema_m": 0.999, "target_init": None}
    whole, first, second = (run_of("deep", sampler, **options, epochs=epochs) for epochs in (12, 5, 7))
    (expected,), (start,) = simulate_runs([whole]), simulate_runs([first])
    (rest,) = simulate_runs([second], initial=start.final)
    assert start.final.upper.shape == start.final.lost_upper.shape == (2, 4, 4)
    assert start.final.lost_upper.any() == (dtype == "float32")
    for name in ("loss_pop", "gap", "lr_enc_t"):
        np.testing.assert_array_equal(rest.columns[name], expected.columns[name][5:], err_msg=name)
    assert rest.final.arrays().keys() == expected.final.arrays().keys()
    for name, value in expected.final.arrays().items():
        np.testing.assert_array_equal(rest.final.arrays()[name], value, err_msg=name)


def test_the_limit_in_mean_square_is_that_of_theory():
    """Both bisect 50 times: to the last digits; infinite without features."""
    rng = np.random.default_rng(3)
    c, mu = rng.exponential(size=(7, 4)) * 10.0 ** rng.integers(-3, 3, size=(7, 1)), rng.uniform(0, 0.99, size=7)
    c[0], c[1, 1:] = 0, 0
    for n in (1, 5, 500):
        ours = schedule.mean_square_limit(torch.tensor(c), n, torch.tensor(mu)).numpy()
        assert ours[0] == np.inf
        theory = [mean_square_limit(row, n, m) for row, m in zip(c, mu, strict=True)]
        np.testing.assert_allclose(ours, theory, rtol=1e-13)
