"""Figures: what is selected from a folder of runs, what is refused, and whether a reader can read the pictures.

Selection is tested on hand-made runs, whose values are known; drawing on small sweeps.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from byolsim.analysis.axes import Axis, Layout, cell_edges, power_labels
from byolsim.analysis.figures import catalogue, draw_figures
from byolsim.analysis.grid import Grid
from byolsim.analysis.heatmaps import colour_scale, heatmap
from byolsim.analysis.overlays import rate_lines
from byolsim.analysis.select import select_grids
from byolsim.analysis.slices import loss_slices
from byolsim.cli import main
from byolsim.config.commands import FigsConfig
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS
from byolsim.record import ClipCounts, RunRecord
from byolsim.store.files import save
from byolsim.store.names import run_path
from byolsim.sweeps.launch import sweep
from byolsim.version import NUMERICS_VERSION

NAN = math.nan
SMALL: dict[str, Any] = {
    "d_obs": 6,
    "d_latent": 2,
    "epochs": 20,
    "log_every": 5,
    "latent_spectrum": "flat:1",
    "seeds": (1, 2),
    "batch_sizes": (4,),
    "lr_pred_logspace": (1e-3, 1e-1, 3),
    "tau_logspace": (1e-2, 1e-1, 2),
}


def store_run(
    folder: Path, losses: list[float], diverged: int | None = None, scale: list[float] | None = None, **fields: Any
) -> Path:
    """A hand-made run of a sweep with rows at epochs 0, 10, 20, ... that hold these losses and this `Hmax_exact`."""
    rates = {"lr_pred": 1e-3, "lr_enc": 1e-3, "lr_enc_mode": "same", "tau": 1e-2, "seed": 1, "epochs": 20}
    config = RunConfig(**(rates | fields))
    columns = {name: np.full(len(losses), NAN) for name in METRICS}
    columns |= {"loss_pop": np.array(losses), "loss_rel": np.array(losses)}
    if scale is not None:
        columns["Hmax_exact"] = np.array(scale)
    record = RunRecord(
        config=config,
        epochs=10 * np.arange(len(losses)),
        columns=columns,
        status="completed" if diverged is None else "diverged",
        diverged_epoch=diverged,
        clips=ClipCounts(0, 0, 0),
        wall_s=0.0,
    )
    return save(record, run_path(folder, config))


def select(folder: Path, *metrics: str, layout: Layout | None = None, **fields: Any) -> list[Grid]:
    metrics = (*metrics, "loss_pop", "loss_rel")
    return select_grids(FigsConfig(runs_dir=str(folder), **({"epoch": 20} | fields)), metrics, layout=layout).grids


def at(grid: Grid, table: np.ndarray, alpha: float, tau: float) -> Any:
    return table[0, grid.y.values.index(tau), grid.x.values.index(alpha)]


# --- selection ---


def test_a_cell_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    for seed, loss in ((1, 2.0), (2, 4.0)):
        store_run(tmp_path, [9.0, 9.0, loss], seed=seed)
    (grid,) = select(tmp_path)
    assert grid.mean("loss_pop").item() == 3.0
    assert [side.item() for side in grid.spread("loss_pop")] == [2.0, 4.0]
    assert grid.seeds == (1, 2) and grid.seed_counts() == (2, 2)
    assert not grid.any_diverged().any() and not grid.missing().any() and not grid.no_value("loss_pop").any()


def test_losses_near_the_largest_float_have_a_mean(tmp_path: Path) -> None:
    """The sum of two such losses overflows, their mean does not."""
    for seed in (1, 2):
        store_run(tmp_path, [1.0, 1.0, 1.5e308], seed=seed)
    (grid,) = select(tmp_path)
    assert grid.mean("loss_pop").item() == 1.5e308


def test_missing_diverged_and_null_cells_are_told_apart(tmp_path: Path) -> None:
    """Of four cells one has a value, one diverged, one has a null, one has no run: each state holds in one cell."""
    store_run(tmp_path, [5.0, 5.0, 1.0], lr_pred=1e-3, lr_enc=1e-3, tau=0.01)
    store_run(tmp_path, [5.0], diverged=7, lr_pred=1e-3, lr_enc=1e-3, tau=0.1)
    store_run(tmp_path, [5.0, 5.0, NAN], lr_pred=1e-2, lr_enc=1e-2, tau=0.01)
    (grid,) = select(tmp_path)
    states = [np.isfinite(grid.mean("loss_pop")), grid.any_diverged(), grid.no_value("loss_pop"), grid.missing()]
    assert [state.sum() for state in states] == [1, 1, 1, 1]
    assert np.all(sum(state.astype(int) for state in states) == 1)
    assert at(grid, grid.any_diverged(), 1e-3, 0.1)
    assert at(grid, grid.no_value("loss_pop"), 1e-2, 0.01)
    assert at(grid, grid.missing(), 1e-2, 0.1)


@pytest.mark.parametrize(
    ("epoch", "use_last_valid", "value", "hatched"),
    [
        (20, False, 2.0, True),  # of the seed that lives
        (20, True, 3.0, True),  # and of the last finite value of the other: coloured, but hatched still
        (10, False, 5.0, False),  # before the divergence there is nothing to hatch
        (10, True, 5.0, False),
    ],
)
def test_a_cell_with_a_diverged_seed_is_hatched(
    tmp_path: Path, epoch: int, use_last_valid: bool, value: float, hatched: bool
) -> None:
    store_run(tmp_path, [8.0, 6.0, 2.0], seed=1)
    store_run(tmp_path, [8.0, 4.0], diverged=15, seed=2)
    (grid,) = select(tmp_path, epoch=epoch, use_last_valid=use_last_valid)
    assert grid.mean("loss_pop").item() == value
    assert grid.any_diverged().item() is hatched


def test_use_last_valid_looks_back_over_nulls_but_not_forward(tmp_path: Path) -> None:
    store_run(tmp_path, [8.0, NAN, 2.0])
    assert select(tmp_path, epoch=19, use_last_valid=True)[0].mean("loss_pop").item() == 8.0
    assert select(tmp_path, epoch=999, use_last_valid=True)[0].mean("loss_pop").item() == 2.0


def test_copies_and_single_runs_change_nothing(tmp_path: Path) -> None:
    path = store_run(tmp_path, [1.0, 1.0, 3.0])
    shutil.copy(path, path.with_name("copy.parquet"))
    store_run(tmp_path, [7.0, 7.0, 7.0], lr_enc_mode=None, mom_pred=0.5)
    (grid,) = select(tmp_path)
    assert grid.values["loss_pop"].shape == (1, 1, 1, 1) and grid.mean("loss_pop").item() == 3.0


def test_batch_sizes_are_apart_and_auto_is_the_last_column(tmp_path: Path) -> None:
    auto = {"lr_enc_mode": "auto", "auto_beta_c": 0.4, "lr_enc": None}
    for n in (8, 4):
        store_run(tmp_path, [1.0, 1.0, n], batch_size=n, **auto, lr_pred=None, auto_alpha_c=0.3)
        store_run(tmp_path, [1.0, 1.0, 2 * n], batch_size=n, **auto, lr_pred=1e-2, auto_alpha_c=0.0)
    grids = select(tmp_path)
    assert [grid.config.batch_size for grid in grids] == [4, 8]
    assert all(grid.x.values == (1e-2, None) and grid.panel is None for grid in grids)
    assert grids[0].mean("loss_pop").ravel().tolist() == [8.0, 4.0]
    rule = grids[0].setting.rule
    assert (rule.factor, rule.auto_alpha_c) == (0.4, 0.3)


@pytest.mark.parametrize(
    ("mode", "rates", "factor"),
    [
        ("same", [(1e-5, 1e-5), (3.98107170553e-5, 3.98107170553e-5)], 1.0),
        ("ratio", [(1e-5, 4e-6), (3.98107170553e-5, 1.59242868221e-5)], 0.4),
        ("from_tau", [(1e-5, 0.004), (1e-4, 0.004)], 0.4),
    ],
)
def test_the_rule_for_beta_is_read_from_the_runs(
    tmp_path: Path, mode: str, rates: list[tuple[float, float]], factor: float
) -> None:
    """Grid points are rounded to 12 digits; the constant in the caption is the user's nevertheless."""
    for alpha, beta in rates:
        store_run(tmp_path, [1.0, 1.0, 1.0], lr_enc_mode=mode, lr_pred=alpha, lr_enc=beta)
    (grid,) = select(tmp_path)
    assert grid.setting.rule.factor == factor


