"""Conditions, sensors and schedules: what follows what, and what never starts by itself.

Conditions are evaluated on reported events, without computing anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

import dagster as dg
import pytest

from assets.corpus.shard_list import shards_table
from assets.lake.lake import Lake
from assets.specs.study import Study
from assets.study.behind import shards_behind
from assets.study.influence import influence_table
from assets.tracking.tracking import Tracking
from orchestration.automation import corpus_keys, study_keys
from orchestration.catch_up import CATCH_UP_TAG, catch_up, catch_up_schedule, catch_up_sensor
from orchestration.graph import job_name, study_assets_once, study_job, study_tables
from orchestration.sensors import sensors
from orchestration.studies import read_study
from tests.orchestration.tiny_study import write_study

SHARDS = ["00000", "00001"]
SOURCE = "corpus/tiny/source"
PINNED = {
    "corpus/tiny/shards",
    "corpus/tiny/tokenizer",
    "model/tiny/checkpoint",
    "queries/tiny/queries",
    "curvature/tiny/sample",
    "curvature/tiny/covariances",
    "curvature/tiny/eigenbasis",
    "curvature/tiny/eigenvalues",
    "study/tiny/completions",
    "study/tiny/query_gradients",
}


class Conditions:
    """What the sensors over a study's assets ask for, evaluated on an instance as the daemon would."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance, self.cursors = definitions, instance, {}

    def tick(self, keys: Callable, study: Study) -> set[tuple[str, str | None]]:
        """The assets and shards that the sensor over these assets asks for now."""
        selection, before = dg.AssetSelection.assets(*keys(study)), self.cursors.get((keys, study.name))
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, asset_selection=selection, cursor=before
        )
        self.cursors[keys, study.name] = result.cursor
        asked = {key.to_user_string(): result.get_requested_partitions(key) for key in keys(study)}
        return {(path, partition) for path, partitions in asked.items() for partition in partitions}


class Platform(Conditions):
    """Studies whose assets are all there, as far as Dagster has been told."""

    def __init__(self, instance: dg.DagsterInstance, *studies: Study) -> None:
        resources = {"lake": Lake(uri="unused"), "tracking": Tracking(tracking_uri="sqlite:///unused.db")}
        jobs = [study_job(study) for study in studies]
        super().__init__(dg.Definitions(study_assets_once(studies), jobs=jobs, resources=resources), instance)
        self.study = studies[0]
        self.graph = self.definitions.resolve_asset_graph()
        instance.add_dynamic_partitions("corpus/tiny", SHARDS)
        for path in {table.path for study in studies for table in study_tables(study)}:
            self.update(path, *SHARDS)
        self.update(SOURCE, *SHARDS)
        for study in studies:
            for keys in (corpus_keys, study_keys):
                self.tick(keys, study)  # the first looks at what is there and asks for nothing

    def update(self, path: str, *shards: str) -> None:
        key = dg.AssetKey(path.split("/"))
        partitions = shards if self.graph.get(key).is_partitioned else [None]
        for partition in partitions:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))

    def tick(self, keys: Callable, study: Study | None = None) -> set[tuple[str, str | None]]:
        return super().tick(keys, study or self.study)

    def begin(self, *paths: str, shard: str) -> dg.DagsterRun:
        """A run over these assets that is under way."""
        run = self.instance.create_run_for_job(
            self.definitions.resolve_job_def(job_name(self.study)),
            asset_selection=frozenset(dg.AssetKey(path.split("/")) for path in paths),
            tags={"dagster/partition": shard},
            status=dg.DagsterRunStatus.STARTED,
        )
        return run

    def end(self, run: dg.DagsterRun) -> None:
        self.instance.report_run_failed(run)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read_study(write_study(tmp_path_factory.mktemp("automation"), automation={"watch": True}))


@pytest.fixture
def platform(study):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(instance, study)


