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

import dagster as dg
import pytest
from mlflow import MlflowClient

from assets.tracking import tracked_run
from assets.tracking import tracking as module
from assets.tracking.tracking import Tracking, study_of

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
    page = f"http://127.0.0.1:5000/#/experiments/{child.info.experiment_id}/runs/{run.run_id}"
    assert run.url == f"{page}?workflowType=machine_learning"
    experiment = client(tracking).get_experiment(child.info.experiment_id)
    assert experiment.name == "headwater/demo"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    whole = client(tracking).get_run(parent)
    assert whole.info.status == "FINISHED" and whole.info.end_time >= child.info.end_time
    for tags in (whole.data.tags, child.data.tags):
        assert tags["dagster_run_id"] == "run-a" and tags["study"] == "demo"
        assert "](http://127.0.0.1:3000/runs/run-a)" in tags["mlflow.note.content"]
    assert "](http://127.0.0.1:3000/assets/study/demo/influence)" in child.data.tags["mlflow.note.content"]
    by_tag = client(tracking).search_runs([child.info.experiment_id], "tags.dagster_run_id = 'run-a'")
    assert {found.info.run_id for found in by_tag} == {parent, run.run_id}


def test_many_runs_leave_few_lock_files(tracking, tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    for number in range(1_000):
        with tracking._one_at_a_time(f"run-{number}"):
            pass
    assert 0 < len(list(tmp_path.iterdir())) <= 256


def test_a_parent_runs_while_one_of_its_steps_does(tracking):
    parent = tracking.parent_run("run-g", "demo")
    status = lambda: client(tracking).get_run(parent).info.status  # noqa: E731
    with tracking.step_run(parent, "first", {}):
        assert status() == "RUNNING"
        with tracking.step_run(parent, "second", {}):
            assert status() == "RUNNING"
        assert status() == "RUNNING"
    assert status() == "FINISHED"
    with tracking.step_run(parent, "third", {}):
        assert status() == "RUNNING"
    assert status() == "FINISHED"


def test_a_step_that_begins_again_ends_the_one_that_was_killed(tracking):
    """A killed process cannot say so."""
    parent = tracking.parent_run("run-h", "demo")
    killed = tracking._start(parent, "step", {}).run_id
    with tracking.step_run(parent, "step", {}):
        assert client(tracking).get_run(killed).info.status == "KILLED"
    assert client(tracking).get_run(parent).info.status == "FINISHED"


def test_what_a_killed_dagster_run_left_running_is_ended(tracking):
    parents = {run: tracking.parent_run(run, study) for run, study in (("run-i", "demo"), ("run-j", "other"))}
    children = {run: tracking._start(parent, "step", {}).run_id for run, parent in parents.items()}
    tracking.close("run-j", killed=True)
    status = {run: client(tracking).get_run(run).info.status for run in [*parents.values(), *children.values()]}
    assert [status[parents["run-j"]], status[children["run-j"]]] == ["KILLED"] * 2
    assert [status[parents["run-i"]], status[children["run-i"]]] == ["RUNNING"] * 2


def test_an_experiment_is_named_after_what_a_run_works_on():
    def study(job: str, *keys: str, tags: dict[str, str] | None = None) -> str:
        assets = frozenset(dg.AssetKey(key.split("/")) for key in keys) or None
        return study_of(dg.DagsterRun(job_name=job, asset_selection=assets, tags=tags or {}))

    assert study("study_my_study", "corpus/demo/records", tags={"headwater/study": "my-study"}) == "my-study"
    assert study("another_job", "corpus/demo/records") == "another_job"
    assert study("__ASSET_JOB", "study/my-study/influence", "corpus/demo/records") == "my-study"
    assert study("__ASSET_JOB", "corpus/demo/records", "corpus/demo/documents") == "corpus/demo"
    assert study("__ASSET_JOB") == "assets"


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
        run.log_figure(b"\x89PNG", "<svg>Λ</svg>", "spectrum")
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
        "figures/spectrum.png",
        "figures/spectrum.svg",
    }
    assert (directory / "figures" / "spectrum.svg").read_text(encoding="utf-8") == "<svg>Λ</svg>"


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


def broken_then_mended(tracking: Tracking, caplog, monkeypatch, error: Exception):
    """A run of which one call fails, and the warnings that it left."""
    parent = tracking.parent_run("run-e", "demo")
    with caplog.at_level(logging.WARNING, "headwater.tracking"), tracking.step_run(parent, "step", {}) as run:
        real = run.client.log_batch

        def fails(*_, **__):
            raise error

        monkeypatch.setattr(run.client, "log_batch", fails)
        run.log_metrics({"lost": 1.0}, 0)
        monkeypatch.setattr(run.client, "log_batch", real)
        run.log_metrics({"soon": 1.0}, 0)
        monkeypatch.setattr(run, "_silent_until", 0.0)  # a minute later
        run.log_metrics({"later": 1.0}, 0)
    ours = [record.message for record in caplog.records if record.name == "headwater.tracking"]
    return client(tracking).get_run(run.run_id), ours


