"""The benchmark programs: what they count and print, and that the JAX baseline takes the same steps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from byolsim.config.grid import SweepConfig, expand
from byolsim.draws.streams import MinibatchKey, minibatch_blocks, split_draws
from byolsim.model import gradients
from byolsim.model.encoder import initial_weights
from byolsim.model.world import World

PROGRAMS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def programs_are_importable(monkeypatch):
    """The programs import one another, as scripts of one folder do."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(PROGRAMS))
    yield
    for name in {path.stem for path in PROGRAMS.glob("*.py")} - before:
        sys.modules.pop(name, None)


def counted(shapes):
    """Operations of products (a, b) x (b, c)."""
    return sum(2 * a * b * c for a, b, c in shapes)


def test_operations_are_those_of_the_products():
    import counts

    n, d, r, runs = 5, 7, 3, 4
    views = counted([(d, r, n)]) / runs
    by_sample = [(r, d, n), (r, d, n), (r, r, n), (r, n, d), (r, n, r), (r, r, d)]
    assert counts.by_sample(n, d, r, runs) == pytest.approx(counted(by_sample) + views)
    by_moment = [(r, d, d), (r, d, d), (r, r, d), (r, d, r), (r, r, d)]
    moments = counted([(d, n, d), (d, n, d)]) / runs
    assert counts.by_moment(n, d, r, runs) == pytest.approx(counted(by_moment) + moments + views)


def test_the_floor_takes_the_cheaper_way():
    import counts

    assert counts.minibatch(64, 100, 10, 20) == counts.by_sample(64, 100, 10, 20)
    assert counts.minibatch(10**4, 100, 10, 20) == counts.by_moment(10**4, 100, 10, 20)


def test_a_table_is_aligned_markdown():
    from tables import table

    assert table(["", "us"], [["one", "1.00"], ["fifteen", "15.0"]]) == (
        "|         |   us |\n| ------- | ---: |\n| one     | 1.00 |\n| fifteen | 15.0 |"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (0.126, "0.13"),
        (9.994, "9.99"),
        (31.26, "31.3"),
        (512.4, "512"),
        (12345.6, "12,346"),
    ],
)
def test_figures_have_three_digits(value, text):
    from tables import figure

    assert figure(value) == text


def test_ratios_are_to_the_baseline_of_that_name():
    from steps import comparison
    from timing import Contestant, Cost

    rows = [("minibatch, float64", 2.0), ("JAX float64 (scan)", 6.0), ("JAX float64 twice at once (scan)", 3.0)]
    text = comparison([(Contestant(name, "2", 1, list), Cost(time, 7.0)) for name, time in rows])
    header, _, first, *_ = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert header[4:] == ["x JAX float64", "x JAX float64 twice"]
    assert first[2:] == ["2.00", "7.00", "3.00", "1.50"]


def test_share_of_the_floor():
    import counts
    from steps import floors
    from timing import Contestant, Cost

    floor = counts.minibatch(64, 100, 10, 20) / 1000.0
    rows = [("minibatch, float64", "1"), ("minibatch, float64", "2"), ("population", "1")]
    measured = [((64, 100), Contestant(name, cores, 1, list), Cost(9 * floor, 2 * floor)) for name, cores in rows]
    lines = floors(measured, {"float64": 1000.0}).splitlines()
    assert len(lines) == 3 and lines[-1].rstrip("| ").endswith("50%")


def test_costs_are_the_best_of_the_rounds_and_leave_out_the_start(monkeypatch):
    import timing

    # A round: start and whole of the first, whole of the second; each in wall and processor time.
    durations = iter([(3.0, 2.0), (5.0, 5.0), (10.0, 9.0), (1.0, 1.0), (7.0, 4.0), (12.0, 8.0)])
    monkeypatch.setattr(timing, "spent", lambda action: next(durations))
    first = timing.Contestant("a", "1", 2, list, start=list)
    second = timing.Contestant("b", "1", 1, list)
    assert timing.costs_in_turns([first, second], repeats=2) == [(2e6, 1.5e6), (1e7, 8e6)]


def test_a_diverged_run_is_not_timed():
    from contestants import sweep_groups
    from timing import train

    wild = {"lr_enc_mode": "same", "lr_pred_logspace": (1e3, 1e4, 2), "init": "random"}
    with pytest.raises(RuntimeError, match="diverged"):
        train(sweep_groups(wild, 4, 20, 30), 2)


