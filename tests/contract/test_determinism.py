"""The same configuration gives the same bits, whatever stands beside it, before it or after it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import BACKENDS, one_run, small
from threadpoolctl import threadpool_info

from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, keyed_seed, minibatch_blocks
from byolsim.simulate import simulate_runs
from byolsim.store.columns import schema
from byolsim.store.files import read_columns
from byolsim.sweeps.launch import sweep

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

REGIMES = {
    "minibatch": {"d_latent": 4, "d_obs": 23, "batch_size": 19, "latent_spectrum": "geometric:0.1:10"},
    "many-samples": {"d_latent": 4, "d_obs": 23, "batch_size": 37, "latent_spectrum": "geometric:0.1:10"},
    "population": {"d_latent": 4, "d_obs": 23, "sampler": "population", "latent_spectrum": "geometric:0.1:10"},
    "float32": {"d_latent": 4, "d_obs": 23, "dtype": "float32", "latent_spectrum": "geometric:0.1:10"},
    "odd-shape": {"d_latent": 5, "d_obs": 37, "batch_size": 13, "latent_spectrum": "geometric:0.1:10"},
    "default-population": {
        "d_latent": 10,
        "d_obs": 100,
        "sampler": "population",
        "latent_spectrum": "geometric:0.1:10",
    },
    "direct-moments": {"d_latent": 4, "d_obs": 19, "batch_size": 37, "sampler": "moments"},
    "reduced-moments": {"d_latent": 5, "d_obs": 37, "batch_size": 13, "sampler": "moments"},
    "reduced-float32": {"d_latent": 4, "d_obs": 23, "batch_size": 3, "sampler": "moments", "dtype": "float32"},
    "default-shape": {"d_latent": 10, "d_obs": 100, "batch_size": 64, "latent_spectrum": "geometric:0.1:10"},
}


def assert_same_bits(one, other):
    assert one.status == other.status
    assert one.clips == other.clips
    np.testing.assert_array_equal(one.epochs, other.epochs)
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column.view(np.int64), other.columns[name].view(np.int64), err_msg=name)


def grid(backend, regime):
    """Nine different runs of one group: fixed and scheduled rates, one that diverges, all three starts."""
    base = REGIMES[regime] | {"epochs": 60, "log_every": 7, "backend": backend}
    rates = [{"lr_pred": a, "lr_enc": 0.01} for a in (1e-3, 1e-2, 50.0)]
    rates += [{"lr_pred": 1e-2}, {"lr_enc": 1e-2}, {}, {"ema_m": 0.9}]
    runs = [small(**(base | rate)) for rate in rates]
    return runs + [small(**(base | {"init": init})) for init in ("zero_pred", "pinv")]


@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_is_the_same_at_every_position_of_any_group(backend, regime):
    runs = grid(backend, regime)
    alone = [one_run(config) for config in runs]
    assert alone[2].status == "diverged"
    for shift in range(len(runs)):
        order = [*range(shift, len(runs)), *range(shift)]
        for index, record in zip(order, simulate_runs([runs[i] for i in order]), strict=True):
            assert_same_bits(alone[index], record)
    pair = simulate_runs([runs[2], runs[5]])
    assert_same_bits(alone[5], pair[1])


def test_the_number_of_blas_threads_changes_no_bit(backend):
    """At shapes where BLAS would use two threads; each process with its own limit, the second run of each too."""
    code = (
        "from byolsim import RunConfig, simulate_runs\n"
        f"config = RunConfig(backend={backend!r}, device='cpu', d_obs=300, d_latent=30, batch_size=256, epochs=12)\n"
        "for _ in range(2):\n"
        "    print([column.tobytes().hex() for column in simulate_runs([config])[0].columns.values()])\n"
    )
    outputs = []
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", code]
        outputs.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    first, second = outputs[0].splitlines()
    assert first == second
    assert outputs[0] == outputs[1]


def test_runs_in_two_threads_have_the_same_bits_and_give_back_the_blas_threads(backend):
    """The first ends while the second trains: neither may take the second's limit away, nor keep it."""
    config = RunConfig(backend=backend, device="cpu", d_obs=300, d_latent=30, batch_size=256, epochs=20, log_every=2)
    alone = one_run(config)
    before = blas_threads()
    inside, second_inside, ended = (threading.Event() for _ in range(3))

    def first(_):
        inside.set()
        assert second_inside.wait(60)

    def second(_):
        second_inside.set()
        assert ended.wait(60)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(simulate_runs, [config], first)
        one.add_done_callback(lambda _: ended.set())
        assert inside.wait(60)
        other = pool.submit(simulate_runs, [config], second)
        for future in (one, other):
            (record,) = future.result()
            assert_same_bits(alone, record)
    assert blas_threads() == before


def blas_threads():
    return {
        library["filepath"]: library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("log_every", [1, 4, 60, 1000])
def test_logging_never_changes_the_trajectory(backend, regime, log_every):
    config = grid(backend, regime)[5]
    often = one_run(RunConfig(**(config.model_dump() | {"log_every": 1})))
    other = one_run(RunConfig(**(config.model_dump() | {"log_every": log_every})))
    rows = np.isin(often.epochs, other.epochs)
    assert other.epochs.tolist() == sorted({*range(0, 60, log_every), 60})
    for name, column in other.columns.items():
        np.testing.assert_array_equal(column, often.columns[name][rows], err_msg=name)


def test_a_longer_run_continues_a_shorter_one(backend):
    shape = {"d_obs": 200, "batch_size": 50, "backend": backend, "lr_pred": 0.01}
    assert MinibatchKey(42, 50, 200, 3).steps_per_block < 20
    short = one_run(small(epochs=63, **shape))
    long = one_run(small(epochs=150, **shape))
    for name, column in short.columns.items():
        np.testing.assert_array_equal(column, long.columns[name][: len(column)], err_msg=name)


def test_blocks_of_draws_depend_on_the_key_alone(backend):
    key = MinibatchKey(seed=3, n=50, d=120, r=7)
    assert 1 < key.steps_per_block < 30
    whole = np.concatenate([block.copy() for block in minibatch_blocks(key, 40)])
    part = np.concatenate([block.copy() for block in minibatch_blocks(key, 33)])
    np.testing.assert_array_equal(part, whole[:33])
    assert len(np.unique(whole)) == whole.size, "no block repeats another"
    other = next(minibatch_blocks(MinibatchKey(seed=4, n=50, d=120, r=7), 1))
    assert not np.isin(other, whole).any()
    # Independent of what was drawn before it, and of its neighbours.
    assert keyed_seed("a", 1, 23).generate_state(1) != keyed_seed("a", 12, 3).generate_state(1)


def test_files_are_the_same_for_any_number_of_workers(backend, tmp_path):
    config = SweepConfig(
        backend=backend, seeds=(1, 2), batch_sizes=(3, 20), d_latent=3, d_obs=8, latent_spectrum="flat:1", epochs=30,
        lr_pred_logspace=(1e-3, 100.0, 3), tau_logspace=(1e-2, 1e-1, 2),
    )  # fmt: skip
    tables = {}
    for workers in (1, 2, 3):
        result = sweep(config, tmp_path / str(workers), workers=workers)
        assert result.count("completed") + result.count("diverged") == 32
        assert result.count("diverged") > 0
        paths = sorted((tmp_path / str(workers)).iterdir())
        tables[workers] = {path.name: read_columns(path, schema().names)[1] for path in paths}
    for workers in (2, 3):
        assert tables[workers].keys() == tables[1].keys()
        for name, table in tables[1].items():
            assert table.equals(tables[workers][name]), name
