"""The commands of docs/methods.md, as they are typed, end as their page says: each section's "Expect"."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import byolsim

from byolsim.store.folder import load_runs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^byolsim run .*$", body, re.MULTILINE)
    for title, body in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE)
}
LAM = np.geomspace(10, 0.1, 10)
KAPPA = LAM + 0.25
W = LAM / KAPPA
"""Of the default world: the signal of each mode, its variance and its Wiener gain."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Run:
    """What a command left behind: columns (rows,), and lists (rows, numbers)."""

    out: str
    table: Any

    def __getitem__(self, name: str) -> np.ndarray:
        column = self.table[name].to_pylist()
        return np.array([np.nan if value is None else value for value in column], dtype=np.float64)

    @property
    def share(self) -> float:
        """What is left of the variance of the strongest mode."""
        return float(self["Hmax_exact"][-1] / self["Hmax_exact"][0])

    @property
    def collapsed(self) -> bool:
        return "collapsed: the features have vanished" in self.out


def run(command: str, folder: Path, more: str = "") -> Run:
    """Carry the command out in this process."""
    before = set(folder.glob("*.parquet"))
    code, out, err = byolsim(*shlex.split(command)[1:], *shlex.split(more), "--out_dir", str(folder))
    assert code == 0 and "completed" in out, f"{command}: {out}{err}"
    (path,) = set(folder.glob("*.parquet")) - before
    return Run(out, load_runs(folder).filter(_named(path)))


def _named(path: Path) -> Any:
    import pyarrow.compute as pc

    return pc.field("run_id") == path.stem.split("-")[-1]


def runs(title: str, folder: Path, more: str = "") -> list[Run]:
    """All commands of a section."""
    return [run(command, folder, more) for command in SECTIONS[title]]


def test_every_method_of_the_table_has_its_section():
    linked = re.findall(r"^\| \[.*?\]\(#(.*?)\)", PAGE, re.MULTILINE)
    titles = {title.lower().replace(",", "").replace(" ", "-"): title for title in SECTIONS}
    assert len(linked) == 10 and set(linked) == set(titles)
    assert all(SECTIONS[titles[name]] for name in linked)


def test_byol_learns_strong_modes_first_and_a_cosine_takes_the_noise(tmp_path):
    (byol,), (cosine,) = runs("BYOL", tmp_path), runs("BYOL with a cosine EMA", tmp_path)
    np.testing.assert_allclose(byol["P_eig_re"][-1, :6], W[:6], rtol=0.1)
    assert byol["P_eig_re"][-1, 6] < 0.1 < W[6]
    assert cosine["P_eig_re"][-1, 5] < 0.7 * byol["P_eig_re"][-1, 5], "later"
    assert cosine["tau_t"][-1] == 0 == cosine["lr_enc_t"][-1] and byol["tau_t"][-1] == pytest.approx(0.004)
    for more, lower in (("", 0.3), ("--epochs 20000 --log_every 100", 1.0)):
        if more:
            (byol,), (cosine,) = runs("BYOL", tmp_path, more), runs("BYOL with a cosine EMA", tmp_path, more)
        fall = byol["W_excess"][-20:].mean() - cosine["W_excess"][-20:].mean()
        assert fall == pytest.approx(lower, abs=0.15)


def test_simsiam_learns_as_byol_does(tmp_path):
    (simsiam,) = runs("SimSiam", tmp_path)
    np.testing.assert_allclose(simsiam["P_eig_re"][-1, :6], W[:6], rtol=0.1)
    assert simsiam["loss_rel"][-1] < 0.15 and simsiam["gap"][-1] == 0


def test_directpred_and_directcopy_keep_their_size_and_the_code_collapses(tmp_path):
    """At the fixed points P = W; at this n the noise of F takes a tenth or two from the gains."""
    direct, copy, code = runs("DirectPred and DirectCopy", tmp_path)
    for one in (direct, copy):
        assert 0.4 < one.share < 0.7
        np.testing.assert_allclose(one["mode_gain"][-50:, :5].mean(axis=0), W[:5], atol=0.15)
    still = run(SECTIONS["DirectPred and DirectCopy"][1], tmp_path, "--sampler population --epochs 20000")
    np.testing.assert_allclose(still["P_eig_re"][-1, :6], W[:6], rtol=0.01)
    assert code.share == pytest.approx(1 / 8, rel=0.1)
    assert code["P_eig_re"][-1, 0] == pytest.approx(1.1, rel=1e-9)
    fast = run(SECTIONS["DirectPred and DirectCopy"][2], tmp_path, "--ema_m 0")
    assert 1e-9 < fast.share < 1e-7