def test_runs_whose_features_have_vanished_are_known(tmp_path: Path) -> None:
    """By `Hmax_exact` at the epoch against epoch 0; a run that diverged is not called collapsed too."""
    ends = {0.001: [2.0, 1.0, 1e-9], 0.002: [2.0, 1e-9, 1.0], 0.003: [1e-9, 1e-9, 1e-9], 0.004: [2.0, 1.0, NAN]}
    for alpha, scale in ends.items():
        store_run(tmp_path, [1.0, 1.0, 1.0], scale=scale, lr_pred=alpha, lr_enc=alpha)
    store_run(tmp_path, [1.0, 1.0], diverged=15, scale=[2.0, 1e-9], lr_pred=0.005, lr_enc=0.005)
    store_run(tmp_path, [1.0, 1.0, 1.0], lr_pred=0.006, lr_enc=0.006)  # a file without the column
    for epoch, collapsed in ((20, 0.001), (10, 0.002)):
        (grid,) = select(tmp_path, epoch=epoch)
        found = [alpha for alpha, cell in zip(grid.x.values, grid.any_collapsed()[0, 0], strict=True) if cell]
        assert found == [collapsed] if epoch == 20 else found == [collapsed, 0.005]
    (grid,) = select(tmp_path, use_last_valid=True)
    assert grid.any_collapsed()[0, 0].tolist() == [True, False, False, False, False, False]


