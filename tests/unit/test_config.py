"""Configurations: strict, resolved once, identified by what determines the numbers."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from byolsim.config import run as config_module
from byolsim.config.commands import FigsConfig, RunOutput, SweepOutput
from byolsim.config.describe import first_error
from byolsim.config.grid import SweepConfig, expand, logspace
from byolsim.config.parsing import tau_from_ema_m
from byolsim.config.run import RunConfig
from byolsim.sweeps.grid import tasks

MODELS = (RunConfig, SweepConfig, RunOutput, SweepOutput, FigsConfig)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_help(model):
    for name, field in model.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (None, None, 0.4, 0.4)),
        ({"lr_pred": 0.01}, (0.01, None, 0.0, 0.4)),
        ({"lr_enc": 0.01}, (None, 0.01, 0.4, 0.0)),
        ({"lr_pred": 0.01, "auto_alpha_c": 0.2}, (None, None, 0.2, 0.4)),
        ({"auto_alpha_c": 0.0}, (1e-3, None, 0.0, 0.4)),
        ({"auto_beta_c": 0}, (None, 1e-3, 0.4, 0.0)),
        ({"lr_pred": 0.0, "lr_enc": 0}, (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_rates_and_schedule_are_resolved_once(values, expected):
    config = RunConfig(**values)
    assert (config.lr_pred, config.lr_enc, config.auto_alpha_c, config.auto_beta_c) == expected
    assert RunConfig(**json.loads(config.to_json())) == config


def test_an_unused_rate_is_not_part_of_the_identity():
    assert RunConfig(lr_pred=0.5, auto_alpha_c=0.4).run_id == RunConfig().run_id
    assert RunConfig(lr_pred=0.5).run_id != RunConfig().run_id


@pytest.mark.parametrize("tau", [1e-4, 1e-3, 0.05, 0.1, 1.0, 1e-9])
def test_tau_and_ema_m_are_one_number(tau):
    m = float(1 - Decimal(repr(tau)))
    assert RunConfig(ema_m=m) == RunConfig(tau=tau)
    assert RunConfig(ema_m=m).run_id == RunConfig(tau=tau).run_id
    assert RunConfig(tau=tau).ema_m == m
    assert 1 - 0.9999 != 1e-4 == tau_from_ema_m(0.9999)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "batch_size": st.integers(1, 10**6),
            "lr_pred": st.floats(0, 10),
            "lr_enc": st.floats(0, 10),
            "auto_alpha_c": st.floats(0, 10),
            "tau": st.floats(0, 1),
            "sigma_n": st.floats(0, 10),
            "mom_pred": st.floats(0, 1, exclude_max=True),
            "latent_spectrum": st.sampled_from(["flat:2", "linear:1:3", "geometric:0.10:1e1"]),
            "dtype": st.sampled_from(["float64", "float32"]),
        },
    )
)
def test_json_round_trip_keeps_the_configuration_and_its_id(values):
    config = RunConfig(**values)
    again = RunConfig(**json.loads(config.to_json()))
    assert again == config
    assert again.run_id == config.run_id


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"lr_pred": "1e-3"}, "lr_pred = '1e-3' (text) is not allowed: must be a number >= 0 and <= 1000000"),
        ({"epochs": True}, "epochs = True is not allowed: must be a whole number >= 1 and <= 1e+12"),
        ({"epochs": 10.0}, "epochs = 10.0 is not allowed: must be a whole number >= 1 and <= 1e+12"),
        ({"lr_pred": True}, "lr_pred = True is not allowed: must be a number >= 0 and <= 1000000"),
        ({"sigma_n": float("nan")}, "sigma_n = nan is not allowed: must be a number >= 0 and <= 1000000"),
        ({"lr_enc": float("inf")}, "lr_enc = inf is not allowed: must be a number >= 0 and <= 1000000"),
        ({"mom_pred": 1.0}, "mom_pred = 1.0 is not allowed: must be a number >= 0 and < 1"),
        ({"ema_m": 1.5}, "ema_m = 1.5 is not allowed: must be a number >= 0 and <= 1"),
        ({"ema_m": "0.9"}, "ema_m = '0.9' (text) is not allowed: must be a number >= 0 and <= 1"),
        ({"ema_m": True}, "ema_m = True is not allowed: must be a number >= 0 and <= 1"),
        ({"stop_grad": 1}, "stop_grad = 1 is not allowed: must be true or false"),
        ({"init": "zeros"}, "init = 'zeros' is not allowed: must be one of zero_pred, random, pinv, modes"),
        ({"d_obs": 3}, "d_obs = 3 is less than d_latent = 10: must be d_obs >= d_latent"),
        ({"d_embed": 0}, "d_embed = 0 is not allowed: must be a whole number >= 1 and <= 10000"),
        ({"d_embed": 101}, "d_embed = 101 is more than d_obs = 100: must be d_embed <= d_obs"),
        (
            {"d_embed": 3, "init": "pinv"},
            "init = 'pinv' needs a mixing matrix and d_embed = d_latent: use init = 'modes'",
        ),
        ({"d_nuisance": 91}, "d_obs = 100 is less than d_latent + d_nuisance = 10 + 91: must be as large"),
        ({"nuisance_spectrum": "flat:2"}, "nuisance_spectrum = 'flat:2' applies with d_nuisance only"),
        (
            {"d_nuisance": 2, "nuisance_spectrum": "1"},
            "nuisance_spectrum = '1' lists 1 numbers: must be d_nuisance = 2",
        ),
        ({"correlation": "1,0.5"}, "correlation = '1,0.5' lists 2 numbers: must be d_latent = 10"),
        ({"sigma_n_target": -0.5}, "sigma_n_target = -0.5 is not allowed: must be a number >= 0 and <= 1000000"),
        ({"init_scale": -1.0}, "init_scale = -1.0 is not allowed: must be a number >= 0 and <= 1000000"),
        ({"target_init": "none"}, "target_init = 'none' is not allowed: must be one of copy, zero, independent"),
        (
            {"sampler": "moments", "moments_form": "reduced", "d_embed": 23},
            "moments_form = 'reduced' needs d_obs >= 10 + 4 d_embed = 102: with d_obs = 100 use moments_form = "
            "'direct'",
        ),
        ({"latent_spectrum": "1,2"}, "latent_spectrum = '2,1' lists 2 numbers: must be d_latent = 10"),
        ({"hidden": 3}, "hidden = 3 applies to enc or pred = mlp only"),
        ({"moments_form": "direct"}, "moments_form = 'direct' applies to sampler = moments only"),
        (
            {"enc": "mlp", "sampler": "moments"},
            "sampler = 'moments' needs linear models: with an MLP use sampler = 'minibatch'",
        ),
        ({"ema_m": 0.9, "tau": 0.1}, "ema_m and tau are one number: give one of them"),
        ({"tau": 0.1, "epoch": 3}, "epoch: Extra inputs are not permitted"),
        ({"epochs": None}, "epochs = None is not allowed: must be a whole number >= 1 and <= 1e+12"),
    ],
)
def test_bad_values_get_one_line(values, line):
    with pytest.raises(ValidationError) as error:
        RunConfig(**values)
    assert first_error(error.value, (RunConfig,)) == line


@pytest.mark.parametrize(
    "spectrum", ["flat", "flat:0", "flat:-1", "flat:nan", "cubic:1:2", "geometric:1", "", "a,b", 3]
)
def test_bad_spectra_are_refused(spectrum):
    with pytest.raises(ValidationError) as error:
        RunConfig(latent_spectrum=spectrum)
    line = first_error(error.value, (RunConfig,))
    assert line.startswith("latent_spectrum = ")
    assert "geometric:LO:HI, linear:LO:HI, flat:V or d_latent numbers > 0" in line


def test_spectra_are_canonical():
    assert RunConfig(latent_spectrum="geometric:0.10:10.0").run_id == RunConfig().run_id
    assert RunConfig(d_latent=3, latent_spectrum=[1, 3.0, 2]).latent_spectrum == "3,2,1"


def test_identity_leaves_out_what_does_not_determine_numbers_and_keeps_the_rest():
    ids = [
        RunConfig(**values).run_id
        for values in (
            {}, {"seed": 1}, {"log_every": 5}, {"dtype": "float32"}, {"lr_enc_mode": "auto"}, {"epochs": 2001},
            {"sampler": "population"}, {"mom_pred": 0.9}, {"tau": 0.5}, {"auto_every": 5}, {"init": "pinv"},
        )
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 12 and int(i, 16) >= 0 for i in ids)
    assert RunConfig(backend="numba", device="cpu").run_id == RunConfig().run_id
    assert RunConfig(backend="numpy").run_id != RunConfig().run_id
    assert RunConfig(backend="numpy", device="cpu").run_id == RunConfig(backend="numpy").run_id
    assert RunConfig(epochs=7, seed=3).run_id == RunConfig(seed=3, epochs=7).run_id


def test_ids_of_stored_runs_stay(monkeypatch):
    """What a version's files are named by: options come and go, the fields that they set stay in the hash."""
    monkeypatch.setattr(config_module, "NUMERICS_VERSION", 2)
    assert RunConfig().run_id == "d0ae11bc0ec2"
    assert RunConfig(lr_pred=0.5, tau=0.25, d_latent=2, latent_spectrum=[1, 2], init="random").run_id == "52abc6195435"