def test_directset_drops_what_is_noisy(tmp_path):
    """Of the default world three modes are past the threshold; the fourth starts below p_- = 0.136."""
    default, theorem = runs("DirectSet", tmp_path)
    assert list(default["BB_eig"][-1] > 0.1) == [True] * 6 + [False] * 4
    assert list(LAM**2 / (4 * KAPPA) > 0.05) == [True] * 7 + [False] * 3
    edge = (LAM[6] - np.sqrt(LAM[6] ** 2 - 4 * 0.05 * KAPPA[6])) / (2 * KAPPA[6])
    assert default["mode_energy"][0, 6] / KAPPA[6] < 0.6 * edge
    np.testing.assert_allclose(theorem["BB_eig"][-1], [(1 + np.sqrt(0.2)) / 2] * 3 + [0] * 3, atol=1e-3)


def test_isoloss_does_not_make_small_modes_wait(tmp_path):
    """Both commands, and the full Jacobian in place of the straight one, at the end of the same time."""
    for command in SECTIONS["IsoLoss"]:
        other = command.replace("--pred_jacobian straight ", "")
        straight, full = run(command, tmp_path), run(other, tmp_path)
        assert not straight.collapsed
        np.testing.assert_allclose(straight["mode_gain"][-50:, :5].mean(axis=0), W[:5], atol=0.02)
        assert straight["mode_energy"][-1, 8] > 5 * full["mode_energy"][-1, 8]
    first = SECTIONS["IsoLoss"][0]
    for command, modes in ((first, 9), (first.replace("--pred_jacobian straight ", ""), 2)):
        small = run(command, tmp_path, "--init_scale 0.1")
        fixed = W * KAPPA  # energy of a mode whose square b^2 = p is its gain
        assert list(small["mode_energy"][-1] > 0.7 * fixed) == [True] * modes + [False] * (10 - modes)


def test_self_predictive_learning_keeps_its_gram_matrix_and_the_start_decides_between_signs(tmp_path):
    plain, signed = runs("Self-predictive learning", tmp_path)
    assert plain["span_err"][-1] < 0.05 < 1 < plain["span_err"][0]
    for one in (plain, signed):
        assert (np.diff(one["BB_eig"], axis=0) > -1e-9).all(), "beta^2 P^T G G^T P is added: nothing collapses"
    np.testing.assert_allclose(signed["P_eig_re"][-1], np.array([9, -9, 7, 5]) / 9 / 1.25, atol=1e-3)
    seeds = [run(SECTIONS["Self-predictive learning"][1], tmp_path, f"--seed {seed}") for seed in range(10)]
    ends = [np.sort(np.abs(one["P_eig_re"][-1]))[0] * 1.25 for one in seeds]
    assert sum(end == pytest.approx(7 / 9, abs=1e-2) for end in ends) > 5, "two and two"


def test_a_deep_jepa_learns_mode_after_mode_to_the_power_of_its_depth(tmp_path):
    (jepa,) = runs("Deep JEPA", tmp_path)
    energy = jepa["mode_energy"]
    times = [int(np.argmax(energy[:, j] > energy[-1, j] / 2)) for j in range(5)]
    assert times == sorted(times) and times[4] > 3 * times[0]
    size = np.sqrt(energy[-1] / KAPPA)
    np.testing.assert_allclose(size[:5], W[:5] ** 3, rtol=0.01)
    assert 0.1 < size[5] < 0.9 * W[5] ** 3
    (jepa,) = runs("Deep JEPA", tmp_path, "--epochs 20000")
    size = np.sqrt(jepa["mode_energy"][-1] / KAPPA)
    np.testing.assert_allclose(size[:8], W[:8] ** 3, rtol=0.01)
    assert (W[8:] ** 3 < size[8:]).all() and (size[8:] < 0.1).all()


def test_controls_collapse(tmp_path):
    """Without a predictor by e^(-2 beta sigma^2 t), beta = 1e-3 / (1 - 0.95), in power; to a factor of e^2."""
    identity, open_loss = runs("Controls", tmp_path)
    assert identity.collapsed and open_loss.collapsed
    assert np.log(identity.share) == pytest.approx(-2 * 0.02 * 0.25 * 2000, abs=2)
    assert open_loss.share < identity.share
    delayed = run(SECTIONS["Controls"][0].replace(" --ema_m 0", ""), tmp_path)
    assert identity.share < 1e-3 * delayed.share and not delayed.collapsed