# --- other axes ---

WORLD = Layout(x="sigma_n", y="weight_decay", panel="init", figure=None)


def store_world(folder: Path, sigmas: tuple[float, ...] = (0.0, 0.5, 1.5)) -> None:
    """Two seeds at each point of noise x weight decay x start; the loss tells where it belongs."""
    for sigma, eta, init, seed in product(sigmas, (1e-3, 1e-2), ("random", "zero_pred"), (1, 2)):
        loss = 1 + sigma + 10 * (eta == 1e-2) + 100 * (init == "zero_pred") + 0.1 * seed
        store_run(folder, [9.0, 9.0, loss], sigma_n=sigma, weight_decay=eta, init=init, seed=seed)


def test_any_hyperparameter_can_be_an_axis(tmp_path: Path) -> None:
    """Numbers with a zero lie on a linear axis, words are panels in their declared order."""
    store_world(tmp_path)
    (grid,) = select(tmp_path, layout=WORLD)
    assert (grid.x.values, grid.x.scale) == ((0.0, 0.5, 1.5), "linear")
    assert (grid.y.values, grid.y.scale) == ((1e-3, 1e-2), "log")
    assert grid.panel is not None and (grid.panel.values, grid.panel.scale) == (("zero_pred", "random"), "category")
    expected = [[[1.15 + sigma + ten + hundred for sigma in grid.x.values] for ten in (0, 10)] for hundred in (100, 0)]
    np.testing.assert_allclose(grid.mean("loss_pop"), expected, rtol=1e-12)  # a mean of two numbers: rounding
    figure, lines = heatmap(grid, "loss_pop"), loss_slices(grid)
    for drawn in (figure, lines):
        assert_legible(drawn)
        panels = [ax for ax in drawn.axes if ax.get_title()]
        assert [ax.get_title() for ax in panels] == ["init = zero_pred", "init = random"]
        assert all(ax.get_xlabel() == "observation noise σ  [sigma_n]" for ax in panels)
        assert all([t.get_text() for t in ax.get_xticklabels()] == ["0", "0.5", "1.5"] for ax in panels)
        told = title(drawn)
        assert all(f"{letter} = " in told for letter in "rdnαβτ"), "what no axis shows is told"
        assert "σ =" not in told and "weight_decay =" not in told and "β = α" not in told
    assert meshes(figure)[0][0].get_ylabel() == "weight decay η  [weight_decay]"
    assert legend_texts(figure) == [], "no line of another plane"
    assert legend_texts(lines) == ["$10^{-2}$", "$10^{-3}$"] and "loss_rel against σ" in title(lines)


def test_marks_lie_in_their_cells_on_a_linear_axis(tmp_path: Path) -> None:
    store_world(tmp_path, sigmas=(0.0,))
    for eta in (1e-3, 1e-2):
        store_run(tmp_path, [1.0], diverged=3, sigma_n=2.0, weight_decay=eta)
        store_run(tmp_path, [3.0, 3.0, 1e-9], scale=[1.0, 1.0, 1e-9], sigma_n=1.0, weight_decay=eta)
    (grid,) = select(tmp_path, layout=WORLD)
    figure = heatmap(grid, "loss_pop")
    panel = meshes(figure)[0][0]
    assert [patch.get_x() for patch in panel.patches if isinstance(patch, Rectangle)] == [1.5, 1.5]
    assert [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "v"] == [1.0, 1.0]
    assert {"a seed diverged", "a seed collapsed", "no run"} == set(legend_texts(figure))


def test_a_null_off_the_horizontal_axis_is_a_category(tmp_path: Path) -> None:
    """Rows and panels have no place beside them: the auto schedule is a row of its own, the last."""
    auto: dict[str, Any] = {"lr_enc_mode": "auto", "lr_enc": None, "auto_beta_c": 0.4}
    for tau, alpha in product((1e-2, 1e-1), (1e-3, 1e-2, None)):
        schedule = 0.0 if alpha is not None else 0.4
        store_run(tmp_path, [1.0, 1.0, 2.0], lr_pred=alpha, auto_alpha_c=schedule, tau=tau, **auto)
    (grid,) = select(tmp_path, layout=Layout(x="tau", y="lr_pred"))
    assert (grid.y.values, grid.y.scale) == ((1e-3, 1e-2, None), "category")
    figure, lines = heatmap(grid, "loss_pop"), loss_slices(grid)
    assert_legible(figure)
    assert_legible(lines)
    assert [t.get_text() for t in meshes(figure)[0][0].get_yticklabels()] == ["0.001", "0.01", "auto"]
    assert "β_t = 0.4 τ / H_t (auto schedule, c_β = 0.4); α_t = 0.4 τ / H_t" in title(figure)
    assert legend_texts(lines) == ["auto", "0.01", "0.001"]