CORPUS = ("corpus/tiny/records", "corpus/tiny/rejected", "corpus/tiny/tombstones", "corpus/tiny/documents")
STATISTICS = ("study/tiny/score_statistics", "study/tiny/source_statistics", "study/tiny/answer_statistics")
SCORES = ("study/tiny/influence", "study/tiny/document_norms", "study/tiny/candidates", *STATISTICS)
ANALYSES = tuple(f"study/tiny/{name}" for name in ("correlation", "magnitude", "power_law", "answers", "sources"))
OVER_ALL = (
    "study/tiny/coverage",
    "study/tiny/influence_by_query",
    "study/tiny/rankings",
    *ANALYSES,
    "study/tiny/evidence",
    "study/tiny/claims",
    "study/tiny/report",
)


def test_a_new_shard_alone_is_read_scored_and_followed_by_rankings(platform):
    platform.instance.add_dynamic_partitions("corpus/tiny", ["00002"])
    platform.update(SOURCE, "00002")
    assert platform.tick(corpus_keys) == {(path, "00002") for path in CORPUS}
    assert platform.tick(study_keys) == set()  # its documents are not there yet
    for path in CORPUS:
        platform.update(path, "00002")
    assert platform.tick(corpus_keys) == set()
    assert platform.tick(study_keys) == {(path, "00002") for path in SCORES}
    assert platform.tick(study_keys) == set()  # rankings wait for the scores
    for path in SCORES:
        platform.update(path, "00002")
    assert platform.tick(study_keys) == {(path, None) for path in OVER_ALL}
    assert platform.tick(study_keys) == set()


def test_the_index_of_a_new_shard_is_compared_and_added_up(tmp_path):
    study = read_study(write_study(tmp_path, options={"index": {"dimensions": 1024}}, automation={"watch": True}))
    statistics, agreement = "study/tiny/index_statistics", "study/tiny/index_agreement"
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(instance, study)
        instance.add_dynamic_partitions("corpus/tiny", ["00002"])
        for path in (SOURCE, *CORPUS):
            platform.update(path, "00002")
        asked = ("study/tiny/document_index", *SCORES, statistics)
        assert platform.tick(study_keys) == {(path, "00002") for path in asked}
        for path in asked:  # in the order of a run: statistics after what they are of
            platform.update(path, "00002")
        assert platform.tick(study_keys) == {(path, None) for path in (*OVER_ALL, agreement)}
        assert platform.tick(study_keys) == set()


def test_a_changed_shard_is_read_again_and_no_other(platform):
    platform.update(SOURCE, "00001")
    assert platform.tick(corpus_keys) == {(path, "00001") for path in CORPUS}
    assert platform.tick(corpus_keys) == set()  # asked for once


def test_many_shards_that_arrive_together_are_one_request(platform):
    new = [f"{number:05d}" for number in range(2, 42)]
    platform.instance.add_dynamic_partitions("corpus/tiny", new)
    platform.update(SOURCE, *new)
    assert platform.tick(corpus_keys) == {(path, shard) for path in CORPUS for shard in new}
    assert platform.tick(corpus_keys) == set()


def test_ten_files_that_arrive_together_are_one_backfill_per_sensor(platform):
    new = [f"{number:05d}" for number in range(2, 12)]

    cursors, repository = {}, platform.definitions.get_repository_def()

    def requests(keys) -> list[dg.RunRequest]:
        """What the daemon would start; a sensor that is evaluated here instead asks for the same."""
        target = dg.AssetSelection.assets(*keys(platform.study))
        sensor = dg.AutomationConditionSensorDefinition("asked", target=target, use_user_code_server=True)
        instance = platform.instance
        with dg.build_sensor_context(instance, cursors.get(keys), repository_def=repository) as context:
            result = sensor(context)
        cursors[keys] = result.cursor
        return result.run_requests

    assert requests(corpus_keys) == requests(study_keys) == []
    platform.instance.add_dynamic_partitions("corpus/tiny", new)
    platform.update(SOURCE, *new)
    assert len(requests(corpus_keys)) == 1
    for path in CORPUS:
        platform.update(path, *new)
    assert len(requests(study_keys)) == 1
    policy = platform.graph.get(dg.AssetKey(["study", "tiny", "influence"])).backfill_policy
    assert policy.max_partitions_per_run >= len(new)  # and that is one run


def test_rows_that_are_kept_are_followed_by_nothing(platform):
    for path in CORPUS:
        platform.update(path, *SHARDS)
    assert platform.tick(study_keys) == set()
    platform.update(SOURCE, "00001")
    for path in CORPUS:
        platform.update(path, *SHARDS)
    assert platform.tick(study_keys) == {(path, "00001") for path in SCORES}


