"""The contract: every backend equals the plain one, and the plain one torch's autograd and the oracle.

Configurations are random over the whole option space of linear models (`configurations`), the same on every run of the
tests. Errors are measured against the largest value that a quantity had so far (at least 1), since the terms that make
up a small value are of that size; those of the gap against the encoders, whose distance it is.
"""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np
import pytest
from cases import BACKENDS, one_run, oracle_rows, small, trajectory
from comparing import assert_close, quantities
from configurations import (
    SAMPLERS,
    answers_to_the_law,
    configurations,
    moment_world,
    own,
    sampler_options,
    shared,
    start_of_a_run,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from byolsim.backends import get_backend
from byolsim.backends.base import ABILITIES, OPTIONS
from byolsim.backends.plain.backend import advance, rules_of, start_of
from byolsim.backends.plain.samplers import sampler_class
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model import samplers
from byolsim.model.metrics import METRICS
from byolsim.model.order import inside_outside
from byolsim.model.predictor import PREDICTOR_RULES
from byolsim.model.start import check_start
from byolsim.model.target import towards
from byolsim.model.world import World
from byolsim.simulate import simulate_runs, warm_up
from byolsim.sweeps.plan import plan_sweep

OTHERS = [backend for backend in BACKENDS if backend != "numpy"]
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
"""Twelve steps leave a median of one rounding, 2e-16 or 1e-7. A run that diverges cubes its parameters in a step, which
triples a relative error, and an encoder near collapse has a condition number of its own: the worst of 5,000
configurations had 2e5 roundings in double precision and 1e3 in single."""


def property_of(examples):
    """Hypothesis with the same examples on every run; the first one of a kind may have to compile."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


def on(backend, config):
    return RunConfig(**(config.model_dump() | {"backend": backend}))


def test_the_catalogues_have_the_same_names():
    """Of the model, of the plain backend and of every other, and what each says that it can run."""
    assert set(ABILITIES) == {"numpy", "numba", "torch"}
    for name in ABILITIES:
        for option in OPTIONS:
            values = {"sampler": set(samplers.SAMPLERS), "pred_rule": set(PREDICTOR_RULES)}.get(option)
            assert values is None or set(getattr(ABILITIES[name], option)) <= values


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_has_what_it_says(backend):
    home = {"numpy": "plain"}.get(backend, backend)
    offered = import_module(f"byolsim.backends.{home}.samplers").SAMPLERS
    assert tuple(offered) == ABILITIES[backend].sampler
    rules = PREDICTOR_RULES
    if backend != "numpy":
        module = import_module(f"byolsim.backends.{home}.rules")
        rules = module.RULES if backend == "numba" else module.PREDICTOR_RULES
    assert tuple(rules) == ABILITIES[backend].pred_rule


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"enc": "mlp", "backend": "numba"},
            "backend = 'numba' runs linear models only: an MLP needs backend = 'torch'",
        ),
        (
            {"pred": "mlp", "backend": "numpy"},
            "backend = 'numpy' runs linear models only: an MLP needs backend = 'torch'",
        ),
        ({"device": "cuda", "backend": "numba"}, "device = 'cuda' belongs to backend = 'torch', not to 'numba'"),
    ],
)
def test_what_a_backend_cannot_run_is_refused_in_one_line(options, line):
    config = RunConfig(**options)
    for refuse in (
        lambda: get_backend(config.backend).resolve(config),
        lambda: one_run(config),
        lambda: plan_sweep(SweepConfig(**options)),
    ):
        with pytest.raises(UserError) as error:
            refuse()
        assert str(error.value) == line


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_warmed_up_run_compiles_nothing(sampler):
    """The tiny run of a configuration has compiled every kernel that the configuration needs, in either regime."""
    general = {"correlation": "flat:0.5", "d_nuisance": 1, "sigma_n_target": 0.1, "d_embed": 2}
    for options in ({}, {"batch_size": 7}, {"dtype": "float32"}, general, general | {"dtype": "float32"}):
        assert_warm(small(**sampler_options(sampler), d_obs=16, **({"batch_size": 60} | options)))
    for beyond in (0, 3):
        world = moment_world(sampler, 2, 3, 6, 1, 0.5, 0.2, beyond, seed=0)
        assert_warm(RunConfig(**world, **sampler_options(sampler), d_embed=2, batch_size=60, epochs=3, device="cpu"))


def assert_warm(config):
    warm_up(config)
    before = compiled()
    one_run(config)
    assert compiled() == before


def compiled():
    """How many signatures each kernel of the numba backend has so far."""
    homes = [module for name, module in sys.modules.items() if name.startswith("byolsim.backends.numba")]
    kernels = {value for home in homes for value in vars(home).values() if hasattr(value, "signatures")}
    return sorted((kernel.__name__, len(kernel.signatures)) for kernel in kernels)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_backend_equals_the_plain_one(backend, sampler):
    @property_of(60)
    @given(configurations(sampler))
    def holds(config):
        assert_equal(backend, config)

    holds()


def assert_equal(backend, config, initial=None):
    plain, other = (trajectory(on(name, config), initial) for name in ("numpy", backend))
    for name in ("epochs", "valid", "diverged_epoch", "clips"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name), err_msg=name)
    assert_close(quantities(other), quantities(plain), TOLERANCE[config.dtype])


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_backend_equals_the_plain_one_in_any_world_at_any_width(backend, sampler):
    """Any start, too, where views have latents and noise of their own or are given by their moments."""

    @property_of(60)
    @given(configurations(sampler, general=True))
    def holds(config):
        assert_equal(backend, config)

    holds()


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_backend_goes_on_from_a_given_start(backend, sampler):
    """With momentum and draws behind it, for a sampler with coordinates in these too."""

    @property_of(25)
    @given(configurations(sampler, general=True), st.integers(0, 2**16), st.integers(0, 3000), st.booleans())
    def holds(config, seed, epoch, in_coordinates):
        initial = start_of_a_run(config, seed, epoch, in_coordinates and sampler == "reduced")
        try:
            check_start(initial, config)
        except ValueError:  # a schedule that would have no estimate in its first step
            assume(False)
        assume(answers_to_the_law(config, initial))
        assert_equal(backend, config, initial)

    holds()


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_column_at_the_default_shape(backend, sampler, dtype):
    """A hundred steps of the default run: roundings, 1e-16 or 6e-8 each, become 1e-12 and 4e-4 in the small gap."""
    config = RunConfig(epochs=100, device="cpu", dtype=dtype, **sampler_options(sampler))
    plain, other = (one_run(on(name, config)) for name in ("numpy", backend))
    assert (plain.status, plain.clips) == (other.status, other.clips)
    tolerance = {"float64": 1e-11, "float32": 2e-3}[dtype]
    for name in METRICS:
        np.testing.assert_allclose(
            other.columns[name], plain.columns[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("sampler", ["minibatch", "population"])
def test_the_plain_backend_equals_the_oracle(sampler):
    """The oracle has no divergence: only rows before it are compared."""

    @property_of(60)
    @given(configurations(sampler))
    def holds(config):
        config = RunConfig(**(config.model_dump() | {"backend": "numpy", "dtype": "float64"}))
        world = World.from_config(config)
        with np.errstate(over="ignore", invalid="ignore"):
            rows, clips = oracle_rows(config, world)
        block = trajectory(config)
        ours = quantities(block)
        expected = {name: [] for name in ours}
        for row in rows[: block.valid[0].sum()]:
            outside = {}
            for name in ("o", "t"):
                b, L = inside_outside(row[f"B_{name}"], world.Q)
                outside |= {f"b_{name}": b, f"Gram of L_{name}": L @ L.T}
            loss = row["loss"] if row["epoch"] > 0 else np.nan
            values = row | outside | {"gap": np.linalg.norm(row["B_o"] - row["B_t"]), "loss": loss}
            for name in ours:
                expected[name].append(np.ravel(values[name]))
        assert_close(ours, {name: np.array(values) for name, values in expected.items()}, TOLERANCE["float64"])
        if block.diverged_epoch[0] < 0:
            assert block.clips[0].tolist() == clips

    holds()


def groups(sampler):
    """What runs have in common, and what each has of its own."""
    return st.booleans().flatmap(
        lambda general: st.tuples(shared(sampler, general), st.lists(own(general), min_size=2, max_size=5))
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_has_its_bits_beside_any_other_and_when_it_goes_on(backend, sampler):
    """`test_determinism` has the positions of a group and the shapes that BLAS cuts up; here are all the options."""

    @property_of(25)
    @given(groups(sampler), st.sampled_from(["float64", "float32"]))
    def holds(group, dtype):
        common, mine = group
        runs = [RunConfig(**common, **values, dtype=dtype, backend=backend) for values in mine]
        longer = RunConfig(**(runs[0].model_dump() | {"epochs": 3 * runs[0].epochs, "log_every": 1}))
        alone, goes_on = one_run(runs[0]), one_run(longer)
        for other in (simulate_runs(runs)[0], simulate_runs(runs[::-1])[-1], goes_on):
            rows = np.isin(other.epochs, alone.epochs)
            np.testing.assert_array_equal(other.epochs[rows], alone.epochs)
            for name, column in alone.columns.items():
                np.testing.assert_array_equal(other.columns[name][rows], column, err_msg=name)

    holds()


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("rates", [{"lr_pred": 0.1, "lr_enc": 0.4}, {"lr_enc": 0.4}])
def test_the_floor_of_the_curvature_counts_under_a_schedule_alone(backend, sampler, rates):
    """Decay shrinks the encoder; the average forgets by a tenth a tick, so that no run of twelve steps comes so far."""
    config = small(
        **sampler_options(sampler),
        **rates,
        d_obs=16,
        mom_enc=0.0,
        weight_decay=1.5,
        ema_m=0.3,
        auto_every=1,
        epochs=100,
        log_every=20,
    )
    plain, other = (trajectory(on(name, config)) for name in ("numpy", backend))
    assert (plain.clips[0, 2] > 0) == ("lr_pred" not in rates)
    np.testing.assert_array_equal(other.clips, plain.clips)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_step_in_which_a_scheduled_run_diverges_counts_the_same(backend, sampler):
    """Both limits are active in it, and each holds its own parameter stable alone: the pair diverges."""
    config = small(
        **sampler_options(sampler), d_obs=16, ema_m=0.5, auto_alpha_c=30.0, auto_beta_c=30.0, epochs=60, log_every=1
    )
    plain, other = (trajectory(on(name, config)) for name in ("numpy", backend))
    diverged = plain.diverged_epoch[0]
    assert diverged > 0 and plain.clips[0, 0] == diverged
    np.testing.assert_array_equal(other.diverged_epoch, plain.diverged_epoch)
    np.testing.assert_array_equal(other.clips, plain.clips)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", ["minibatch", "direct", "reduced"])
def test_the_draws_belong_to_their_key(backend, sampler):
    """Rates, rules, noise and the number of epochs are not in it; the seed, n, d and r are."""

    def losses(**options):
        shape = {"d_latent": 2, "d_obs": 10, "batch_size": 5, "latent_spectrum": "flat:1", "epochs": 6, "log_every": 1}
        still = {"lr_pred": 0.0, "lr_enc": 0.0, "init": "random", "device": "cpu", "backend": backend}
        return one_run(RunConfig(**(shape | still | sampler_options(sampler) | options))).columns["loss"][1:7]

    same = losses()
    assert len(np.unique(same)) == 6
    for options in ({"epochs": 9}, {"tau": 0.5}, {"mom_enc": 0.0}, {"log_every": 1, "weight_decay": 0.1}):
        np.testing.assert_array_equal(losses(**options), same)
    for options in ({"seed": 43}, {"batch_size": 6}, {"d_obs": 11}):
        assert not np.isin(losses(**options), same).any()


@pytest.mark.parametrize("tau", [0.0, 1e-12, 0.3, 0.5, 0.8, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_target_keeps_its_digits(tau, dtype):
    """At rest it stays at rest to the last bit, tau = 0 and 1 are exact, and between them it is the average."""
    M, N = np.random.default_rng(0).normal(size=(2, 4, 7)).astype(dtype)
    nothing = np.zeros_like(M)
    rest, lost = towards(M, M, tau, nothing)
    np.testing.assert_array_equal(rest, M)
    np.testing.assert_array_equal(lost, nothing)
    moved, _ = towards(M, N, tau, nothing)
    assert moved.dtype == dtype
    exact = (1 - tau) * M.astype(float) + tau * N.astype(float)
    np.testing.assert_allclose(moved, exact, atol=4 * np.finfo(dtype).eps)
    if tau in (0.0, 1.0):
        np.testing.assert_array_equal(moved, M if tau == 0 else N)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_plain_backend_trains_in_the_precision_that_was_asked_for(sampler):
    @property_of(15)
    @given(configurations(sampler))
    def holds(config):
        world = World.from_config(config)
        chosen = sampler_class(config)(config, world)
        rules = rules_of(config, chosen)
        run = start_of(rules, chosen)
        for t, draw in enumerate(chosen.draws(), start=1):
            run = advance(t, run, draw, chosen, rules)
            assert {M.dtype for M in run.state} == {np.dtype(config.dtype)}
            if run.diverged_epoch >= 0:
                break

    holds()