def test_another_panel_of_the_rates_keeps_rule_and_lines(tmp_path: Path) -> None:
    """Each panel has the lines of its own momentum."""
    for mu, alpha, tau in product((0.0, 0.9), (1e-3, 1e-1), (1e-3, 1e-1)):
        store_run(tmp_path, [1.0, 1.0, 2.0], mom_pred=mu, lr_pred=alpha, lr_enc=alpha, tau=tau)
    (grid,) = select(tmp_path, layout=Layout(panel="mom_pred"))
    figure = heatmap(grid, "loss_pop")
    assert_legible(figure)
    assert [len(ax.lines) for ax, _ in meshes(figure)] == [1, 2]
    assert legend_texts(figure) == ["α = τ  (μ_P = 0)", "α = τ", "α / (1 − μ_P) = τ"]
    assert "β = α" in title(figure) and "μ_P =" not in title(figure)


def test_an_axis_knows_its_scale_and_order() -> None:
    assert Axis.of("lr_pred", [1e-2, None, 1e-3], apart=True) == Axis("lr_pred", (1e-3, 1e-2, None), "log")
    assert Axis.of("lr_pred", [0.0, 1e-3]).scale == "linear", "no place for zero on a logarithmic axis"
    assert Axis.of("init", ["pinv", "zero_pred"]).values == ("zero_pred", "pinv")
    assert Axis.of("hidden", [64, None, 8]).texts() == ["8", "64", "none"]
    assert Axis.of("sigma_n", [1.0000001, 1.0]).texts() == ["1", "1.0000001"]
    np.testing.assert_array_equal(Axis.of("init", ["pinv", "zero_pred"]).edges, [-0.5, 0.5, 1.5])
    np.testing.assert_allclose(cell_edges([0.0, 1.0, 3.0], "linear"), [-0.5, 0.5, 2.0, 4.0])


# --- what is refused ---


def test_runs_that_differ_off_other_axes_are_refused(tmp_path: Path) -> None:
    """What the usual figures show, or explain by a rule, is named like anything else where these do not."""
    store_run(tmp_path, [1.0, 1.0, 1.0])
    store_run(tmp_path, [1.0, 1.0, 1.0], lr_pred=2e-3, lr_enc=2e-3, tau=0.1, batch_size=8, seed=2)
    with pytest.raises(UserError) as caught:
        select(tmp_path, layout=WORLD)
    for words in ("batch_size = 8, 64", "lr_pred = 0.001, 0.002", "lr_enc = 0.001, 0.002", "tau = 0.01, 0.1"):
        assert words in str(caught.value)


