"""`byolsim world`, and `--world` of the other commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cases import byolsim
from worlds import OPTIONS, random_moments, world_file

from byolsim.config.run import RunConfig
from byolsim.config.world_file import read_moments
from byolsim.model.world import World
from byolsim.store.folder import read_folder

RUN = "--backend numpy --epochs 6 --log_every 3 --batch_size 4"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(line: str) -> str:
    """The one line of a mistake, of which nothing is left."""
    before = sorted(Path().rglob("*"))
    code, out, err = byolsim(line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sorted(Path().rglob("*")) == before
    return err.removeprefix("byolsim: ").rstrip()


def shown(line: str) -> dict:
    code, out, err = byolsim(f"world {line} --format json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_default_world():
    code, out, err = byolsim("world")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "shapes:    d = 100, q = 10 structured dimensions, r = 10 latents that the views share; k = 10"
    assert lines[1] == "noise:     sigma = 0.5, sigma_plus = 0.5"
    assert lines[2] == "symmetry:  S_px symmetric, W symmetric; modes decouple"
    assert lines[4] == "reduced:   available (d - q = 90, needs 4k = 40)"
    # 10 / 10.25, 10.25, 10 / 100 of it, 100 / (4 * 10.25)
    assert lines[7].split() == ["1", "0.97561", "10.25", "1.025", "2.43902"]
    assert len(lines) == 17


def test_numbers_as_json_are_those_of_the_world():
    facts = shown("--d_latent 3 --d_obs 20 --correlation 1 -0.5 0.25 --latent_spectrum 3 2 1 --d_embed 4 --seed 7")
    world = World.from_config(
        RunConfig(d_latent=3, d_obs=20, correlation="1,-0.5,0.25", latent_spectrum="3,2,1", d_embed=4, seed=7)
    )
    np.testing.assert_array_equal(facts["gains"], world.gains)
    assert (facts["k"], facts["room"], facts["has_reduced_form"], facts["digest"]) == (4, 17, True, None)


def test_a_file_with_or_without_the_name_of_the_option():
    world_file(Path(), d=9)
    plain = byolsim("world w.npz")
    assert plain[0] == 0
    assert byolsim("world --world w.npz") == plain
    assert byolsim("world --seed 3 w.npz") == plain
    Path("c.toml").write_text('world = "w.npz"\nepochs = 3\nseeds = [1]\n')
    assert byolsim("world --config c.toml")[1] == plain[1]
    assert f"digest:    {read_moments('w.npz').digest}" in plain[1]
    assert "(outside the moments)" in plain[1]
    assert "modes do not decouple: no thresholds, and gains are those of the symmetric part" in plain[1]
    assert "eta_c" not in plain[1]
    assert refused("world w.npz --world w.npz") == "--world and 'w.npz' are given: must be one of them"
    assert "extra argument" in refused("world w.npz w.npz")


def test_of_many_modes_the_first_and_the_last():
    out = byolsim("world --d_latent 30")[1].splitlines()
    assert [line.split()[0] for line in out[7:27]] == [str(k) for k in range(1, 21)]
    assert out[27] == "... 6 more"
    assert [line.split()[0] for line in out[28:]] == ["27", "28", "29", "30"]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_world_of_options_becomes_a_file_of_the_same_moments(name):
    """To be edited, and used: the same moments, whatever was inside and outside of them."""
    options = {"d_latent": 3, "d_obs": 9} | OPTIONS[name]
    words = " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in options.items())
    code, out, _ = byolsim(f"world {words} --out w.npz")
    assert code == 0 and out.endswith("wrote w.npz\n")
    mine, saved = World.from_config(RunConfig(**options)), World.from_config(RunConfig(world="w.npz"))
    for moment in ("Sigma_x", "Sigma_s", "Sigma_plus"):
        np.testing.assert_allclose(getattr(saved, moment), getattr(mine, moment), rtol=0, atol=1e-12)
    gains = np.array(shown("w.npz")["gains"])
    np.testing.assert_allclose(np.abs(gains), np.abs(shown(words)["gains"]), rtol=0, atol=1e-12)


def test_a_file_that_is_there_is_kept():
    Path("w.npz").write_text("mine")
    assert (
        refused("world --out w.npz") == "--out 'w.npz' is there already: choose another name, or --force to replace it"
    )
    assert refused("world --out w.txt") == "--out 'w.txt' is not allowed: must be a name that ends in .npz"
    assert byolsim("world --out w.npz --force")[0] == 0
    assert read_moments("w.npz").q == 10
    code, out, err = byolsim("world w.npz --out copy.npz --format json")
    assert (code, err) == (0, "wrote copy.npz\n")
    assert json.loads(out)["digest"] == read_moments("copy.npz").digest == read_moments("w.npz").digest


def test_options_of_a_run_are_none_of_a_world():
    assert refused("world --epochs 3") == "No such option '--epochs'."
    assert refused("world --d_latent 0").startswith("--d_latent = 0 is not allowed")
    assert refused("world --correlation 2").startswith("--correlation = '2' is not allowed")


def test_files_that_are_none():
    np.save("a.npy", np.eye(3))
    Path("cut.npz").write_bytes(Path(world_file(Path())).read_bytes()[:-40])
    S_xx, S_px, S_pp = random_moments(3, 1)
    np.savez("object.npz", S_xx=S_xx.astype(object), S_px=S_px, S_pp=S_pp)
    np.savez("asymmetric.npz", S_xx=np.triu(S_xx), S_px=S_px, S_pp=S_pp)
    np.savez("nan.npz", S_xx=S_xx, S_px=S_px * np.nan, S_pp=S_pp)
    for name, reason in (
        ("none.npz", "No such file or directory"),
        (".", "a folder"),
        ("a.npy", "not a whole .npz file"),
        ("cut.npz", "not a whole .npz file"),
        ("object.npz", "S_xx holds objects, not real numbers"),
        ("asymmetric.npz", "S_xx is not symmetric (off by "),
        ("nan.npz", "S_px holds a number that is not finite"),
    ):
        line = f"world = '{name}' is not a world file: {reason}"
        for command in (f"world {name}", f"run --world {name}", f"sweep --world {name}", f"all --world {name}"):
            assert refused(command).startswith(line)


@pytest.mark.parametrize("sampler", ["minibatch", "population", "moments"])
def test_runs_of_a_world_file(sampler):
    world_file(Path(), d=20)
    code, out, err = byolsim(f"run --world w.npz --d_embed 2 --sampler {sampler} {RUN}")
    assert code == 0, err
    assert "completed: 6 epochs" in out
    ((info, _),) = read_folder("runs_parquet", ["epoch"]).runs
    assert info.config == RunConfig(
        world="w.npz", d_embed=2, sampler=sampler, backend="numpy", epochs=6, log_every=3, batch_size=4
    )
    table = pq.read_table(next(Path("runs_parquet").glob("*.parquet")))
    assert set(table["world_id"].to_pylist()) == {read_moments("w.npz").digest}
    assert set(table["world"].to_pylist()) == {"w.npz"}
    assert "nothing computed" in byolsim(f"run --world ./w.npz --d_embed 2 --sampler {sampler} {RUN}")[1]
    Path("w.npz").unlink()
    assert byolsim("ls")[0] == 0, "what is stored is read without the file of its world"


def test_a_grid_of_a_world_file_from_a_toml_file():
    world_file(Path(), d=20)
    Path("c.toml").write_text('world = "w.npz"\nbackend = "numpy"\nepochs = 4\nlog_every = 2\nbatch_sizes = [4]\n')
    line = "sweep --config c.toml --seeds 1 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 --workers 1"
    code, out, err = byolsim(line)
    assert code == 0, err
    assert "6 runs in runs_parquet: 6 completed" in out
    assert "6 already there" in byolsim(line)[1]
    assert "d_latent = 3 has no meaning with world" in refused(f"{line} --d_latent 3")