def test_two_studies_that_share_a_corpus_each_score_a_changed_shard_once(study, tmp_path):
    other = read_study(write_study(tmp_path, study="other", automation={"watch": True}))
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(instance, study, other)
        platform.update(SOURCE, "00001")
        assert platform.tick(corpus_keys) == {(path, "00001") for path in CORPUS}
        assert platform.tick(study_keys, other) == set()  # its documents are yet to be cut
        for path in CORPUS:
            platform.update(path, "00001")
        for each in (study, other):
            asked = {path for path, _ in platform.tick(study_keys, each)}
            assert asked == {path.replace("study/tiny", f"study/{each.name}") for path in SCORES}
        for path in (*CORPUS, *SCORES):  # as `headwater run` of the first study reports all of its shards
            platform.update(path, *SHARDS)
        assert platform.tick(study_keys, other) == set()


def test_a_shard_whose_run_ended_before_it_was_scored_is_asked_for_once(platform):
    platform.update(SOURCE, "00001")
    run = platform.begin(*CORPUS, *SCORES, shard="00001")
    for path in CORPUS:
        platform.update(path, "00001")
    assert platform.tick(study_keys) == set()  # the same run is to score it
    platform.end(run)
    assert platform.tick(study_keys) == {(path, "00001") for path in SCORES}
    platform.end(platform.begin(*SCORES, shard="00001"))  # and fails again
    assert platform.tick(study_keys) == set()


def test_a_shard_that_changes_while_it_is_scored_is_scored_again(platform):
    platform.update(SOURCE, "00001")
    for path in CORPUS:
        platform.update(path, "00001")
    assert platform.tick(study_keys) == {(path, "00001") for path in SCORES}
    run = platform.begin(*SCORES, shard="00001")
    assert platform.tick(study_keys) == set()
    platform.update(SOURCE, "00001")
    for path in CORPUS:
        platform.update(path, "00001")
    assert platform.tick(study_keys) == set()
    for path in SCORES:  # of the documents as they were
        platform.update(path, "00001")
    platform.instance.report_run_canceled(run)
    assert {shard for path, shard in platform.tick(study_keys) if path in SCORES} == {"00001"}
    assert platform.tick(study_keys) == set()


def test_nothing_is_trained_fitted_or_drawn_by_itself(platform):
    keys = platform.graph.materializable_asset_keys
    assert {key.to_user_string() for key in keys if platform.graph.get(key).automation_condition is None} == PINNED


def test_scoring_does_not_follow_a_new_fit_or_new_queries(platform):
    """Scoring a whole corpus again is a person's decision."""
    for path in ("corpus/tiny/tokenizer", "model/tiny/checkpoint", "study/tiny/query_gradients"):
        platform.update(path)
    assert platform.tick(corpus_keys) == set()
    assert platform.tick(study_keys) == set()


def files_sensor(study) -> dg.SensorDefinition:
    return next(sensor for sensor in sensors([study]) if sensor.name == "corpus_tiny_files")


def look(study, cursor: str | None):
    lake = Lake(uri=f"{study.base}/lake")
    instance = dg.DagsterInstance.ephemeral()
    with instance, dg.build_sensor_context(instance=instance, cursor=cursor, resources={"lake": lake}) as context:
        return files_sensor(study)(context), context.cursor


@pytest.fixture
def files(tmp_path):
    """A study whose files have been left alone for an hour."""
    study = read_study(write_study(tmp_path))
    for path in (tmp_path / "corpus").iterdir():
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    Lake(uri=f"{study.base}/lake").ensure(shards_table("tiny"))
    return study, tmp_path / "corpus"


def test_the_files_sensor_lists_shards_once_per_change(files):
    study, corpus = files
    request, cursor = look(study, None)
    assert isinstance(request, dg.RunRequest)
    skipped, cursor = look(study, cursor)
    assert "3 source files, all as they were" in skipped.skip_message
    (corpus / "part2.jsonl").unlink()
    request, cursor = look(study, cursor)
    assert isinstance(request, dg.RunRequest)
    assert "2 source files" in look(study, cursor)[0].skip_message