def test_one_configuration_under_two_versions_of_the_numerics_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = store_run(tmp_path, [1.0, 1.0, 1.0]).stem.rpartition("-")[2]
    for module in ("byolsim.config.run", "byolsim.store.columns"):
        monkeypatch.setattr(f"{module}.NUMERICS_VERSION", 1)
    old = store_run(tmp_path, [2.0, 2.0, 2.0]).stem.rpartition("-")[2]
    monkeypatch.undo()
    with pytest.raises(UserError) as caught:
        select(tmp_path)
    said = str(caught.value)
    assert f"runs {old} and {new} are one grid point under numerics versions 1 and {NUMERICS_VERSION}" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("differing", "words"),
    [
        ([{"mom_pred": 0.5}, {"mom_pred": 0.9}], ["mom_pred = 0.5, 0.9", "--runs_dir"]),
        ([{"epochs": 20}, {"epochs": 40, "log_every": 20}], ["epochs = 20, 40", "log_every = 10, 20"]),
        (
            [{"d_obs": 10 + k, "sigma_n": 0.1 * k} for k in range(6)],
            ["d_obs = 10, 11, 12, 13, ... (6 values)", "sigma_n"],
        ),
        ([{"lr_enc_mode": "ratio", "lr_enc": b} for b in (4e-4, 5e-4)], ["lr_enc / lr_pred = 0.4, 0.5"]),
        ([{"lr_enc_mode": "from_tau", "lr_enc": b} for b in (4e-3, 5e-3)], ["lr_enc / tau = 0.4, 0.5"]),
        (
            [{"lr_enc_mode": "auto", "lr_enc": None, "auto_beta_c": c} for c in (0.4, 0.8)],
            ["auto_beta_c = 0.4, 0.8"],
        ),
        (
            [
                {"lr_enc_mode": "auto", "lr_enc": None, "auto_beta_c": 0.4, "lr_pred": None, "auto_alpha_c": c}
                for c in (0.4, 0.8)
            ],
            ["auto_alpha_c = 0.4, 0.8"],
        ),
        ([{"lr_enc_mode": "same"}, {"lr_enc_mode": "ratio"}], ["--lr_enc_mode must be one of ratio, same"]),
        ([{"lr_enc_mode": None}], ["single runs only"]),
        ([{"tau": 0.0}], ["no grid point", "tau = 0"]),
        ([{"lr_enc": None, "auto_beta_c": 0.4}], ["no grid point", "lr_enc = auto"]),
    ],
)
def test_runs_that_no_axis_tells_apart_are_refused(
    tmp_path: Path, differing: list[dict[str, Any]], words: list[str]
) -> None:
    """Never averaged in silence, even where the seeds differ too."""
    for seed, fields in enumerate(differing):
        store_run(tmp_path, [1.0, 1.0, 1.0], seed=seed, **fields)
    with pytest.raises(UserError) as caught:
        select(tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mode_is_chosen_where_there_are_several(tmp_path: Path) -> None:
    store_run(tmp_path, [1.0, 1.0, 1.0], lr_enc_mode="same")
    store_run(tmp_path, [2.0, 2.0, 2.0], lr_enc_mode="ratio", mom_enc=0.1)
    (grid,) = select(tmp_path, lr_enc_mode="ratio")
    assert grid.setting.mode == "ratio" and grid.mean("loss_pop").item() == 2.0
    with pytest.raises(UserError, match=r"logspace has no run .* must be one of ratio, same"):
        select(tmp_path, lr_enc_mode="logspace")


def test_an_unknown_metric_lists_the_known_ones(tmp_path: Path) -> None:
    for field in ("metric", "enc_metric"):
        with pytest.raises(UserError) as caught:
            draw_figures(FigsConfig(runs_dir=str(tmp_path), **{field: "loss_popp"}))
        assert f"--{field} 'loss_popp'" in str(caught.value) and ", ".join(METRICS) in str(caught.value)


@pytest.mark.parametrize(("epoch", "instead"), [(2000, 20), (13, 10)])
def test_an_epoch_without_rows_is_refused_with_a_way_out(tmp_path: Path, epoch: int, instead: int) -> None:
    store_run(tmp_path, [1.0, 1.0, 1.0])
    with pytest.raises(UserError, match=rf"--epoch {epoch} .* the last at 20; give --epoch {instead}, or --use_last"):
        select(tmp_path, epoch=epoch)


def test_an_epoch_that_no_run_lived_to_see_is_drawn(tmp_path: Path) -> None:
    """Every run diverged before it: that is a result, not a mistake in `--epoch`."""
    store_run(tmp_path, [1.0], diverged=3)
    (grid,) = select(tmp_path)
    assert grid.any_diverged().all()


def test_an_empty_or_absent_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="runs folder"):
            select(folder)


# --- parts of figures ---


def test_rate_lines_lie_in_the_rectangle_on_their_law() -> None:
    alphas, taus = (1e-5, 1e-2), (1e-4, 1e-1)
    lines = rate_lines(alphas, taus, 0.9)
    for line, factor in zip(lines, (1.0, 0.1), strict=True):
        for alpha, tau in zip(line.alphas, line.taus, strict=True):
            assert alpha == pytest.approx(factor * tau, rel=1e-12)
            assert alphas[0] * (1 - 1e-12) <= alpha <= alphas[1] * (1 + 1e-12)
            assert taus[0] * (1 - 1e-12) <= tau <= taus[1] * (1 + 1e-12)


def test_rate_lines_out_of_sight_are_left_out_and_equal_ones_are_one() -> None:
    assert rate_lines((1.0, 10.0), (1e-4, 1e-2), 0.9) == []
    assert [line.dashed for line in rate_lines((1e-5, 1e-3), (1e-3, 1e-2), 0.9)] == [True]
    assert len(rate_lines((1e-3, 1e-1), (1e-3, 1e-1), 0.0)) == 1


def test_cell_edges_are_geometric_middles() -> None:
    np.testing.assert_allclose(
        cell_edges([1e-3, 1e-2, 1e-1], "log"), 10.0 ** np.array([-3.5, -2.5, -1.5, -0.5]), rtol=1e-12
    )
    low, high = cell_edges([0.02], "log")
    assert low * high == pytest.approx(0.02**2) and low < 0.02 < high


