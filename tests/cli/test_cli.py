"""The command line as a user meets it: every spelling, every mistake one line and exit code 2."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from sweeps import complaints

from byolsim import __version__
from byolsim.cli import _COMMANDS, main
from byolsim.config.run import RunConfig
from byolsim.store.files import read_info
from byolsim.store.folder import read_folder
from byolsim.sweeps import compute

TINY = "--d_latent 2 --d_obs 4 --latent_spectrum flat:1 --epochs 8 --log_every 4"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def byolsim(capsys):
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def call(line):
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(line))
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


def runs(folder="runs_parquet"):
    return [info.config for info, _ in read_folder(folder, ["epoch"]).runs]


def test_run_writes_one_file_and_says_so(byolsim):
    code, out, err = byolsim(f"run {TINY}")
    assert (code, complaints(err)) == (0, "")
    (path,) = Path("runs_parquet").iterdir()
    assert f"wrote {path} (3 rows)" in out
    assert "completed: 8 epochs" in out
    code, out, _ = byolsim(f"run {TINY}")
    assert code == 0
    assert "is there already (completed)" in out
    before = path.stat().st_mtime_ns
    assert byolsim(f"run {TINY} --force")[0] == 0
    assert path.stat().st_mtime_ns > before


def test_the_literal_command_of_older_scripts(byolsim):
    code, _, err = byolsim(
        "run --seed 42 --device cpu --d_latent 10 --d_obs 100 --epochs 20 --log_every 10 --batch_size 64 "
        "--lr_pred 1e-3 --lr_enc 1e-3 --mom_pred 0.95 --mom_enc 0.95 --pred_update_every 1 --enc_update_every 1 "
        "--ema_m 0.999 --sigma_n 0.5 --out_dir runs_parquet --run_name demo --enc linear --pred linear "
        "--auto_alpha_c 0.4 --auto_beta_c 0.4 --log_wandb false"
    )
    assert code == 0
    info = read_info(Path("runs_parquet/demo.parquet"))
    assert info.config == RunConfig(epochs=20)
    notes = [line.split(" is not used")[0] for line in err.splitlines()]
    assert notes == ["note: lr_pred = 0.001", "note: lr_enc = 0.001"]


def test_dashes_and_underscores_are_one_option(byolsim):
    assert byolsim(f"run {TINY} --lr-pred 0.5 --out-dir a --log-wandb=false")[0] == 0
    assert byolsim(f"run {TINY} --lr_pred=0.5 --out_dir=b")[0] == 0
    assert runs("a") == runs("b")


@pytest.mark.parametrize("seeds", ["--seeds 1 2", "--seeds 1,2", "--seeds=1,2", "--seeds 1 --seeds 2", "--seeds 1, 2"])
@pytest.mark.parametrize("taus", ["--tau_logspace 1e-2 1e-1 2", "--tau-logspace 1e-2,1e-1,2"])
def test_lists_in_three_spellings(byolsim, seeds, taus):
    code, out, _ = byolsim(f"sweep {TINY} {seeds} --batch_sizes 3 {taus} --lr_pred_logspace 1e-3 1e-2 2 --dry-run")
    assert code == 0
    assert out.startswith("12 runs of mode auto in runs_parquet: 0 already there, 12 to compute\nbatch_size  runs")
    assert "in all: 12 runs in 2 groups that share their draws, 96 run-steps, " in out
    assert not list(Path().iterdir())


def test_spectrum_as_a_list(byolsim):
    assert byolsim("run --d_latent 3 --d_obs 4 --epochs 2 --latent_spectrum 3 2 1 --out_dir a")[0] == 0
    assert byolsim("run --d_latent 3 --d_obs 4 --epochs 2 --latent_spectrum 1,2,3 --out_dir b")[0] == 0
    assert runs("a") == runs("b")


@pytest.mark.parametrize("mode", ["same", "ratio", "logspace", "from_tau", "auto"])
def test_every_mode_of_the_sweep(byolsim, mode):
    code, out, _ = byolsim(
        f"sweep {TINY} --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 "
        f"--lr_enc_logspace 1e-3 1e-1 3 --lr_enc_mode {mode} --workers 1"
    )
    assert code == 0
    count = {"auto": 6, "logspace": 12}.get(mode, 4)
    assert f"{count} runs in runs_parquet: {count} completed, 0 diverged, 0 already there, 0 failed" in out
    assert all(config.lr_enc_mode == mode for config in runs())
    again = byolsim(
        f"sweep {TINY} --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 "
        f"--lr_enc_logspace 1e-3 1e-1 3 --lr_enc_mode {mode}"
    )
    assert f"0 completed, 0 diverged, {count} already there" in again[1]


def test_a_sweep_with_diverged_runs_is_a_success(byolsim):
    code, out, _ = byolsim(
        f"sweep {TINY} --epochs 300 --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e3 2 "
        "--lr_enc_mode same --workers 1"
    )
    assert code == 0
    assert "4 runs in runs_parquet: 2 completed, 2 diverged" in out


GRID = f"{TINY} --seeds 1 --batch_sizes 3 --tau_logspace 1e-2 1e-1 2 --lr_pred_logspace 1e-3 1e-2 2 --workers 1"


def test_a_sweep_with_failed_runs_lists_them_and_exits_1(byolsim, monkeypatch):
    simulate = compute.simulate_group

    def fails(group, progress, **options):
        raise ArithmeticError("Unable to allocate 1 TiB")

    monkeypatch.setattr(compute, "simulate_group", fails)
    code, out, err = byolsim(f"sweep {GRID}")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("6 runs in runs_parquet: 0 completed, 0 diverged, 0 already there, 6 failed; ")
    assert lines[1].split() == ["run", "seed", "batch_size", "tau", "lr_pred", "lr_enc", "reason"]
    assert len(lines) == 9
    assert all(line.endswith("  ArithmeticError: Unable to allocate 1 TiB") for line in lines[2:8])
    monkeypatch.setattr(compute, "simulate_group", simulate)
    code, out, _ = byolsim(f"sweep {GRID}")
    assert code == 1, "reported until somebody asks for another try"
    assert out.endswith("6 failed before and were not tried again: --retry_failed does\n")
    assert "6 failed before, 0 to compute" in byolsim(f"sweep {GRID} --dry_run")[1]
    code, out, _ = byolsim(f"sweep {GRID} --retry_failed")
    assert (code, out.count("\n")) == (0, 1)
    assert "6 completed, 0 diverged, 0 already there, 0 failed" in out


def test_fail_fast_leaves_the_rest(byolsim, monkeypatch):
    monkeypatch.setattr(compute, "simulate_group", lambda group, progress, **options: 1 / 0)
    code, out, _ = byolsim(f"sweep {GRID} --seeds 2 --fail-fast")
    assert code == 1
    assert "6 failed; " in out
    assert "failed; 6 more runs were not begun\n" in out


def test_shards_of_a_sweep(byolsim):
    counts = []
    for index in range(3):
        code, out, _ = byolsim(f"sweep {GRID} --shard {index}/3")
        assert code == 0
        assert " 0 already there" in out
        counts.append(int(out.split(" runs in ")[0]))
    assert counts == [2, 2, 2]
    assert len(runs()) == 6


def test_options_from_a_file_and_the_command_line_wins(byolsim):
    Path("c.toml").write_text(
        'epochs = 8\nd_latent = 2\n"d-obs" = 4\nlatent_spectrum = [2.0, 1]\nema_m = 0.9999\nlr_pred = 0.5\nseed = 7\n'
    )
    assert byolsim("run --config c.toml --seed 8")[0] == 0
    (config,) = runs()
    assert config == RunConfig(
        epochs=8, d_latent=2, d_obs=4, latent_spectrum="2,1", tau=1e-4, lr_pred=0.5, auto_alpha_c=0.0, seed=8
    )
    Path("s.toml").write_text("seeds = [1, 2]\ntau_logspace = [1e-2, 0.1, 2]\nbatch_sizes = [3]\n")
    code, out, _ = byolsim(f"sweep {TINY} --config s.toml --dry_run")
    assert code == 0
    assert out.startswith("20 runs")


MISTAKES = {
    "run --lr_pred -1": "--lr_pred = -1.0 is not allowed: must be a number >= 0 and <= 1000000",
    "run --lr_pred abc": "--lr_pred = 'abc' (text) is not allowed: must be a number >= 0 and <= 1000000",
    "run --lr-pred nan": "--lr_pred = nan is not allowed: must be a number >= 0 and <= 1000000",
    "run --epochs 1.5e0": "--epochs = '1.5e0' (text) is not allowed: must be a whole number >= 1 and <= 1e+12",
    "run --epochs 0": "--epochs = 0 is not allowed: must be a whole number >= 1 and <= 1e+12",
    "run --seed -1": "--seed = -1 is not allowed: must be a whole number >= 0 and < 2^63",
    "run --ema_m 1.2": "ema_m = 1.2 is not allowed: must be a number >= 0 and <= 1",
    "run --ema_m nan": "ema_m = NaN is not allowed: must be a number >= 0 and <= 1",
    "run --init zeros": "--init = 'zeros' is not allowed: must be one of zero_pred, random, pinv",
    "run --log_wandb maybe": "--log_wandb = 'maybe' (text) is not allowed: must be true or false",
    "run --d_obs 5": "d_obs = 5 is less than d_latent = 10: must be d_obs >= d_latent",
    "run --run_name ../x": "run_name '../x' is not allowed: must be a plain file name, "
    "with no folder, leading dot, dash or underscore, and none that Windows keeps for devices",
    "run --run_name ''": "--run_name = '' is not allowed: must be text that is not empty",
    "run --latent_spectrum cubic:1": "--latent_spectrum = 'cubic:1' is not allowed (unknown kind of spectrum): "
    "must be geometric:LO:HI, linear:LO:HI, flat:V or d_latent numbers > 0",
    "run --enc mlp --backend numba": "backend = 'numba' runs linear models only: an MLP needs backend = 'torch'",
    "run --enc mlp --backend numpy": "backend = 'numpy' runs linear models only: an MLP needs backend = 'torch'",
    "run --device cuda --backend numpy": "device = 'cuda' belongs to backend = 'torch', not to 'numpy'",
    "run --backend numpy --batch_size 1000000000": "batch_size = 1000000000, d_obs = 100 and d_latent = 10 need ",
    "run --enc mlp --init pinv": "init = 'pinv' needs linear models: with an MLP use init = 'zero_pred' or 'random'",
    "run --enc mlp --sampler population": "sampler = 'population' needs linear models: with an MLP use sampler = "
    "'minibatch'",
    "run --device cuda --backend numba": "device = 'cuda' belongs to backend = 'torch', not to 'numba'",
    "run --sampler moments --moments_form reduced --d_obs 40": "moments_form = 'reduced' needs d_obs >= 5 d_latent",
    "run --sampler moments --moments_form other": "--moments_form = 'other' is not allowed: must be one of auto",
    "run --sampler moments --enc mlp": "sampler = 'moments' needs linear models: with an MLP use sampler = 'minibatch'",
    "run --pred_rule ident": "--pred_rule = 'ident' is not allowed: must be one of learned, identity, optimal, ",
    "run --stop_grad false": "--stop_grad takes no value, not false: its other form is --no_stop_grad",
    "run --no_stop_grad --ema_m 0.9": "stop_grad = False has one encoder and no EMA: ema_m and tau must not be given",
    "run --pred_rule directpred --lr_pred 0.1": "lr_pred = 0.1 belongs to pred_rule = 'learned', not to 'directpred'",
    "all --pred_rule optimal": "pred_rule = 'optimal' leaves the figures of `byolsim all` without the axis of",
    "sweep --warmup 9000": "warmup = 9000 is more than epochs = 2000: must be at most as many",
    "sweep --pred_rule optimal --lr_enc_mode same": "lr_enc_mode = 'same' takes beta from alpha, which pred_rule = "
    "'optimal' has not: use 'logspace', 'from_tau' or 'auto'",
    "run --hidden 3": "hidden = 3 applies to enc or pred = mlp only",
    "run --batch_size 1000000000": "batch_size = 1000000000, d_obs = 100 and d_latent = 10 need 3055 GiB: ",
    "run --epochs 1000000000000 --log_every 1": "epochs = 1000000000000 and log_every = 1 make 1000000000000 ",
    "run --log_every 100000000000000000000": "--log_every = 100000000000000000000 is not allowed: must be a ",
    "run --lr_pred x --auto_alpha_c 0.3": "--lr_pred = 'x' (text) is not allowed: must be a number >= 0",
    "run --lr_pred nan --auto_alpha_c 0.3": "--lr_pred = nan is not allowed: must be a number >= 0",
    "run --run_name " + 201 * "x": "is not allowed: must be text that is not empty and of at most 200 characters",
    "run --out_dir " + 300 * "a": "File name too long",
    "figs --runs_dir " + 300 * "a": "File name too long",
    "run --config deep.toml": "--config 'deep.toml' is no TOML file",
    "run --config table.toml": "table.toml: 'run' is a table: options stand at the top level, without tables",
    "run --config nul.toml": "embedded null byte",
    "run --config rate.toml": "rate.toml: lr_pred = -1.0 is not allowed: must be a number >= 0 and <= 1000000",
    "run --config key.toml": "ema_m and tau are one number: give one of them",
    "sweep --lr_enc_mode ratio --enc_over_pred 1e6 --lr_pred_logspace 1 1e6 2": "enc_over_pred = 1000000.0 makes beta",
    "sweep --lr_pred_logspace 1e-5 1e-2 10000 --tau_logspace 1e-4 1e-1 10000": "the grid has 400000000 ",
    "all --out file.txt": "--out 'file.txt' cannot be written: file.txt is not a folder",
    "run --lrpred 3": "No such option '--lrpred'",
    "run --seed": "Option '--seed' requires an argument.",
    "run stray": "Got unexpected extra argument (stray)",
    "walk": "No such command 'walk'.",
    "sweep --seeds": "Option '--seeds' requires an argument.",
    "sweep --seeds 1 x": "--seeds = 'x' (text) is not allowed: must be one or more, each a whole number >= 0",
    "sweep --seeds 1 1": "seeds = 1 1 names a value twice",
    "sweep --tau_logspace 1 2": "--tau_logspace 1 2 is not allowed: must be START STOP STEPS: a number > 0 and "
    "<= 1, a number > 0 and <= 1, a whole number >= 1 and <= 10000",
    "sweep --tau_logspace 0.1 2 3": "--tau_logspace = 2.0 is not allowed: must be START STOP STEPS: a number > 0",
    "sweep --auto_beta_c 0": "auto_beta_c = 0 with lr_enc_mode = 'auto': must be > 0, the encoder follows the schedule",
    "sweep --workers 0": "--workers = 0 is not allowed: must be a whole number >= 1 and <= 4096",
    "sweep --shard 3/3": "--shard = '3/3' is not allowed (no such part): must be I/N, whole numbers with 0 <=",
    "sweep --shard 1": "--shard = '1' is not allowed (not of the form I/N): must be I/N, whole numbers with 0 <= I < N",
    "sweep --shard -1/3": "--shard = '-1/3' is not allowed (not of the form I/N): must be I/N, whole numbers with",
    "sweep --shard 0/0": "--shard = '0/0' is not allowed (no such part): must be I/N",
    "sweep --config shard.toml": "shard.toml: shard = 3 is not allowed: must be I/N, whole numbers with 0 <= I < N",
    "sweep --executor thread": "--executor = 'thread' is not allowed: must be one of processes, dask",
    "sweep --scheduler host:8786": "--scheduler = 'host:8786' is not allowed (not an address): must be tcp://HOST:PORT",
    "sweep --scheduler foo://host:1": "--scheduler = 'foo://host:1' is not allowed (not an address): must be tcp://",
    "sweep --workers_write": "workers_write belongs to executor = 'dask', not to 'processes'",
    "sweep --executor processes --scheduler tcp://a:1": "scheduler belongs to executor = 'dask', not to 'processes'",
    "all --shard 0/3": "No such option '--shard'",
    "run --config none.toml": "--config 'none.toml' cannot be read: No such file or directory",
    "run --config .": "--config '.' cannot be read: Is a directory",
    "run --config bad.toml": "--config 'bad.toml' is no TOML file",
    "run --config text.toml": "text.toml: lr_pred = '1e-3' (text) is not allowed: must be a number >= 0 and <= 1000000",
    "run --config true.toml": "true.toml: epochs = True is not allowed: must be a whole number >= 1 and <= 1e+12",
    "run --config typo.toml": "typo.toml: unknown key 'lr_perd': did you mean 'lr_pred'?",
    "run --config twice.toml": "twice.toml: key 'lr_pred' is given twice, once with dashes: must be given once",
    "run --config tau.toml": "ema_m = 2.0 is not allowed: must be a number >= 0 and <= 1",
    "run --out_dir file.txt": "out_dir 'file.txt' cannot be written: File exists",
    "run --out_dir file.txt/x": "out_dir 'file.txt/x' cannot be written: Not a directory",
    "figs --runs_dir none": "runs folder 'none' is not there: must be a folder of run files",
    "figs --metric los": "must be one of loss, loss_pop, loss_rel, W_Fro_aligned",
}
FILES = {
    "bad.toml": "epochs = = 3",
    "text.toml": 'lr_pred = "1e-3"',
    "true.toml": "epochs = true",
    "typo.toml": "lr_perd = 1.0",
    "twice.toml": '"lr-pred" = 1.0\nlr_pred = 1.0',
    "tau.toml": "ema_m = 2.0",
    "deep.toml": "a = " + 5000 * "[",
    "table.toml": "[run]\nepochs = 3",
    "nul.toml": 'out_dir = "a\\u0000b"',
    "rate.toml": "lr_pred = -1.0\nauto_alpha_c = 0.4",
    "key.toml": "tau = 0.1\nema_m = 0.9",
    "shard.toml": "shard = 3",
    "file.txt": "",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_every_mistake_is_one_line_and_exit_code_2(byolsim, line):
    for name, text in FILES.items():
        Path(name).write_text(text)
    code, out, err = byolsim(line)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith("byolsim: ")
    assert MISTAKES[line] in err
    assert sorted(path.name for path in Path().iterdir()) == sorted(FILES), "nothing is written"


def test_a_file_of_another_run_is_not_replaced(byolsim):
    assert byolsim(f"run {TINY} --run_name demo")[0] == 0
    before = Path("runs_parquet/demo.parquet").read_bytes()
    code, _, err = byolsim(f"run {TINY} --run_name demo --seed 1")
    assert code == 2
    assert err == (
        "byolsim: runs_parquet/demo.parquet is there and is another run's: choose another run_name, or --force to "
        "replace it\n"
    )
    assert Path("runs_parquet/demo.parquet").read_bytes() == before
    assert byolsim(f"run {TINY} --run_name demo --seed 1 --force")[0] == 0
    assert runs()[0].seed == 1


@pytest.mark.parametrize("line", ["run --enc mlp", "run --device cuda", "sweep --backend torch"])
def test_without_torch_one_line_says_what_to_install(byolsim, line, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("byolsim.backends.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = byolsim(line)
    assert (code, out) == (2, "")
    assert err == "byolsim: backend 'torch' needs PyTorch, which is not installed: pip install 'byolsim[torch]'\n"


def test_notes_for_options_that_a_mode_does_not_use(byolsim):
    code, _, err = byolsim(f"sweep {TINY} --lr_enc_mode same --enc_over_pred 0.1 --auto_beta_c 0.3 --dry-run")
    assert code == 0
    assert err.splitlines() == [
        "note: enc_over_pred is not used: it belongs to lr_enc_mode = 'ratio', not 'same'",
        "note: auto_beta_c is not used: it belongs to lr_enc_mode = 'auto', not 'same'",
    ]


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_and_option_has_help(byolsim, name):
    command = importlib.import_module(f"byolsim.cli.{name}").command
    assert command.help
    for param in command.params:
        if isinstance(param, click.Argument):  # click gives it no help of its own
            continue
        assert isinstance(param, click.Option)
        assert param.help, param.name
        assert "-" not in param.name
    for flag in ("-h", "--help"):
        code, out, _ = byolsim(f"{name} {flag}")
        assert code == 0
        assert command.help.split(".")[0] in " ".join(out.split())
        assert all(param.opts[0] in out for param in command.params if isinstance(param, click.Option))


def test_version_and_module(byolsim):
    assert byolsim("--version") == (0, f"byolsim, version {__version__}\n", "")
    done = subprocess.run([sys.executable, "-m", "byolsim", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"byolsim, version {__version__}\n"
    code, out, _ = byolsim("-h")
    assert code == 0
    assert all(name in out for name in _COMMANDS)
