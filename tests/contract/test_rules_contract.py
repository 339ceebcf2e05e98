"""The contract of predictor rules, losses, depth, decays and schedules: the numba backend equals the plain one.

A run's method has parts for whose classes its kernels are compiled, and options that are read as it runs. Each part
stands in a method below, in every sampler, and Hypothesis draws the options, the world and where runs start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import one_run, small, trajectory
from comparing import assert_close, quantities
from configurations import answers_to_the_law, own, sampler_options, shared
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from byolsim.backends.numba import NumbaBackend
from byolsim.config.run import RunConfig
from byolsim.model.state import DIVERGENCE_BOUND
from byolsim.simulate import simulate_runs

SAMPLES = {"samples": "minibatch", "second-moments": "minibatch", "population": "population"}
SAMPLERS = SAMPLES | {"direct": "direct", "reduced": "reduced"}
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}
"""Of the largest value that a quantity had: twelve steps of a run that does not answer to its start (`is_steady`) leave
some 1e5 roundings of 2e-16, or 1e4 of 1e-7, in the worst of some thousand."""

NULL = st.none()


def _some(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([None, *values])


TIME = {
    "warmup": _some(3, 40),
    "lr_schedule": _some("cosine"),
    "weight_decay_pred": _some(0.05),
    "weight_decay_enc": _some(0.02),
}
SPECTRUM = {
    "pred_power": _some(1.0, 0.7, 2.0),
    "pred_eps": _some(0.0, 0.3),
    "pred_norm": _some("max"),
    "pred_corr_rate": _some(0.1, 1.0),
    "pred_every": _some(2, 3),
}
LEARNED: dict[str, Any] = {"pred_rule": st.just("learned")}
METHODS: dict[str, dict[str, Any]] = {
    "schedules": LEARNED | {"ema_schedule": _some("cosine")},
    "symmetric": LEARNED | {"pred_symmetric": st.just(True), "ema_schedule": _some("cosine")},
    "deep": LEARNED | {"enc_depth": st.integers(2, 4), "pred_jacobian": st.just("straight")},
    "deep identity": {"pred_rule": st.just("identity"), "enc_depth": st.integers(2, 3)},
    "optimal": {"pred_rule": st.just("optimal"), "pred_every": _some(2, 3)},
    "spectral": {"pred_rule": st.sampled_from(("directpred", "directcopy", "spectral")), **SPECTRUM},
    "BBT": {"pred_rule": st.sampled_from(("directpred", "spectral")), "pred_corr": st.just("BBT")},
    "open": LEARNED | {"stop_grad": st.booleans(), "symmetric_loss": _some(True), "pred_jacobian": _some("straight")},
    "deep open": {
        "pred_rule": st.sampled_from(("directpred", "directcopy")),
        "enc_depth": st.integers(2, 3),
        "stop_grad": st.booleans(),
        "symmetric_loss": st.just(True),
    },
}


@st.composite
def configurations(draw: Any, sampler: str, method: str, dtype: str) -> RunConfig:
    """Of any world and width; a run that is scheduled, decays or diverges among them."""
    options = draw(shared(SAMPLERS[sampler], general=True)) | draw(own(general=True))
    options |= {"dtype": dtype, **{name: draw(values) for name, values in (METHODS[method] | TIME).items()}}
    if sampler in ("samples", "second-moments"):
        options["batch_size"] = 60 if sampler == "second-moments" else draw(st.integers(1, 12))
    if options["pred_rule"] != "learned":
        options = {name: value for name, value in options.items() if name not in ("lr_pred", "auto_alpha_c")}
    if options.get("stop_grad") is False:
        options |= {"tau": 1.0, "target_init": None}
    if options["warmup"]:
        options["warmup"] = min(options["warmup"], options["epochs"])
    try:
        config = RunConfig(**options)
    except ValidationError:
        assume(False)
    assume(is_steady(config))
    return config


def is_steady(config: RunConfig) -> bool:
    """Whether the run stays where rounding decides nothing: see `answers_to_the_law`.

    A root of a rank that is not full magnifies roundings (P = F^(1/2) by 1e8), as do rules that divide by a spectrum.
    Near divergence the plain form may have no eigenvalues at all.
    """
    try:
        return answers_to_the_law(config)
    except np.linalg.LinAlgError:
        return False


def check(config: RunConfig) -> None:
    """Both backends' rows, clips and divergence."""
    plain, other = (trajectory(RunConfig(**(config.model_dump() | {"backend": name}))) for name in ("numpy", "numba"))
    for name in ("epochs", "valid", "diverged_epoch", "clips"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name), err_msg=name)
    assert_close(quantities(other), quantities(plain), TOLERANCE[config.dtype])