def test_labels_have_the_digits_that_keep_them_apart() -> None:
    assert power_labels([1e-4, 4e-5]) == ["$10^{-4}$", r"$4{\times}10^{-5}$"]
    assert len(set(power_labels([1.001e-3, 1.002e-3]))) == 2


def test_colour_limits_ignore_diverged_cells_and_show_that_they_do() -> None:
    values, diverged = np.array([1.0, 2.0, 1e9, NAN]), np.array([False, False, True, True])
    norm, extend = colour_scale(values, diverged)
    assert norm is not None and (norm.vmin, norm.vmax, extend) == (1.0, 2.0, "max")
    norm, extend = colour_scale(values, np.ones(4, dtype=bool))  # nothing else is left to show
    assert norm is not None and (norm.vmin, norm.vmax, extend) == (1.0, 1e9, "neither")
    norm, extend = colour_scale(values, np.array([False, True, True, True]))  # one cell is no scale
    assert norm is not None and (norm.vmin, norm.vmax, extend) == (1.0, 1e9, "neither")
    assert colour_scale(np.array([NAN]), np.array([False])) == (None, "neither")
    norm, _ = colour_scale(np.array([3.0, 3.0]), np.array([False, False]))
    assert norm is not None and norm.vmin is not None and norm.vmax is not None and norm.vmin < 3.0 < norm.vmax


# --- whole figures ---


def assert_legible(figure: Figure) -> None:
    """Nothing is cut off at the edge, and title, legend, axes with their labels, and tick labels do not overlap."""
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    tight, size = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert tight.x0 >= 0 and tight.y0 >= 0 and tight.x1 <= size[0] and tight.y1 <= size[1], (tight, size)
    parts: list[Any] = [*figure.axes, *figure.legends, *figure.texts]
    boxes = [part.get_tightbbox(renderer).padded(-0.5) for part in parts]
    for (one, box), (other, other_box) in combinations(zip(parts, boxes, strict=True), 2):
        assert not box.overlaps(other_box), (one, other)
    for ax in figure.axes:
        labels = [label.get_window_extent(renderer) for label in ax.get_xticklabels() if label.get_text()]
        assert not any(a.overlaps(b) for a, b in combinations(labels, 2)), ax


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def meshes(figure: Figure) -> list[tuple[Axes, QuadMesh]]:
    """The heatmap cells of each axes; a colour bar is a mesh of its own, without a title or ticks in x."""
    found = [(ax, c) for ax in figure.axes for c in ax.collections if isinstance(c, QuadMesh)]
    return [(ax, mesh) for ax, mesh in found if len(ax.get_xticks())]


RULES = {
    "same": ({}, "β = α"),
    "ratio": ({"enc_over_pred": 0.25}, "β = 0.25 α"),
    "from_tau": ({"beta_from_tau_c": 0.5}, "β = 0.5 τ"),
    "auto": ({"auto_beta_c": 0.3, "auto_alpha_c": 0.2}, "β_t = 0.3 τ / H_t"),
    "logspace": ({"lr_enc_logspace": (1e-5, 1e-2, 6)}, "one panel per encoder rate β"),
}


@pytest.mark.parametrize("mode", list(RULES))
def test_each_mode_is_drawn_and_explained(tmp_path: Path, mode: str) -> None:
    fields, rule = RULES[mode]
    sweep(SweepConfig(**(SMALL | fields | {"lr_enc_mode": mode})), tmp_path, workers=1)
    (grid,) = select(tmp_path, "erank_pred")
    figure = heatmap(grid, "erank_pred")
    assert_legible(figure)
    said = title(figure)
    assert rule in said
    for words in (f"erank_pred: mode {mode}, batch size 4, epoch 20, mean over 2 seeds", "r = 2, d = 6", "μ_P = 0.9"):
        assert words in said
    assert legend_texts(figure) == ["α = τ", "α / (1 − μ_P) = τ"]  # no patch for what does not occur
    panels = 6 if mode == "logspace" else 1
    cells = meshes(figure)
    assert len(cells) == panels + (mode == "auto")
    assert len({id(mesh.norm) for _, mesh in cells}) == 1, "one colour scale"
    assert any("[lr_pred]" in ax.get_xlabel() for ax, _ in cells) and any(
        "τ = 1 − m" in a.get_ylabel() for a, _ in cells
    )
    assert [ax.get_title().startswith("β = ") for ax, _ in cells] == [mode == "logspace"] * len(cells)
    assert any(METRICS["erank_pred"] in ax.get_ylabel() for ax in figure.axes), "the colour bar says what it shows"
    if mode == "auto":
        assert [t.get_text() for t in cells[1][0].get_xticklabels()] == ["auto"]
        assert "column auto: α_t = 0.2 τ / H_t" in said
    lines = loss_slices(grid)
    assert_legible(lines)
    assert len(lines.axes) == len(cells) and legend_texts(lines) == ["$10^{-1}$", "$10^{-2}$"]
    assert "[loss_rel]" in lines.axes[0].get_ylabel() and "bars: smallest to largest seed" in title(lines)
    assert lines.axes[0].get_xscale() == lines.axes[0].get_yscale() == "log"


