"""Where a run ended is all that it needs to go on: rows and end of a continued run are those of one longer run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import byolsim
from byolsim import RunConfig, simulate_runs
from byolsim.errors import UserError
from byolsim.model.start import Start
from byolsim.store.states import state_path
from tests.cases import BACKENDS

SAMPLERS: dict[str, dict[str, Any]] = {
    "minibatch": {"sampler": "minibatch"},
    "second-moments": {"sampler": "minibatch", "batch_size": 60},
    "population": {"sampler": "population"},
    "direct": {"sampler": "moments", "moments_form": "direct"},
    "reduced": {"sampler": "moments", "moments_form": "reduced"},
}
WAYS: dict[str, dict[str, Any]] = {
    "fixed": {"lr_pred": 0.05, "lr_enc": 0.02},
    "auto": {"auto_every": 4, "power_iters": 2},
    "periods": {"lr_pred": 0.05, "lr_enc": 0.02, "pred_update_every": 2, "enc_update_every": 3},
}
METHODS: dict[str, dict[str, Any]] = {
    "directpred": {"lr_enc": 0.02, "pred_rule": "directpred", "pred_every": 3},
    "optimal": {"lr_enc": 0.02, "pred_rule": "optimal", "pred_every": 5},
    "deep": {"enc_depth": 2, "auto_every": 4},
}
SMALL: dict[str, Any] = {"d_latent": 3, "d_obs": 21, "batch_size": 9, "ema_m": 0.9, "log_every": 1, "d_embed": 2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_goes_on_as_one_longer_run(sampler: str, way: str, dtype: str, backend: str) -> None:
    """To the last bit: the state is all that a step depends on, and it is kept without a rounding."""
    _goes_on(SMALL | SAMPLERS[sampler] | WAYS[way] | {"dtype": dtype, "backend": backend, "device": "cpu"})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sampler", ["second-moments", "reduced"])
def test_so_does_one_whose_rule_remembers_or_whose_encoder_is_deep(
    sampler: str, method: str, dtype: str, backend: str
) -> None:
    """F, the P in force between two settings, and all layers with their momentum are part of the state."""
    _goes_on(SMALL | SAMPLERS[sampler] | METHODS[method] | {"dtype": dtype, "backend": backend, "init": "random"})


def _goes_on(options: dict[str, Any]) -> None:
    (whole,) = simulate_runs([RunConfig(**options, epochs=40)])
    (first,) = simulate_runs([RunConfig(**options, epochs=17)])
    assert first.final is not None and first.final.epoch == 17
    (second,) = simulate_runs([RunConfig(**options, epochs=23)], initial=first.final)
    for name, column in whole.columns.items():
        rows = column[18:] if name in ("loss", "Hmax", "lr_pred_t", "lr_enc_t") else column[17:]
        np.testing.assert_array_equal(second.columns[name][-len(rows) :], rows, err_msg=name)
    assert whole.final is not None and second.final is not None
    for name, value in whole.final.arrays().items():
        np.testing.assert_array_equal(second.final.arrays()[name], value, err_msg=name)


def _run(**options: Any) -> RunConfig:
    return RunConfig(**(SMALL | WAYS["fixed"] | {"backend": "numpy", "epochs": 8} | options))


def test_arrays_of_ones_own_are_a_start() -> None:
    """P and B_o alone: no momentum, the target at the encoder; the digest is in the id, and row 0 is theirs."""
    P, B_o = np.diag([0.5, 0.2]), np.eye(2, 21)
    (record,) = simulate_runs([_run()], initial={"P": P, "B_o": B_o})
    assert record.columns["gap"][0] == 0
    assert record.config.initial == Start(P, 0 * P, B_o, 0 * B_o, B_o).digest
    assert record.config.run_id != _run().run_id
    (again,) = simulate_runs([_run()], initial={"P": P, "B_o": B_o, "B_t": 0 * B_o})
    assert again.columns["gap"][0] == pytest.approx(np.sqrt(2))
    assert again.config.run_id != record.config.run_id


def test_a_stored_run_takes_arrays_too(tmp_path: Path) -> None:
    arrays = {"P": np.diag([0.5, 0.2]), "B_o": np.eye(2, 21)}
    path, record = byolsim.run(_run(), tmp_path, initial=arrays)
    (same,) = simulate_runs([_run()], initial=arrays)
    assert record is not None and record.config.run_id == same.config.run_id and same.config.run_id in path.name


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"P": np.eye(2)}, "B_o is missing"),
        ({"P": np.eye(2), "B_o": np.eye(2, 21), "Q": np.eye(2)}, "'Q' is no part of a start"),
        ({"P": np.eye(3), "B_o": np.eye(2, 21)}, r"initial P has shape \(3, 3\): must be \(2, 2\)"),
        ({"P": np.eye(2), "B_o": np.eye(2, 20)}, "initial B_o has 20 columns: must be 21"),
        ({"P": np.full((2, 2), np.nan), "B_o": np.eye(2, 21)}, "not finite"),
        ({"P": np.eye(2), "B_o": np.eye(2, 21), "epoch": 1.5}, "must be a whole number"),
        ({"P": np.eye(2), "B_o": np.eye(2, 21), "epoch": 3}, "no curvature estimate"),
    ],
)
def test_a_wrong_start_is_refused_in_one_line(arrays: dict[str, Any], says: str) -> None:
    config = _run(lr_pred=None, auto_alpha_c=0.4) if "curvature" in says else _run()
    with pytest.raises(ValueError, match=says):
        simulate_runs([config], initial=arrays)


def test_a_digest_without_its_start_and_another_start_are_refused() -> None:
    (record,) = simulate_runs([_run()], initial={"P": np.eye(2), "B_o": np.eye(2, 21)})
    with pytest.raises(ValueError, match="was not given"):
        simulate_runs([record.config])
    with pytest.raises(ValueError, match="another start"):
        simulate_runs([record.config], initial={"P": np.zeros((2, 2)), "B_o": np.eye(2, 21)})


def test_a_diverged_run_has_no_end() -> None:
    (record,) = simulate_runs([_run(lr_pred=1e6, lr_enc=1e6)])
    assert record.status == "diverged" and record.final is None


def test_the_state_is_written_beside_the_run_and_read_back(tmp_path: Path) -> None:
    """Same digest; the folder is read as before; nothing of it decides the id; damage is one line."""
    path, record = byolsim.run(_run(), tmp_path, save_state=True)
    assert record is not None and record.final is not None
    state = byolsim.load_state(path)
    assert state.digest == record.final.digest
    assert len(byolsim.load_runs(tmp_path)) == 9
    assert byolsim.run(_run(), tmp_path)[1] is None  # it is the run's file that counts
    place = state_path(path)
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    with pytest.raises(UserError, match=place.name):
        byolsim.load_state(place)
    with pytest.raises(UserError, match="--save_state"):
        byolsim.load_state(tmp_path / "other.parquet")


def test_a_sweep_leaves_the_state_of_each_run(tmp_path: Path) -> None:
    grid = {"lr_pred_logspace": (1e-3, 1e-2, 2), "tau_logspace": (0.1, 0.1, 1), "seeds": (1,), "batch_sizes": (4,)}
    config = byolsim.SweepConfig(
        **grid, lr_enc_mode="same", epochs=5, d_latent=2, d_obs=9, backend="numpy", log_every=5
    )
    result = byolsim.sweep(config, tmp_path, save_state=True, workers=1)
    assert all(byolsim.load_state(outcome.path).epoch == 5 for outcome in result.outcomes)


def test_what_has_no_state_says_so(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UserError, match="MLP"):
        byolsim.run(RunConfig(enc="mlp", epochs=1, d_latent=2, d_obs=5), tmp_path, save_state=True)