def test_the_engine_trains_what_it_says():
    from contestants import RUNS, SAMPLERS, engine, is_offered

    options = SAMPLERS["population"]
    assert is_offered(options, 4, 20)
    contestant = engine("population", options, 4, 20, 21, 2)
    assert contestant.run_steps == 2 * RUNS * 20
    contestant.action()


def test_labels_keep_their_order_and_distance():
    from scaling import spread

    assert spread([2.0, 1.0, 1.05], 0.5) == [2.0, 1.0, 1.5]


def test_the_scaling_figure_is_drawn(tmp_path):
    from scaling import LINES, Point, draw

    points = [Point(line, 10**k, 10**k, 10.0**k) for line in LINES for k in (1, 2)]
    draw(points, points[:2], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.bench
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="no jax")
def test_jax_takes_the_same_steps():
    """Twenty runs on the package's own draws, against a loop over the closed forms: float64 to rounding."""
    import jax_scan

    sweep = SweepConfig(
        seeds=(1,), batch_sizes=(5,), d_obs=8, d_latent=3, init="random", lr_enc_mode="from_tau",
        lr_pred_logspace=(1e-3, 1e-1, 5), epochs=30, mom_pred=0.5,
    )  # fmt: skip
    group = expand(sweep)
    key = MinibatchKey(1, 5, 8, 3)
    (draws,) = minibatch_blocks(key, sweep.epochs)
    state, losses = jax_scan.train_on(jax_scan.Grid(group, "float64"), draws.reshape(sweep.epochs, 3 + 2 * 8, 5))
    assert len(group) == 20 and losses.shape == (20, sweep.epochs)
    for k, config in enumerate(group):
        *weights, loss = plain_run(config, [split_draws(row, key) for row in draws])
        for ours, theirs in zip(weights, (state.P, state.B_o, state.B_t), strict=True):
            np.testing.assert_allclose(theirs[k], ours, rtol=0, atol=1e-10)
        np.testing.assert_allclose(losses[k, -1], loss, rtol=1e-10)


@pytest.mark.bench
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="no jax")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_formulations_in_jax_are_one_computation(dtype, monkeypatch):
    """With chunks of one step all three draw the same numbers, so they agree to rounding; longer chunks keep step."""
    import jax_scan

    sweep = SweepConfig(seeds=(1,), batch_sizes=(8,), d_obs=12, d_latent=2, lr_enc_mode="same", epochs=20)
    monkeypatch.setattr(jax_scan, "CHUNK_NORMALS", 8 * (2 + 2 * 12))
    grid = jax_scan.Grid(expand(sweep), dtype)
    assert grid.chunk == 1 and grid.state.P.dtype == dtype
    states = [jax_scan.program(grid, formulation)(0, 20) for formulation in jax_scan.FORMULATIONS]
    for state in states[1:]:
        np.testing.assert_allclose(state.B_o, states[0].B_o, rtol=0, atol=1e-12 if dtype == "float64" else 1e-4)
    grid.chunk = 3
    in_chunks = jax_scan.program(grid, jax_scan.FORMULATIONS[-1])(0, 20)
    assert abs(in_chunks.V_P).max() > 0 and np.isfinite(in_chunks.B_o).all()


def plain_run(config, draws):
    """(P, B_o, B_t, last loss) of one run with fixed rates, from `theory`."""
    world = World.from_config(config)
    P, V_P, B_o, V_B, B_t, _ = initial_weights(config, world)
    for z, e, e_plus in draws:
        signal = world.A @ (np.sqrt(world.lam)[:, None] * z)
        X, X_plus = signal + world.sigma * e, signal + world.sigma * e_plus
        loss = gradients.sample_loss(P, B_o, B_t, X, X_plus)
        G = gradients.sample_residual_gradient(P, B_o, B_t, X, X_plus)
        grad_P, grad_B = gradients.gradients(P, B_o, G)
        V_P, V_B = config.mom_pred * V_P + grad_P, config.mom_enc * V_B + grad_B
        P, B_o = P - config.lr_pred * V_P, B_o - config.lr_enc * V_B
        B_t = (1 - config.tau) * B_t + config.tau * B_o
    return P, B_o, B_t, loss
