"""The spellings that a user tries: what is meant is understood, and what cannot be is told where it belongs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cases import byolsim, four_runs, store_made_up

from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.store.folder import read_folder

TINY = "--d_latent 2 --d_obs 4 --latent_spectrum flat:1 --epochs 8 --log_every 4"
GRID = f"{TINY} --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 --workers 1"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def stored(folder: str = "runs_parquet") -> list[RunConfig]:
    return [info.config for info, _ in read_folder(folder, ["epoch"]).runs]


def run_id(out: str) -> str:
    """The id that a dry run names."""
    return out.rsplit(" ", 1)[1].strip()


def refused(line: str) -> str:
    """The one line of a mistake."""
    code, out, err = byolsim(line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("byolsim: ").rstrip()


# --- flags and numbers ---


@pytest.mark.parametrize(
    ("words", "logged"),
    [("--log_wandb", 1), ("--log_wandb true", 1), ("--log_wandb=yes", 1), ("--log_wandb false", 0), ("", 0)],
)
@pytest.mark.parametrize("after", ["", "--seed 3"])
def test_log_wandb_alone_means_true(monkeypatch, words, logged, after):
    records = []
    monkeypatch.setattr("byolsim.sweeps.writer.log_run", lambda record, out_dir: records.append(record))
    assert byolsim(f"run {TINY} {words} {after}")[0] == 0
    assert len(records) == logged
    assert len(stored()) == 1


@pytest.mark.parametrize("text", ["1e3", "1000", "1.0e3", "1E+3", "10000e-1"])
def test_a_whole_number_in_any_spelling(text):
    plain = byolsim("run --epochs 1000 --dry_run")
    assert plain[0] == 0
    assert byolsim(f"run --epochs {text} --dry_run") == plain
    Path("c.toml").write_text("epochs = 1e3\n")
    assert byolsim("run --config c.toml --dry_run") == plain


@pytest.mark.parametrize("text", ["1.5e0", "1e-3", "1e999999999", "-1e999999999", "nan", "inf", "0x10"])
def test_what_is_no_whole_number(text):
    assert refused(f"run --epochs {text}") == (
        f"--epochs = '{text}' (text) is not allowed: must be a whole number >= 1 and <= 1e+12"
    )


def test_whole_numbers_in_lists():
    code, out, _ = byolsim(f"sweep {TINY} --seeds 1e0 2 --batch_sizes 1e3 --tau_logspace 1e-2 1e-1 2e0 --dry_run")
    assert code == 0
    assert out.startswith("20 runs of mode auto")
    assert refused("sweep --seeds 1.5").startswith("--seeds = '1.5' (text) is not allowed")


def test_a_fraction_in_a_file_is_no_whole_number():
    Path("c.toml").write_text("epochs = 1.5\n")
    assert (
        refused("run --config c.toml")
        == "c.toml: epochs = 1.5 is not allowed: must be a whole number >= 1 and <= 1e+12"
    )


@pytest.mark.parametrize(
    "words",
    ["geometric: 0.1 :10", "geometric : 0.1 : 10", "'geometric: 0.1 :10'", "' geometric:0.1:10 '", "geometric:0.1: 10"],
)
def test_blanks_in_a_spectrum(words):
    assert byolsim(f"run --latent_spectrum {words} --dry_run") == byolsim("run --dry_run")


@pytest.mark.parametrize("words", ["3 2 1", "'3 2 1'", "3,2,1", "'3, 2, 1'", "3, 2 1"])
def test_a_spectrum_as_a_list(words):
    code, out, err = byolsim(f"run --d_latent 3 --latent_spectrum {words} --dry_run")
    assert (code, err) == (0, "")
    assert run_id(out) == RunConfig(d_latent=3, latent_spectrum="3,2,1").run_id


def test_blanks_do_not_join_numbers():
    """`geometric:0.1 10` is no spectrum, and above all not geometric:0.110."""
    for words in ("geometric:0.1 10", "'geometric:0.1 10'", "flat:1 2", "geometric: 0.1 : 1 0"):
        assert "is not allowed" in refused(f"run --latent_spectrum {words}")


# --- the EMA rate and the axes of a grid ---


def test_tau_is_one_minus_ema_m():
    code, out, _ = byolsim("run --tau 1e-2 --dry_run")
    assert code == 0
    assert run_id(out) == RunConfig(tau=1e-2).run_id
    assert byolsim("run --ema_m 0.99 --dry_run")[1] == out
    Path("c.toml").write_text("tau = 0.01\n")
    assert byolsim("run --config c.toml --dry_run")[1] == out


def test_tau_and_ema_m_are_not_both_given():
    assert refused("run --tau 1e-2 --ema_m 0.99") == "ema_m and tau are one number: give one of them"
    assert refused("run --tau 2") == "--tau = 2.0 is not allowed: must be a number >= 0 and <= 1"
    assert refused("run --tau x") == "--tau = 'x' (text) is not allowed: must be a number >= 0 and <= 1"


@pytest.mark.parametrize(("in_file", "typed"), [("tau = 0.1", "--ema_m 0.99"), ("ema_m = 0.9", "--tau 0.01")])
def test_the_command_line_wins_also_by_the_other_name(in_file, typed):
    Path("c.toml").write_text(in_file)
    assert run_id(byolsim(f"run --config c.toml {typed} --dry_run")[1]) == RunConfig(tau=0.01).run_id


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("sweep --ema_m 0.9", "--tau_logspace"),
        ("sweep --tau 1e-2", "--tau_logspace"),
        ("all --ema-m=0.9", "--tau_logspace"),
        ("sweep --seed 3", "--seeds"),
        ("sweep --batch_size 3", "--batch_sizes"),
        ("sweep --lr_pred 1e-3", "--lr_pred_logspace"),
        ("sweep --lr_enc 1e-3", "--lr_enc_logspace"),
        ("run --seeds 3", "--seed"),
        ("run --batch_sizes 3", "--batch_size"),
        ("run --tau_logspace 1e-2 1e-1 2", "--ema_m"),
        ("run --lr_pred_logspace 1e-2 1e-1 2", "--lr_pred"),
        ("run --lr_enc_logspace 1e-2 1e-1 2", "--lr_enc"),
    ],
)
def test_an_option_of_one_run_is_led_to_the_axis_of_the_grid_and_back(line, option):
    command, name = line.split()[0], line.split()[1].partition("=")[0].replace("-", "_")[2:]
    message = refused(line)
    kind = "one run has" if command == "run" else "a grid has"
    assert message.startswith(f"No such option '--{name}': {kind} {option}"), message
    assert ("tau = 1 - ema_m" in message) == (option == "--tau_logspace")


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("sweep --weight_decay 0 0.1", "--weight_decay takes one value, not 0 0.1"),
        ("sweep --weight-decay=0 0.1 0.2 --seeds 1", "--weight_decay takes one value, not 0 0.1 0.2"),
        (
            "sweep --weight_decay 0,0.1",
            "--weight_decay = '0,0.1' (text) is not allowed: must be a number >= 0 and <= 1000000",
        ),
        (
            "sweep --config c.toml",
            "c.toml: weight_decay = [0, 0.1] is not allowed: must be a number >= 0 and <= 1000000",
        ),
    ],
)
def test_what_is_no_axis_says_so(line, given):
    Path("c.toml").write_text("weight_decay = [0, 0.1]")
    assert refused(line) == (
        f"{given}; it is no axis of the grid, whose axes are --seeds, --batch_sizes, --lr_pred_logspace, "
        "--tau_logspace, --lr_enc_logspace"
    )
    assert refused("run --weight_decay 0 0.1") == "--weight_decay takes one value, not 0 0.1"
    assert refused("run stray") == "Got unexpected extra argument (stray)"
    assert refused("sweep --force stray") == "Got unexpected extra argument (stray)"


def test_one_step_of_a_range_is_noted():
    code, _, err = byolsim(f"sweep {TINY} --seeds 1 --tau_logspace 1e-2 1e-1 1 --dry_run")
    assert code == 0
    assert err == "note: tau_logspace = 0.01 0.1 1 is START alone: STOP = 0.1 is not used with STEPS = 1\n"
    assert byolsim(f"sweep {TINY} --tau_logspace 1e-2 1e-2 1 --dry_run")[2] == ""


@pytest.mark.parametrize("name", ["stop_grad", "pred_symmetric", "symmetric_loss"])
def test_a_switch_has_two_forms_and_no_value(name):
    """Both forms, with dashes too, are the values true and false of a file; one of them is the default."""
    for command in ("run", "sweep", "all"):
        code, out, _ = byolsim(f"{command} --help")
        assert code == 0 and f"--{name} / --no_{name}" in out

    def dry(words):
        code, out, _ = byolsim(f"run {TINY} --backend numpy --dry_run {words}")
        assert code == 0
        return run_id(out)

    default, ids = dry(""), {}
    for value, form in ((True, f"--{name}"), (False, f"--no-{name.replace('_', '-')}")):
        Path("c.toml").write_text(f"{name} = {str(value).lower()}")
        ids[value] = dry(form)
        assert ids[value] == dry("--config c.toml")
    assert default in ids.values() and len(set(ids.values())) == 2
    assert refused(f"run --{name} true") == f"--{name} takes no value, not true: its other form is --no_{name}"
    assert refused(f"run --no_{name} true") == f"--no_{name} takes no value, not true: its other form is --{name}"


def test_a_grid_says_which_axis_a_rule_or_a_loss_takes_away():
    given = "--lr_pred_logspace 1e-3 1e-2 1 --tau_logspace 1e-2 1e-1 2 --dry_run --backend numpy"
    code, out, err = byolsim(f"sweep {TINY} {given} --pred_rule directcopy")
    assert code == 0 and out.startswith("8 runs"), "seeds x batch sizes x taus"
    assert err == "note: lr_pred_logspace is not used: pred_rule = 'directcopy' sets the predictor, which has no rate\n"
    code, out, err = byolsim(f"sweep {TINY} {given} --no_stop_grad --lr_enc_mode same")
    assert code == 0 and out.startswith("4 runs"), "seeds x batch sizes, at one alpha and tau = 1"
    assert err.splitlines()[0] == "note: tau_logspace is not used: stop_grad = False has one encoder and no EMA"
    line = refused(f"sweep {TINY} --no_stop_grad --lr_enc_mode from_tau")
    assert line == (
        "lr_enc_mode = 'from_tau' takes beta from tau, which stop_grad = False has not: use 'same', 'ratio', "
        "'logspace' or 'auto'"
    )


def test_what_says_how_a_predictor_learns_is_not_used_where_a_rule_sets_it():
    told = "is not used: pred_rule = 'optimal' sets the predictor, which takes no step of its own"
    given = f"{TINY} --pred_rule optimal --mom_pred 0.5 --dry_run --backend numpy"
    assert byolsim(f"run {given}")[2] == f"note: mom_pred {told}\n"
    notes = byolsim(f"sweep {given} --auto_alpha_c 0.3")[2].splitlines()
    assert notes == [f"note: mom_pred {told}", f"note: auto_alpha_c {told}"]
    assert byolsim(f"run {TINY} --mom_pred 0.5 --dry_run --backend numpy")[2] == ""


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("--pred_rule directcopy", "no predictor rate alpha (pred_rule = 'directcopy')"),
        ("--no_stop_grad", "no EMA rate tau (stop_grad = False)"),
    ],
)
def test_figures_of_a_grid_without_one_of_their_axes_are_refused_in_one_line(words, missing):
    assert byolsim(f"sweep {GRID} --backend numpy {words}")[0] == 0
    line = refused("figs --epoch 8")
    assert f"has {missing}: figures over alpha and tau need both" in line


# --- files of options ---

EVERYTHING = """
d_latent = 2
d_obs = 4
latent_spectrum = "flat:1"
epochs = 8
log_every = 4
seed = 7
tau = 0.5
lr_pred = 0.01
run_name = "one"
seeds = 1
batch_size = 64
batch_sizes = 3
tau_logspace = [1e-2, 1e-1, 2]
lr_pred_logspace = [1e-3, 1e-2, 2]
lr_enc_mode = "same"
workers = 1
epoch = 8
out = "pictures"
metric = "loss_pop"
where = "seed<8"
format = "csv"
to = "all.csv"
"""


def test_one_file_serves_every_command():
    Path("c.toml").write_text(EVERYTHING)
    lines = {}
    for command in ("run", "sweep", "figs", "ls", "export"):
        code, out, err = byolsim(f"{command} --config c.toml")
        assert code == 0, err
        assert "note" not in err
        lines[command] = out
    assert "wrote runs_parquet/one.parquet" in lines["run"]
    assert "4 runs in runs_parquet: 4 completed" in lines["sweep"]
    assert "wrote pictures/heatmap_loss_pop_bs3_epoch8.png" in lines["figs"]
    assert lines["ls"].startswith("run_id,status") and lines["ls"].count("\n") == 6
    assert lines["export"].startswith("wrote all.csv")
    assert {config.seed for config in stored()} == {1, 7}
    assert (
        RunConfig(d_latent=2, d_obs=4, latent_spectrum="flat:1", epochs=8, log_every=4, seed=7, tau=0.5, lr_pred=0.01)
        in stored()
    )


def test_all_reads_the_single_run_from_the_file_too():
    Path("c.toml").write_text(EVERYTHING)
    code, out, err = byolsim("all --config c.toml")
    assert code == 0, err
    assert "wrote runs_parquet/one.parquet" in out
    assert {config.seed for config in stored()} == {1, 7}


def test_a_key_of_no_command_is_an_error_still():
    Path("c.toml").write_text("seedz = 3")
    for command in ("run", "sweep", "figs", "ls", "export", "all"):
        assert refused(f"{command} --config c.toml").startswith("c.toml: unknown key 'seedz': did you mean 'seed")
    Path("c.toml").write_text("config = 3")
    assert refused("run --config c.toml").startswith("c.toml: unknown key 'config'")


def test_a_key_of_the_other_kind_of_run_is_noted_where_nothing_takes_its_place():
    Path("c.toml").write_text("ema_m = 0.9\nbatch_size = 3\nbatch_sizes = [3]\n")
    code, _, err = byolsim(f"sweep {TINY} --seeds 1 --config c.toml --dry_run")
    assert code == 0
    assert err == "note: c.toml: ema_m is not used: a grid has tau_logspace\n"
    assert byolsim(f"run {TINY} --config c.toml --dry_run")[2] == ""


@pytest.mark.parametrize("text", ["batch_sizes = 3\nseeds = 1", "batch_sizes = [3]\nseeds = [1]"])
def test_one_number_is_a_list_of_one(text):
    Path("c.toml").write_text(text)
    line = "--tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 --dry_run"
    assert byolsim(f"sweep {TINY} {line} --config c.toml")[1].startswith("6 runs of mode auto")
    assert SweepConfig(seeds=1, batch_sizes=3) == SweepConfig(seeds=(1,), batch_sizes=(3,))
    Path("c.toml").write_text("batch_sizes = true")
    assert refused("sweep --config c.toml").startswith("c.toml: batch_sizes = True is not allowed: must be one or more")
    Path("c.toml").write_text("tau_logspace = 0.1")
    assert refused("sweep --config c.toml").startswith("c.toml: tau_logspace = 0.1 is not allowed: must be START STOP")


# --- folders, figures, words ---


@pytest.mark.parametrize("command", ["figs", "ls", "export"])
def test_a_file_is_no_runs_folder(command):
    Path("notes.txt").write_text("mine")
    message = refused(f"{command} --runs_dir notes.txt")
    assert message == "runs folder 'notes.txt' is a file: must be a folder of run files"


@pytest.mark.parametrize("backend", ["nonsense", "qtagg", ""])
def test_figures_whatever_the_backend_of_the_user(backend):
    assert byolsim(f"sweep {GRID}")[0] == 0
    command = [sys.executable, "-m", "byolsim", *shlex.split("figs --epoch 8 --metric loss_pop --out f")]
    done = subprocess.run(
        command, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("f/heatmap_loss_pop_bs3_epoch8.png").stat().st_size > 1000


def test_a_diverged_run_says_when_and_of_how_many_epochs():
    out = byolsim(f"run {TINY} --epochs 100 --lr_pred 1e3")[1]
    (line,) = [line for line in out.splitlines() if line.startswith("diverged")]
    assert line.startswith("diverged at epoch 3 of 100, after ")
    assert "100 epochs in" not in out


# --- figs --where, figs --out ---


def test_figs_draws_what_where_selects():
    four_runs(Path("runs_parquet"))
    before = byolsim("figs --epoch 20 --out all --where tau>0")
    assert before[0] == 0
    code, out, _ = byolsim("figs --epoch 20 --out some --where 'tau<1e-1 and seed==1' --where status==completed")
    assert code == 0
    assert out.count("wrote some/") == 5
    assert Path("some/heatmap_erank_pred_bs64_epoch20.png").read_bytes() != (
        Path("all/heatmap_erank_pred_bs64_epoch20.png").read_bytes()
    )
    message = refused("figs --epoch 20 --where seed==77")
    assert message == "--where 'seed==77' selects none of the 3 runs of a sweep in 'runs_parquet'"
    assert "unknown name 'taus'" in refused("figs --where 'taus<1'")


def test_where_tells_modes_and_sweeps_apart():
    """What figs refuses to mix, `--where` takes apart."""
    folder = four_runs(Path("runs_parquet"))
    assert "3 runs" in refused("figs --epoch 20 --where seed==9")
    store_made_up(folder, tau=1e-2, seed=2, mom_pred=0.5)
    assert "differ in mom_pred" in refused("figs --epoch 20")
    assert byolsim("figs --epoch 20 --where mom_pred==0.5")[0] == 0


@pytest.mark.parametrize(
    "out", ["runs_parquet", "runs_parquet/", "./runs_parquet/figs", "x/../runs_parquet", "link", "link/a/b"]
)
def test_pictures_do_not_go_into_the_runs_folder(out):
    four_runs(Path("runs_parquet"))
    Path("link").symlink_to("runs_parquet")
    before = sorted(Path().rglob("*"))
    message = refused(f"figs --epoch 20 --out {out}")
    assert message == (
        f"--out {out!r} is in the runs folder 'runs_parquet', which readers of a whole folder take for runs: must be a "
        "folder outside it"
    )
    assert "is in the runs folder 'runs_parquet'" in refused(f"all {TINY} --out {out}")
    assert sorted(Path().rglob("*")) == before, "and nothing is computed before that is said"