def test_diverged_cells_are_hatched_and_points_crossed(tmp_path: Path) -> None:
    """Predictor rates far beyond the stability limit diverge in every row; the others do not."""
    fields = {"lr_enc_mode": "same", "lr_pred_logspace": (1e-3, 1e3, 3), "epochs": 200, "log_every": 100}
    sweep(SweepConfig(**(SMALL | fields)), tmp_path, workers=1)
    for last in (False, True):
        (grid,) = select(tmp_path, "BA_err_aligned", epoch=200, use_last_valid=last)
        count = int(grid.any_diverged().sum())
        assert 2 <= count < 6
        figure, lines = heatmap(grid, "BA_err_aligned"), loss_slices(grid)
        assert_legible(figure)
        assert_legible(lines)
        (ax, _), *_ = meshes(figure)
        assert sum(isinstance(patch, Rectangle) and bool(patch.get_hatch()) for patch in ax.patches) == count
        assert "a seed diverged" in legend_texts(figure) and "a seed diverged" in legend_texts(lines)
        crosses = sum(len(line.get_xdata()) for line in lines.axes[0].lines if line.get_marker() == "x")
        assert crosses == count
        assert ("or last valid before" in title(figure)) is last


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_collapsed_cells_and_points_are_marked(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    """A collapsing run has the least loss of all: it is marked, and colour limits are those of the others."""
    for seed in seeds:
        for alpha in (1e-3, 1e-2):
            store_run(tmp_path, [3.0, 3.0, 2.0], scale=[1.0, 1.0, 1.0], lr_pred=alpha, lr_enc=alpha, seed=seed)
        store_run(tmp_path, [3.0, 3.0, 1e-17], scale=[1.0, 1.0, 1e-16], lr_pred=0.1, lr_enc=0.1, seed=seed)
    (grid,) = select(tmp_path, "W_Fro_raw")
    figure, lines = heatmap(grid, "loss_pop"), loss_slices(grid)
    label = "collapsed" if len(seeds) == 1 else "a seed collapsed"
    for drawn in (figure, lines):
        assert_legible(drawn)
        assert label in legend_texts(drawn)
        marks = [line for line in drawn.axes[0].lines if line.get_marker() == "v"]
        assert [x for line in marks for x in line.get_xdata()] == [pytest.approx(0.1)]
    ((_, mesh),) = meshes(figure)
    assert mesh.norm.vmin is not None and mesh.norm.vmin > 1
    without_values = heatmap(grid, "W_Fro_raw").axes[0]
    heights = {line.get_marker(): line.get_ydata()[0] for line in without_values.lines}
    assert heights["v"] < heights["o"], "a cell without a value that collapsed shows both marks"


def test_old_files_show_the_bare_loss(tmp_path: Path) -> None:
    """Files that were written before there was a `loss_rel` hold nulls there."""
    sweep(SweepConfig(**SMALL), tmp_path, workers=1)
    (grid,) = select(tmp_path)
    assert "loss_rel against α" in title(slices(grid))
    grid.values["loss_rel"][:] = NAN  # type: ignore[index]
    assert "loss_pop against α" in title(slices(grid))


def slices(grid: Grid) -> Figure:
    """The slices as `byolsim figs` draws them."""
    return catalogue(FigsConfig())["slices_loss_vs_alpha"].draw(grid)


def test_no_finite_value_is_said_and_not_raised(tmp_path: Path) -> None:
    store_run(tmp_path, [1.0], diverged=3, tau=0.01)
    store_run(tmp_path, [1.0, 1.0, NAN], tau=0.1)
    (grid,) = select(tmp_path, "W_Fro_aligned")
    figure, lines = heatmap(grid, "W_Fro_aligned"), loss_slices(grid)
    assert_legible(figure)
    assert_legible(lines)
    assert "no run has a finite value of W_Fro_aligned" in title(figure) and "no run has a finite loss" in title(lines)
    assert {"diverged", "run without a value"} <= set(legend_texts(figure))


def test_zero_losses_get_a_linear_axis(tmp_path: Path) -> None:
    store_run(tmp_path, [1.0, 1.0, 0.0], tau=0.01)
    store_run(tmp_path, [1.0, 1.0, 2.0], tau=0.1)
    (grid,) = select(tmp_path)
    figure = loss_slices(grid)
    assert_legible(figure)
    assert figure.axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    "points",
    [
        [(1e-3, 1e-2)],
        [(1e-3, t) for t in (1e-3, 2e-3)],
        [(a, 1e-2) for a in np.geomspace(1e-3, 2e-3, 14)],
        [(1e-3, t) for t in np.geomspace(1e-4, 1, 23)],
        [(1e-4, 1e-4), (1e-3, 1e-2)],
    ],
    ids=["one cell", "one column", "many close columns", "many rows", "missing cells"],
)
def test_grids_of_any_shape_are_legible(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    for alpha, tau in points:
        store_run(tmp_path, [1.0, 1.0, alpha / tau], lr_pred=float(alpha), lr_enc=float(alpha), tau=float(tau))
    (grid,) = select(tmp_path)
    figure = heatmap(grid, "loss_pop")
    assert_legible(figure)
    assert_legible(loss_slices(grid))
    assert ("no run" in legend_texts(figure)) == bool(grid.missing().any())


def test_small_panels_and_long_titles_are_legible(tmp_path: Path) -> None:
    """Close columns have long tick labels, and every hyperparameter off its default is told in the title."""
    unusual = {"weight_decay": 0.015, "latent_spectrum": "linear:0.125:8", "mixing": "gaussian", "init": "random"}
    for alpha in np.geomspace(1e-3, 2e-3, 14):
        for beta in (1e-3, 2e-3, 3e-3, 4e-3):
            store_run(tmp_path, [1.0, 1.0, 1.0], lr_pred=float(alpha), lr_enc=beta, lr_enc_mode="logspace", **unusual)
    (grid,) = select(tmp_path, use_last_valid=True)
    for figure in (heatmap(grid, "loss_pop"), loss_slices(grid)):
        assert_legible(figure)
        assert all(f"{name} = {value}" in title(figure) for name, value in unusual.items())


# --- files and the command ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sweep(SweepConfig(**(SMALL | {"batch_sizes": (2, 4), "lr_pred_logspace": (1e-3, 1e-2, 2)})), folder, workers=1)
    return folder


def test_files_are_named_and_complete(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "figs"
    config = FigsConfig(runs_dir=str(runs), epoch=20, out=str(out))
    paths, skipped = draw_figures(config)
    heatmaps = {f"heatmap_{metric}" for metric in ("W_Fro_aligned", "BA_err_aligned", "erank_encoded", "erank_pred")}
    assert heatmaps | {"slices_loss_vs_alpha"} <= catalogue(config).keys()
    names = [f"{name}_bs{n}_epoch20.png" for n in (2, 4) for name in catalogue(config)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names) == sorted(path.name for path in paths)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths) and skipped == []


def test_command_draws_each_metric_once_and_names_damaged_files(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "runs", tmp_path / "figs"
    shutil.copytree(runs, folder, ignore=shutil.ignore_patterns("*bs4*"))
    one, *_ = sorted(folder.iterdir())
    one.write_bytes(one.read_bytes()[:-10])
    (folder / "foreign.parquet").write_text("not Parquet")
    with pytest.raises(SystemExit) as caught:
        main(["figs", f"--runs_dir={folder}", f"--out={out}", "--epoch=20", "--metric=loss", "--enc-metric=loss"])
    said = capsys.readouterr()
    assert caught.value.code == 0
    pictures = catalogue(FigsConfig(metric="loss", enc_metric="loss"))
    assert said.out.count("wrote") == len(list(out.iterdir())) == len(pictures)
    assert [name for name in pictures if name.endswith("_loss")] == ["heatmap_loss"]
    *skipped, count = said.err.splitlines()
    assert [line.startswith("skipped") for line in skipped] == [True, True]
    assert count == "2 files skipped"
    assert one.name in said.err and "foreign.parquet" in said.err


def test_a_mistake_is_one_line_and_writes_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--epoch=21", "--metric=los", "--lr_enc_mode=same"):
        with pytest.raises(SystemExit) as caught:
            main(["figs", f"--runs_dir={runs}", f"--out={tmp_path / 'figs'}", option])
        assert caught.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "figs").exists()


def test_a_folder_that_cannot_be_written_is_a_users_mistake(runs: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "figs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write"):
        draw_figures(FigsConfig(runs_dir=str(runs), epoch=20, out=str(blocked)))


def test_drawing_needs_no_pyplot_and_no_simulation() -> None:
    """No display, no global state; and pictures of stored runs load neither the compiler nor the launcher."""
    code = (
        "import sys, byolsim.analysis.figures\n"
        "bad = {'matplotlib.pyplot', 'numba', 'byolsim.sweeps.launch', 'byolsim.simulate'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