COVERED = {
    "samples": tuple(METHODS),
    "second-moments": ("deep", "spectral", "open"),
    "population": ("deep", "optimal", "deep open"),
    "direct": ("deep", "spectral", "optimal"),
    "reduced": tuple(name for name in METHODS if "open" not in name),
}
"""Encoders that are kept as they are share what a method does with them: of these one sampler has all methods, and the
others what they compute themselves. Each is compiled for itself, which takes some ten seconds."""

CASES = [
    pytest.param(sampler, method, dtype, marks=[pytest.mark.slow] * (dtype == "float32"))
    for sampler, methods in COVERED.items()
    for method in methods
    for dtype in ("float64", "float32")
]


@pytest.mark.parametrize(("sampler", "method", "dtype"), CASES)
def test_kernels_equal_the_plain_form(sampler: str, method: str, dtype: str) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(configurations(sampler, method, dtype))
    def holds(config: RunConfig) -> None:
        check(config)

    holds()


@pytest.mark.parametrize("sampler", ["samples", "reduced"])
def test_noise_limits_the_schedule_as_in_the_plain_form(sampler: str) -> None:
    """Small batches and a fast target: the limit binds at most steps, and where it does not, nothing changes."""
    options = sampler_options(SAMPLERS[sampler]) | {"auto_alpha_c": 1.0, "d_obs": 21, "init": "random", "device": "cpu"}
    for more in ({"d_latent": 3, "batch_size": 6, "ema_m": 0.3}, {"d_latent": 4, "batch_size": 40, "ema_m": 0.4}):
        config = RunConfig(**options, **more, epochs=30, log_every=1, mom_pred=0.9, auto_every=3)
        assert config.auto_noise_limit
        check(config)


@pytest.mark.parametrize("method", [{"pred_rule": "directpred", "enc_depth": 2}, {"pred_rule": "optimal"}])
@pytest.mark.parametrize("sampler", ["samples", "reduced"])
def test_a_run_has_its_bits_in_any_group(sampler: str, method: dict[str, Any]) -> None:
    """Work space is the group's: nothing of one run may be left in it for the next, one that diverged among them."""
    base = sampler_options(SAMPLERS[sampler]) | method | {"d_obs": 21, "epochs": 30, "backend": "numba"}
    rates = (
        {"lr_enc": 0.02},
        {"lr_enc": 1e4, "weight_decay_enc": 1.0},
        {"ema_schedule": "cosine", "lr_enc": 0.05},
        {"warmup": 10},
        {"tau": 0.3},
    )
    runs = [small(**(base | rate)) for rate in rates]
    alone = [one_run(config) for config in runs]
    assert alone[1].status == "diverged"
    for order in ([4, 3, 2, 1, 0], [2, 0, 1, 4, 3]):
        for index, record in zip(order, simulate_runs([runs[i] for i in order]), strict=True):
            for name, column in alone[index].columns.items():
                np.testing.assert_array_equal(record.columns[name], column, err_msg=name)


def test_divergence_is_that_of_any_layer() -> None:
    """An upper layer beyond the bound stops the run, though P and the first layer are small."""
    config = small(enc_depth=2, backend="numba", lr_enc=1e-3, lr_pred=1e-3)
    (record,) = simulate_runs([config])
    assert record.final is not None and record.final.upper is not None
    far = record.final._replace(upper=record.final.upper * (10 * DIVERGENCE_BOUND), B_o=0 * record.final.B_o)
    for backend in ("numpy", "numba"):
        (stopped,) = simulate_runs([RunConfig(**(config.model_dump() | {"backend": backend}))], initial=far)
        assert stopped.diverged_epoch == 1


@pytest.mark.parametrize("options", [{"enc_depth": 3, "pred_rule": "spectral"}, {"symmetric_loss": True}])
def test_the_tiny_run_is_of_the_same_kind(options: dict[str, Any]) -> None:
    """What is compiled for: two layers stand for any number of them."""
    tiny = NumbaBackend().tiny(RunConfig(**options, pred_power=2.0 if "pred_rule" in options else None))
    assert (tiny.enc_depth, tiny.pred_rule) == (
        2 if "enc_depth" in options else None,
        options.get("pred_rule", "learned"),
    )
    assert tiny.symmetric_loss == options.get("symmetric_loss")
