"""The registry against a real SQLite store, and against a real server of MLflow."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from assets.model.registry import register_checkpoint, registered_name
from assets.tracking import tracked_run
from assets.tracking import tracking as module
from assets.tracking.tracking import Tracking
from tests.orchestration.tiny_study import write_checkpoint

SECONDS_TO_START = 60


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def server(tmp_path):
    """An MLflow server that keeps the artifacts itself, as a team's would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination", f"{tmp_path}/a"]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        yield _when_up(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _when_up(address: str, process: subprocess.Popen) -> str:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return address
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the MLflow server did not start")


@pytest.fixture
def load(monkeypatch):
    """As a person loads it: by name, MLflow's address in the environment."""

    def loaded(tracking: Tracking, version: str) -> str:
        import mlflow

        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri)
        model = mlflow.transformers.load_model(f"models:/{registered_name('tiny')}/{version}")
        return model("the cat", max_new_tokens=4, do_sample=False)[0]["generated_text"]

    return loaded


def test_the_same_weights_are_one_version_and_others_the_next(store, checkpoint, tmp_path, load):
    tracking = Tracking(tracking_uri=f"sqlite:///{store}/mlflow.db", artifacts=(store / "artifacts").as_uri())
    tags = {"fingerprint": "abc", "delta_version": 3, "dagster_run_id": "run-a"}
    parent = tracking.parent_run("run-a", "demo")
    with tracking.step_run(parent, "model/tiny/checkpoint", {}) as run:
        assert register_checkpoint(run, "tiny", lambda: checkpoint, tags) == "1"
        assert register_checkpoint(run, "tiny", lambda: checkpoint, tags) == "1"
        write_checkpoint(tmp_path, seed=1)
        assert register_checkpoint(run, "tiny", lambda: tmp_path, tags) == "2"
    client = tracking._client()
    version = client.get_model_version("headwater-tiny", "1")
    assert version.run_id == run.run_id and version.status == "READY"
    assert {name: version.tags[name] for name in tags} == {name: str(value) for name, value in tags.items()}
    assert len(client.get_run(run.run_id).outputs.model_outputs) == 2
    assert load(tracking, "1").startswith("the cat") and load(tracking, "1") != load(tracking, "2")
    assert not Path("mlflow.db").exists()  # nothing went to MLflow's global address


@pytest.mark.slow
def test_a_model_is_registered_with_and_loaded_from_a_server(server, checkpoint, monkeypatch, load):
    monkeypatch.setattr(module, "_silent_until", {})
    tracking = Tracking(tracking_uri=server)
    with tracking.step_run(tracking.parent_run("run-b", "demo"), "model/tiny/checkpoint", {}) as run:
        assert register_checkpoint(run, "tiny", lambda: checkpoint, {}) == "1"
        assert register_checkpoint(run, "tiny", lambda: checkpoint, {}) == "1"
    assert load(tracking, "1").startswith("the cat")


def test_with_tracking_down_nothing_is_packed_and_work_goes_on(store, checkpoint, monkeypatch, caplog):
    null = tracked_run.StepRun(None, None, None, "")
    assert register_checkpoint(null, "tiny", lambda: pytest.fail("asked for"), {}) is None
    tracking = Tracking(tracking_uri=f"sqlite:///{store}/mlflow.db", artifacts=(store / "artifacts").as_uri())
    parent = tracking.parent_run("run-c", "demo")
    with caplog.at_level(logging.WARNING, "headwater.tracking"), tracking.step_run(parent, "step", {}) as run:
        monkeypatch.setattr(run.client, "search_model_versions", lambda *_: 1 / 0)
        assert register_checkpoint(run, "tiny", lambda: checkpoint, {}) is None
    ours = [record for record in caplog.records if record.name == "headwater.tracking"]
    assert len(ours) == 1 and "the work goes on" in ours[0].message
