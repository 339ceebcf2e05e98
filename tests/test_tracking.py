"""Weights & Biases: after the file is safe, and never in its way."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from cases import one_run, small

from byolsim import launch, tracking
from byolsim.store import is_complete, run_path


class FakeClient:
    """Records what a client would be told; fails where it is asked to."""

    def __init__(self, fails=""):
        self.fails, self.rows, self.settings, self.finished = fails, {}, None, 0

    def init(self, **settings):
        if self.fails == "init":
            raise RuntimeError("api_key not configured\nand more lines")
        self.settings = settings
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values, step):
        if self.fails == "log":
            raise OSError("network is unreachable")
        self.rows[step] = values

    def finish(self):
        self.finished += 1


@pytest.fixture(autouse=True)
def _a_fresh_process(monkeypatch):
    monkeypatch.setattr(tracking, "_given_up", False)


@pytest.fixture
def client(monkeypatch, request):
    fake = FakeClient(getattr(request, "param", ""))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_configuration_and_rows_are_logged(client):
    record = one_run(small())
    tracking.log_run(record)
    assert client.settings["config"] == record.config.model_dump()
    assert client.settings["name"] == record.config.run_id
    assert sorted(client.rows) == record.epochs.tolist()
    assert client.rows[40]["loss_pop"] == record.columns["loss_pop"][-1]
    assert "Hmax" not in client.rows[0], "a null is not logged"
    assert client.finished == 1


def test_the_file_is_safe_before_anything_is_logged(client, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        launch, "log_run", lambda record: seen.append(is_complete(run_path(tmp_path, small()), small()))
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
def test_a_client_that_failed_is_not_asked_again(client):
    record = one_run(small())
    with pytest.warns(UserWarning, match="api_key not"):
        tracking.log_run(record)
    client.fails = ""
    tracking.log_run(record)
    assert client.settings is None


def test_a_missing_client_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"install byolsim\[wandb\]"):
        launch.run(small(), tmp_path, log_wandb=True)
    assert is_complete(run_path(tmp_path, small()), small())