def test_the_id_of_the_defaults():
    assert RunConfig().run_id == "0903ba03e59a"


@pytest.mark.parametrize(
    ("given", "without"),
    [
        ({"d_embed": 10}, {}),
        ({"d_embed": 3, "d_latent": 3}, {"d_latent": 3}),
        ({"correlation": "flat:1"}, {}),
        ({"correlation": "linear:1:1.0"}, {}),
        ({"d_latent": 2, "correlation": [1, 1.0]}, {"d_latent": 2}),
        ({"sigma_n_target": 0.5}, {}),
        ({"sigma_n_target": -0.0, "sigma_n": 0.0}, {"sigma_n": 0.0}),
        ({"init_scale": 1.0, "init_pred_scale": 1}, {}),
        ({"target_init": "copy"}, {}),
        ({"d_nuisance": 2, "nuisance_spectrum": "flat:1.0"}, {"d_nuisance": 2}),
        ({"world": None, "world_id": None, "d_nuisance": None, "correlation": None}, {}),
    ],
)
def test_a_default_that_is_given_is_the_default(given, without):
    """Of one configuration there is one form, and one id."""
    assert RunConfig(**given) == RunConfig(**without)
    assert RunConfig(**given).run_id == RunConfig(**without).run_id


def test_what_is_new_is_part_of_the_id_where_it_is_given():
    ids = [
        RunConfig(**values).run_id
        for values in (
            {}, {"d_embed": 3},
            {"correlation": "flat:0.5"}, {"correlation": "linear:1:0"}, {"correlation": "linear:0:1"},
            {"sigma_n_target": 0.0}, {"d_nuisance": 2}, {"d_nuisance": 2, "nuisance_spectrum": "flat:2"},
            {"init": "modes"}, {"init_scale": 0.5}, {"init_pred_scale": 0.5}, {"target_init": "zero"},
            {"target_init": "independent"},
        )
    ]  # fmt: skip
    assert len(set(ids)) == len(ids)
    assert RunConfig(correlation="linear:1:-0.5").correlation == "linear:1:-0.5", "in the order of the latents"
    assert RunConfig(d_latent=3, correlation=[0.5, -1, 1]).correlation == "0.5,-1,1"
    assert RunConfig(correlation="flat:-0").run_id == RunConfig(correlation="flat:0").run_id