def test_a_corpus_that_was_deleted_is_listed_again(files):
    study, _ = files
    _, cursor = look(study, None)
    shutil.rmtree(f"{study.base}/lake")
    assert isinstance(look(study, cursor)[0], dg.RunRequest)


def test_a_file_that_is_still_being_written_is_waited_for(files):
    study, corpus = files
    _, cursor = look(study, None)
    (corpus / "part9.jsonl").write_text('{"text": "half a fi')
    skipped, later = look(study, cursor)
    assert "corpus/part9.jsonl changed a moment ago" in skipped.skip_message and later == cursor
    os.utime(corpus / "part9.jsonl", (1, 1))
    assert isinstance(look(study, cursor)[0], dg.RunRequest)


def test_what_the_study_asks_for_is_switched_on(study, files):
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED
    assert {sensor.default_status for sensor in sensors([study])} == {running}
    assert {sensor.default_status for sensor in sensors([files[0]])} == {stopped}
    schedule = catch_up_schedule(files[0], study_job(files[0]))
    assert (schedule.cron_schedule, schedule.default_status.value) == ("0 2 * * *", "STOPPED")


def test_source_files_that_are_all_gone_bury_nothing(files):
    study, corpus = files
    _, cursor = look(study, None)
    for path in corpus.iterdir():
        path.unlink()
    skipped, later = look(study, cursor)
    assert "path 'corpus/*.jsonl' matches no file" in skipped.skip_message
    assert skipped.skip_message.endswith("; the shards stay as they were last listed") and later == cursor


def test_a_list_of_shards_is_overdue_when_its_catch_up_should_have_made_it(study, tmp_path):
    timed = read_study(write_study(tmp_path, automation={"catch_up": "0 */6 * * *", "timezone": "Europe/Berlin"}))
    listing = dg.AssetKey(["corpus", "tiny", "shards"])
    for each, expected in ((timed, ("0 */6 * * *", "Europe/Berlin")), (study, None)):
        found = [asset for asset in study_assets_once([each]) if isinstance(asset, dg.AssetsDefinition)]
        policy = next(asset for asset in found if listing in asset.keys).get_asset_spec(listing).freshness_policy
        assert (policy and (policy.deadline_cron, policy.timezone)) == expected


def test_listings_of_a_corpus_take_turns(platform):
    listing = platform.graph.get(dg.AssetKey(["corpus", "tiny", "shards"]))
    assert listing.pools == {"corpus_tiny_shards"}


def test_a_catch_up_is_switched_on_with_the_sensor_that_follows_it(study, tmp_path):
    timed = read_study(write_study(tmp_path, automation={"catch_up": "0 3 * * *"}))
    for each, status in ((timed, "RUNNING"), (study, "STOPPED")):
        schedule, sensor = catch_up(each, study_job(each))
        assert (schedule.default_status.value, sensor.default_status.value) == (status, status)
        assert sensor.name in schedule.description and schedule.name in sensor.description


def test_a_catch_up_lists_then_computes_what_is_behind(copied):
    study, job = copied.study, study_job(copied.study)
    schedule = catch_up_schedule(study, job)
    with dg.build_schedule_context() as context:
        listing = schedule(context)
    assert listing.asset_selection == [dg.AssetKey(["corpus", "tiny", "shards"])]
    assert shards_behind(copied.lake, study) == []
    table = influence_table("tiny")
    copied.lake.overwrite(table, table.schema.empty_table(), where={"shard": "00001"}, commit={})
    assert shards_behind(copied.lake, study) == ["00001"]

    run = copied.materialize("corpus/tiny/shards").dagster_run
    listed = run.with_tags({CATCH_UP_TAG: "tiny"})
    event = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name="tiny")
    for of_run, expected in ((run, dg.SkipReason), (listed, dg.RunRequest)):
        context = dg.build_run_status_sensor_context(
            "catch_up", dagster_instance=copied.instance, dagster_run=of_run, dagster_event=event,
            resources={"lake": copied.lake},
        )  # fmt: skip
        answer = catch_up_sensor(study, job)(context)
        assert isinstance(answer, expected)
    assert answer.tags["dagster/asset_partition_range_start"] == "00001"
    assert json.loads(json.dumps(answer.tags))["headwater/reuse"] == "true"