def test_tracking_that_breaks_in_the_middle_is_silent_for_a_minute(tracking, caplog, monkeypatch):
    kept, warnings = broken_then_mended(tracking, caplog, monkeypatch, ConnectionError("gone"))
    assert kept.data.metrics.keys() == {"later"} and kept.info.status == "FINISHED"
    assert warnings == ["MLflow cannot be reached (gone); the work goes on without tracking"]


def test_what_mlflow_refuses_does_not_silence_the_rest(tracking, caplog, monkeypatch):
    from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

    error = MlflowException("no such metric", error_code=INVALID_PARAMETER_VALUE)
    kept, warnings = broken_then_mended(tracking, caplog, monkeypatch, error)
    assert kept.data.metrics.keys() == {"soon", "later"}
    assert len(warnings) == 1 and "log_batch" in warnings[0] and "no such metric" in warnings[0]


def refuse_to_connect(*_, **__):
    raise ConnectionError("gone")


def test_a_step_after_one_that_lost_its_server_does_not_wait_for_it(tracking, caplog, monkeypatch):
    parent = tracking.parent_run("run-k", "demo")
    with caplog.at_level(logging.WARNING, "headwater.tracking"), tracking.step_run(parent, "step", {}) as run:
        for method in ("log_batch", "set_terminated"):
            monkeypatch.setattr(run.client, method, refuse_to_connect)
        run.log_metrics({"a": 1.0}, 0)
    with tracking.step_run(tracking.parent_run("run-k", "demo"), "next", {}) as after:
        assert after.run_id is None
    assert len([record for record in caplog.records if record.name == "headwater.tracking"]) == 1


def test_the_warning_is_in_the_dagster_runs_log_too(tmp_path):
    @dg.asset
    def work() -> None:
        tracked_run.warn_unreachable(ConnectionError("gone"))

    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        result = dg.materialize([work], instance=instance)
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert result.success and any("MLflow cannot be reached (gone)" in message for message in messages)


def test_links_go_to_the_server_that_is_tracked_to():
    assert Tracking(tracking_uri="http://host:81/")._page == "http://host:81"
    assert Tracking(tracking_uri="http://host:81", ui="https://mlflow.org/x/")._page == "https://mlflow.org/x"


def test_processes_that_begin_at_once_share_one_parent(tracking, tmp_path):
    """On a store that neither finds made, so that making its tables is raced for as well."""
    uri = f"sqlite:///{tmp_path}/new.db"
    script = """
        import sys
        from assets.tracking.tracking import Tracking
        tracking = Tracking(tracking_uri=sys.argv[1], artifacts=sys.argv[2])
        parent = tracking.parent_run("run", "demo")
        with tracking.step_run(parent, "step", {}) as run:
            print(parent, run.run_id)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), uri, (tmp_path / "artifacts").as_uri()]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [process.communicate(timeout=600)[0].split() for process in processes]
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


def test_past_steps_are_those_that_wrote_and_ended_well_the_newest_first(tracking):
    def ran(run: str, written: int, documents: int, *, study: str = "past", fails: bool = False) -> None:
        try:
            with tracking.step_run(tracking.parent_run(run, study), "step", {}) as step:
                step.set_tags({"delta.study/past/table": "1", "hardware": f"machine of {run}"})
                if written:
                    step.log_metrics({"bytes_written": written}, 0)
                for number in (1, 2):
                    step.log_metrics({"documents": number * documents / 2}, number)
                assert not fails
        except AssertionError:
            assert fails

    ran("past-a", 10, 40)
    ran("past-b", 20, 60, study="another-study-with-the-same-fit")
    ran("past-c", 30, 80, fails=True)
    ran("past-d", 0, 80)  # kept what was there
    found = tracking.past_steps(["study/past/table", "study/past/other"], 10)
    assert found["study/past/other"] == []
    told = [(each.bytes_written, each.documents, each.hardware) for each in found["study/past/table"]]
    assert told == [(20, 60, "machine of past-b"), (10, 40, "machine of past-a")]
    assert all(0 <= each.seconds < 60 for each in found["study/past/table"])
    assert len(tracking.past_steps(["study/past/table"], 1)["study/past/table"]) == 1


def test_a_store_that_is_not_there_is_not_made_and_mlflow_not_loaded(tmp_path):
    code = f"""
    import sys
    from assets.tracking.past_steps import NoTracking
    from assets.tracking.tracking import Tracking
    try:
        Tracking(tracking_uri="sqlite:///{tmp_path}/none.db").past_steps(["study/past/table"], 1)
    except NoTracking as problem:
        print(problem)
    assert "mlflow" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"MLflow's store {tmp_path}/none.db is not there\n", done.stderr
    assert not list(tmp_path.iterdir())