@pytest.mark.parametrize("correlation", ["flat:1.1", "flat:-1.1", "geometric:0.1:1", "flat:nan", "linear:1", "", 1])
def test_bad_correlations_are_refused(correlation):
    with pytest.raises(ValidationError) as error:
        RunConfig(correlation=correlation)
    assert first_error(error.value, (RunConfig,)).endswith(
        "must be flat:V, linear:FIRST:LAST or d_latent numbers, all >= -1 and <= 1"
    )


@pytest.mark.parametrize("name", ["latent_spectrum", "mixing"])
def test_what_only_a_world_file_leaves_out_is_asked_for(name):
    with pytest.raises(ValueError, match=f"{name} = None belongs to a world file"):
        RunConfig(**{name: None})


def test_room_for_the_reduced_form():
    """d - q >= 4k, whatever k and q are."""
    for shape, form in (
        ({}, "reduced"), ({"d_embed": 22}, "reduced"), ({"d_embed": 23}, "direct"), ({"d_nuisance": 50}, "reduced"),
        ({"d_nuisance": 51}, "direct"), ({"d_nuisance": 82, "d_embed": 2}, "reduced"), ({"d_obs": 49}, "direct"),
    ):  # fmt: skip
        assert RunConfig(sampler="moments", **shape).moments_form == form, shape


