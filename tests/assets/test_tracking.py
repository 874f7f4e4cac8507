"""Tracking against a real SQLite store, against servers that are not there, and from several processes at once."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from assets import tracking as module
from assets.tracking import Tracking

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One store for all tests here: making its tables takes seconds. Its directory's name is not plain on purpose."""
    return tmp_path_factory.mktemp("mlflow ä")


@pytest.fixture
def tracking(store) -> Tracking:
    return Tracking(tracking_uri=f"sqlite:///{store}/mlflow.db", artifacts=(store / "artifacts").as_uri())


@pytest.fixture(autouse=True)
def nothing_is_silent(monkeypatch):
    monkeypatch.setattr(module, "_silent_until", {})


def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.tracking_uri)


def test_a_step_is_a_child_of_its_dagster_run(tracking):
    parent = tracking.parent_run("run-a", "demo")
    assert tracking.parent_run("run-a", "demo") == parent != tracking.parent_run("run-b", "demo")
    with tracking.step_run(parent, "study/demo/influence", {"shard": "0001"}) as run:
        assert client(tracking).get_run(run.run_id).info.status == "RUNNING"
    child = client(tracking).get_run(run.run_id)
    assert child.info.status == "FINISHED" and child.info.run_name == "study/demo/influence"
    assert child.data.tags["mlflow.parentRunId"] == parent and child.data.tags["shard"] == "0001"
    assert run.url == f"http://127.0.0.1:5000/#/experiments/{child.info.experiment_id}/runs/{run.run_id}"
    experiment = client(tracking).get_experiment(child.info.experiment_id)
    assert experiment.name == "headwater/demo"
    whole = client(tracking).get_run(parent)
    assert whole.info.status == "FINISHED" and whole.info.end_time >= child.info.end_time
    assert whole.data.tags["dagster_run_id"] == "run-a"


def test_what_a_step_logs_is_kept(tracking, store, tmp_path):
    (tmp_path / "figure.svg").write_text("<svg/>")
    with tracking.step_run(tracking.parent_run("run-c", "demo"), "step", {}) as run:
        run.log_params({"rank": 32, "fit": {"labels": "sampled", "modules": ["mlp"]}, "odd [name]": "x" * 7000})
        run.log_params({f"p{i}": i for i in range(250)})
        for step in range(3):
            run.log_metrics({"loss": 3.0 - step, "tokens/s": float("nan")}, step)
        run.log_input("corpus/demo/documents", 0)
        run.set_tags({"delta.study/demo/influence": "4"})
        run.log_text("hello", "notes/a.txt")
        run.log_dict({"a": 1}, "b.json")
        run.log_artifact(tmp_path / "figure.svg", "figures")
    kept = client(tracking).get_run(run.run_id)
    assert kept.data.params["fit.labels"] == "sampled" and kept.data.params["rank"] == "32"
    assert kept.data.params["fit.modules"] == '["mlp"]' and len(kept.data.params["odd _name_"]) == 6000
    assert len(kept.data.params) == 254
    assert [(m.step, m.value) for m in client(tracking).get_metric_history(run.run_id, "loss")] == [
        (0, 3),
        (1, 2),
        (2, 1),
    ]
    assert kept.data.tags["input.corpus/demo/documents"] == "0" and kept.data.tags["delta.study/demo/influence"] == "4"
    assert [data.dataset.name for data in kept.inputs.dataset_inputs] == ["corpus/demo/documents"]
    directory = store / "artifacts" / run.run_id / "artifacts"
    assert {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()} == {
        "notes/a.txt",
        "b.json",
        "figures/figure.svg",
    }


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_step_that_ends_badly_says_so_and_a_retry_mends_it(tracking, error, status):
    parent = tracking.parent_run(f"run-{error.__name__}", "demo")
    with pytest.raises(error), tracking.step_run(parent, "step", {}) as run:
        raise error
    with tracking.step_run(parent, "other", {}):
        pass
    assert client(tracking).get_run(run.run_id).info.status == status
    assert client(tracking).get_run(parent).info.status == status
    with tracking.step_run(parent, "step", {}):
        pass
    assert client(tracking).get_run(parent).info.status == "FINISHED"


