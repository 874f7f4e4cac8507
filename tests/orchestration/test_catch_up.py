"""Real runs under automation: what a catch-up, a failed run or a killed one leaves to be done, and what not twice."""

from __future__ import annotations

import subprocess
import sys

import dagster as dg
import pytest

import assets.study.influence as influence_stage
from assets.study.behind import shards_behind
from compute.errors import BadInput
from orchestration.automation import corpus_keys, study_keys
from orchestration.graph import job_name
from orchestration.run import PROCESS_TAG
from orchestration.sensors import observers_of_runs
from tests.orchestration.test_automation import CORPUS, OVER_ALL, SCORES, Conditions
from tests.orchestration.tiny_study import records

ALL_SHARDS = ("00000", "00002")


@pytest.fixture
def automation(copied):
    """The conditions over the finished study, after their first look at what is there."""
    conditions = Conditions(copied.definitions(), copied.instance)
    for keys in (corpus_keys, study_keys):
        assert conditions.tick(keys, copied.study) == set()
    return conditions


def change(copied) -> None:
    """Another text in shard 00001, and the listing that reports it."""
    copied.rewrite(1, [row | {"text": "the cat sits on the mat"} for row in records()[30:60]])
    assert copied.materialize("corpus/tiny/shards").success


def test_a_run_that_keeps_everything_is_followed_by_nothing(copied, automation):
    assert copied.materialize(*CORPUS, shards=ALL_SHARDS, reuse=True).success
    assert automation.tick(study_keys, copied.study) == set()


@pytest.mark.slow
def test_a_catch_up_leaves_nothing_to_the_sensors_that_watch(copied, automation):
    change(copied)
    assert shards_behind(copied.lake, copied.study) == ["00001"]
    assert copied.materialize(*CORPUS, *SCORES, *OVER_ALL, shards=("00001",), reuse=True).success
    for keys in (corpus_keys, study_keys):
        assert automation.tick(keys, copied.study) == set()


def test_a_shard_whose_run_failed_before_it_was_scored_is_asked_for_once(copied, automation, monkeypatch):
    def refuse(*_):
        raise BadInput("the mat is taken")

    monkeypatch.setattr(influence_stage, "_score_shard", refuse)
    change(copied)
    assert not copied.materialize(*CORPUS, *SCORES, shards=("00001",), reuse=True).success
    assert automation.tick(study_keys, copied.study) == {(path, "00001") for path in SCORES}
    assert not copied.materialize(*SCORES, shards=("00001",), reuse=True).success
    assert automation.tick(study_keys, copied.study) == set()
    assert automation.tick(study_keys, copied.study) == set()


def test_files_that_are_all_gone_are_one_sentence_and_no_tombstones(copied):
    for path in (copied.directory / "corpus").iterdir():
        path.unlink()
    result = copied.materialize("corpus/tiny/shards")
    told = result.get_step_failure_events()[0].step_failure_data.user_failure_data.description
    assert "path 'corpus/*.jsonl' matches no file" in told
    assert told.endswith("; the 3 shards that were listed before stay as they are")
    assert copied.table("corpus/tiny/tombstones").is_empty()


def test_a_killed_run_of_the_command_line_is_ended_while_the_daemon_runs(copied):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tag = _tag(process.pid)
    run = copied.instance.create_run_for_job(
        copied.definitions().resolve_job_def(job_name(copied.study)),
        tags={PROCESS_TAG: tag},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert "No run was killed" in _look_for_killed_runs(copied)
    process.kill()
    process.wait()
    assert run.run_id in _look_for_killed_runs(copied)
    assert copied.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def _tag(pid: int) -> str:
    from orchestration.run import _process

    return _process(pid)


def _look_for_killed_runs(copied) -> str:
    from orchestration.resources import resources_of

    sensor = next(sensor for sensor in observers_of_runs() if sensor.name == "killed_runs")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    tracking = resources_of(copied.home)["tracking"]
    with dg.build_sensor_context(copied.instance, resources={"tracking": tracking}) as context:
        return sensor(context).skip_message