def test_identity_holds_the_versions(monkeypatch):
    before = RunConfig().run_id
    for name in ("NUMERICS_VERSION", "SCHEMA_VERSION"):
        monkeypatch.setattr(config_module, name, 99)
        assert RunConfig().run_id != before
        monkeypatch.undo()
    assert RunConfig(sigma_n=-0.0).run_id == RunConfig(sigma_n=0.0).run_id
    assert RunConfig(latent_spectrum="geometric:10:0.1").run_id == before


def test_configurations_are_immutable():
    with pytest.raises(ValidationError):
        RunConfig().seed = 3


def test_grid_points_are_the_decimals_that_a_person_types():
    assert logspace(1e-5, 1e-2, 4) == [1e-05, 0.0001, 0.001, 0.01]
    assert logspace(1e-4, 1e-1, 4) == [0.0001, 0.001, 0.01, 0.1]
    assert logspace(3e-4, 1.0, 1) == [3e-4]
    ratio = SweepConfig(lr_enc_mode="ratio")
    assert {run.lr_enc for run in expand(ratio)} == {4e-06, 4e-05, 0.0004, 0.004}


def test_default_sweep_is_80_runs_in_4_groups():
    runs = expand(SweepConfig())
    assert len(runs) == len({run.run_id for run in runs}) == 80
    assert sum(run.lr_pred is None for run in runs) == 16
    assert all(run.lr_enc is None and run.lr_enc_mode == "auto" and run.mom_pred == 0.9 for run in runs)
    assert [len(group) for group in tasks(runs, 2)] == [20] * 4
    split = tasks(runs, 8)
    assert len(split) >= 8
    assert {run.run_id for group in split for run in group} == {run.run_id for run in runs}
    momenta = {"mom_pred": 0.9, "mom_enc": 0.9, "log_spectra": False}
    assert RunConfig(tau=1e-4, lr_pred=1e-5, auto_beta_c=0.4, lr_enc_mode="auto", **momenta) in runs


@pytest.mark.parametrize(
    ("mode", "count", "rule"),
    [
        ("same", 64, lambda run: run.lr_enc == run.lr_pred),
        ("ratio", 64, lambda run: run.lr_enc == pytest.approx(0.4 * run.lr_pred, rel=1e-12)),
        ("from_tau", 64, lambda run: run.lr_enc == pytest.approx(0.4 * run.tau, rel=1e-12)),
        ("logspace", 384, lambda run: run.lr_enc is not None),
    ],
)
def test_modes_of_the_sweep(mode, count, rule):
    runs = expand(SweepConfig(lr_enc_mode=mode))
    assert len(runs) == count
    assert all(run.auto_alpha_c == run.auto_beta_c == 0 and rule(run) for run in runs)


def test_auto_mode_without_the_auto_column():
    assert len(expand(SweepConfig(auto_alpha_c=0.0))) == 64
    with pytest.raises(ValidationError, match="auto_beta_c = 0"):
        SweepConfig(auto_beta_c=0.0)


@pytest.mark.parametrize(
    "values", [{"seeds": (1, 1)}, {"seeds": ()}, {"tau_logspace": (0.1, 2.0, 3)}, {"lr_pred_logspace": (0.0, 1.0, 3)}]
)
def test_bad_grids_are_refused(values):
    with pytest.raises(ValidationError):
        SweepConfig(**values)