def test_the_processes_own_mlflow_state_is_not_touched(tracking):
    import mlflow

    before = mlflow.get_tracking_uri()
    with tracking.step_run(tracking.parent_run("run-d", "demo"), "step", {}):
        assert mlflow.active_run() is None and mlflow.get_tracking_uri() == before
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def null_work(tracking: Tracking) -> None:
    """A step's whole use of tracking; the work in it must be done whatever happens to tracking."""
    done = False
    parent = tracking.parent_run("run", "demo")
    with tracking.step_run(parent, "step", {"a": "b"}) as run:
        run.log_params({"a": 1})
        run.log_metrics({"a": 1.0}, 0)
        run.log_input("corpus/demo/documents", 0)
        run.log_text("a", "b.txt")
        run.log_artifact("nowhere")
        assert run.run_id is None and run.url is None
        done = True
    assert done and parent is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://hung", "nonsense://x", "sqlite:////proc/no/such.db"])
def test_with_tracking_down_the_work_is_done_soon_after_one_warning(uri, caplog):
    with socket.socket() as hung:  # accepts connections, and never answers
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        tracking = Tracking(tracking_uri=uri.replace("hung", f"127.0.0.1:{hung.getsockname()[1]}"))
        started = time.monotonic()
        with caplog.at_level(logging.WARNING, "headwater.tracking"):
            null_work(tracking)
            null_work(tracking)  # the next step of the same process
        assert time.monotonic() - started < 10
    ours = [record.message for record in caplog.records if record.name == "headwater.tracking"]
    assert len(ours) == 1 and "the work goes on without tracking" in ours[0]


def test_tracking_that_breaks_in_the_middle_is_a_null_run_from_then_on(tracking, caplog, monkeypatch):
    parent = tracking.parent_run("run-e", "demo")
    with caplog.at_level(logging.WARNING, "headwater.tracking"), tracking.step_run(parent, "step", {}) as run:
        run.log_artifact("/no/such/file")
        run.log_metrics({"a": 1.0}, 0)
    assert len([record for record in caplog.records if record.name == "headwater.tracking"]) == 1
    assert "a" not in client(tracking).get_run(run.run_id).data.metrics


def test_links_go_to_the_server_that_is_tracked_to():
    assert Tracking(tracking_uri="http://host:81/")._page == "http://host:81"
    assert Tracking(tracking_uri="http://host:81", ui="https://mlflow.org/x/")._page == "https://mlflow.org/x"


def test_processes_that_begin_at_once_share_one_parent(tracking, tmp_path):
    """On a store that neither finds made, so that making its tables is raced for as well."""
    uri = f"sqlite:///{tmp_path}/new.db"
    script = """
        import sys
        from assets.tracking import Tracking
        tracking = Tracking(tracking_uri=sys.argv[1], artifacts=sys.argv[2])
        parent = tracking.parent_run("run", "demo")
        with tracking.step_run(parent, "step", {}) as run:
            print(parent, run.run_id)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), uri, (tmp_path / "artifacts").as_uri()]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [process.communicate(timeout=60)[0].split() for process in processes]
    assert lines[0][0] == lines[1][0] and "None" not in lines[0] + lines[1]
    runs = MlflowClient(uri).search_runs(["1"])
    assert len(runs) == 3 and {run.info.run_id for run in runs} == {*lines[0], *lines[1]}


def test_without_a_common_lock_the_first_parent_is_taken_by_all(tracking, monkeypatch):
    """As on two machines that share a server: both make a parent, then both take the same, and one is deleted."""
    monkeypatch.setattr(Tracking, "_is_local", property(lambda self: False))
    together = threading.Barrier(2)
    search, calls = module._parents, threading.local()

    def parents(client, experiment, dagster_run_id):
        found = search(client, experiment, dagster_run_id)
        if not getattr(calls, "before", False):
            calls.before = True
            together.wait()
        return found

    monkeypatch.setattr(module, "_parents", parents)
    taken: list[str] = []
    threads = [
        threading.Thread(target=lambda: taken.append(tracking._found_or_made("run-f", "demo"))) for _ in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(taken) == 2 and len(set(taken)) == 1
    experiment = client(tracking).get_experiment_by_name("headwater/demo").experiment_id
    assert search(client(tracking), experiment, "run-f") == taken[:1]
