"""Weights & Biases: after the file is safe, and never in its way."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cases import one_run, small

from byolsim.store import tracking
from byolsim.store.files import is_complete
from byolsim.store.folder import read_folder
from byolsim.store.names import run_path
from byolsim.sweeps import launch, writer


class FakeClient:
    """Records what a client would be told; fails where it is asked to."""

    def __init__(self, fails=""):
        self.fails, self.rows, self.settings, self.finished = fails, {}, None, 0

    def init(self, **settings):
        if self.fails == "init":
            raise RuntimeError("api_key not configured\nand more lines")
        self.settings = settings
        return SimpleNamespace(log=self.log, finish=self.finish, url="https://example.org/run")

    def Settings(self, **settings):
        return settings

    def log(self, values, step):
        if self.fails == "log":
            raise OSError("network is unreachable")
        self.rows[step] = values

    def finish(self):
        self.finished += 1


@pytest.fixture(autouse=True)
def _a_fresh_process(monkeypatch):
    monkeypatch.setattr(tracking, "_given_up", False)
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def client(monkeypatch, request):
    fake = FakeClient(getattr(request, "param", ""))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_configuration_and_rows_are_logged(client, tmp_path, capsys):
    record = one_run(small())
    tracking.log_run(record, tmp_path)
    assert client.settings["config"] == record.config.hyperparameters
    assert client.settings["name"] == record.config.run_id
    assert sorted(client.rows) == record.epochs.tolist()
    assert client.rows[40]["loss_pop"] == record.columns["loss_pop"][-1]
    assert "Hmax" not in client.rows[0], "a null is not logged"
    assert client.finished == 1
    said = capsys.readouterr()
    assert said.err == f"byolsim: W&B logged run {record.config.run_id} (https://example.org/run)\n"
    assert said.out == ""


def test_the_file_is_safe_before_anything_is_logged(client, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        writer, "log_run", lambda record, out_dir: seen.append(is_complete(run_path(tmp_path, small()), small()))
    )
    launch.run(small(), tmp_path, log_wandb=True)
    assert seen == [True]


@pytest.mark.parametrize(("client", "why"), [("init", "api_key not"), ("log", "network is")], indirect=["client"])
def test_a_broken_client_is_one_warning(client, why, tmp_path):
    with pytest.warns(UserWarning, match=why) as warned:
        launch.run(small(), tmp_path, log_wandb=True)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert is_complete(run_path(tmp_path, small()), small())


@pytest.mark.parametrize("client", ["init"], indirect=True)
def test_a_client_that_failed_is_not_asked_again(client, tmp_path):
    record = one_run(small())
    with pytest.warns(UserWarning, match="api_key not"):
        tracking.log_run(record, tmp_path)
    client.fails = ""
    tracking.log_run(record, tmp_path)
    assert client.settings is None


def test_a_missing_client_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"install byolsim\[wandb\]"):
        launch.run(small(), tmp_path, log_wandb=True)
    assert is_complete(run_path(tmp_path, small()), small())


def test_nobody_is_asked_for_a_key(client, tmp_path, monkeypatch):
    """Without one the client would ask on the terminal, under the progress bar."""
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.warns(UserWarning, match="W&B does not log: no API key"):
        launch.run(small(), tmp_path / "runs", log_wandb=True)
    assert client.settings is None
    assert is_complete(run_path(tmp_path / "runs", small()), small())


@pytest.mark.parametrize("how", ["netrc", "offline"])
def test_a_stored_key_or_offline_mode_will_do(client, tmp_path, monkeypatch, how):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    if how == "offline":
        monkeypatch.setenv("WANDB_MODE", "offline")
    else:
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'0' * 40}\n")
    tracking.log_run(one_run(small()), tmp_path)
    assert client.finished == 1


def test_the_client_is_silent_quick_and_keeps_its_files_with_the_runs(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch.run(small(), "runs", log_wandb=True)
    assert client.settings["settings"] == {"silent": True, "console": "off", "init_timeout": 10}
    assert Path(client.settings["dir"]) == Path("runs/_wandb")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert len(read_folder("runs", ["epoch"]).runs) == 1
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    tracking.log_run(one_run(small()), "runs")
    assert client.settings["dir"] == "elsewhere", "as the user says"
