"""Findings that are run without the statistics they add up: refused, told of by the list of studies, and caught up."""

from __future__ import annotations

import dagster as dg
import pytest

from orchestration.catch_up import CATCH_UP_TAG, catch_up_sensor
from orchestration.graph import study_job
from orchestration.study_states import COMPLETE, OLD_FINDINGS, is_complete, study_states
from tests.orchestration.test_automation import ANALYSES, CORPUS, OVER_ALL, STATISTICS
from tests.orchestration.tiny_study import records

RANKED = ("study/tiny/coverage", "study/tiny/influence_by_query", "study/tiny/rankings")
SCORED = ("study/tiny/influence", "study/tiny/document_norms", "study/tiny/candidates")
CLAIMS, REPORT = ("study/tiny/evidence", "study/tiny/claims"), "study/tiny/report"


@pytest.fixture
def scored(copied):
    """The finished study with another text in shard 00001, scored and ranked, and nothing more."""
    copied.rewrite(1, [row | {"text": "the cat sits on the mat"} for row in records()[30:60]])
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*CORPUS, *SCORED, *RANKED, shards=("00001",), reuse=True).success
    return copied


def refusals(copied, *paths: str) -> list[str]:
    result = copied.materialize(*paths)
    assert not result.success
    return [
        event.step_failure_data.user_failure_data.description
        for event in result.get_step_failure_events()
        if event.step_failure_data.user_failure_data
    ]


def state(copied) -> str:
    from orchestration.studies import LoadedStudy

    path = copied.directory / copied.study.name
    (found,) = study_states(copied.lake, [LoadedStudy(path, copied.study)])
    return found.state


def follow(copied) -> dg.RunRequest | dg.SkipReason:
    """What the catch-up's sensor answers to a listing."""
    run = copied.materialize("corpus/tiny/shards").dagster_run.with_tags({CATCH_UP_TAG: "tiny"})
    event = dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name="tiny")
    context = dg.build_run_status_sensor_context(
        "catch_up", dagster_instance=copied.instance, dagster_run=run, dagster_event=event,
        resources={"lake": copied.lake},
    )  # fmt: skip
    return catch_up_sensor(copied.study, study_job(copied.study))(context)


@pytest.mark.slow
def test_each_step_refuses_what_is_of_other_scores(scored):
    for path in ANALYSES:
        (told,) = refusals(scored, path)
        assert "is not of the scores as they are now in 1 of 3 shards (such as 00001)" in told, path
    for paths in (CLAIMS, (REPORT,)):
        (told,) = refusals(scored, *paths)
        assert "study/tiny/score_statistics is not of the scores" in told and "materialize it of these shards" in told
    assert scored.materialize(*STATISTICS, shards=("00001",)).success
    assert scored.materialize("study/tiny/correlation").success
    for paths in (CLAIMS, (REPORT,)):
        (told,) = refusals(scored, *paths)
        assert told.endswith("study/tiny/magnitude is not of the scores as they are now; materialize it first")
    assert scored.materialize(*ANALYSES).success
    (told,) = refusals(scored, REPORT)
    assert "study/tiny/claims is not of the evidence as it is now" in told
    assert scored.materialize(*CLAIMS, REPORT).success


@pytest.mark.slow
def test_a_removed_file_is_not_counted_for_ever(copied):
    (copied.directory / "corpus/part2.jsonl").unlink()
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*CORPUS, *SCORED, *RANKED, shards=("00002",), reuse=True).success
    (told,) = refusals(copied, "study/tiny/answers")
    assert "in 1 of 2 shards (such as 00002)" in told
    assert copied.materialize(*STATISTICS, *OVER_ALL, shards=("00002",), reuse=True).success


@pytest.mark.slow
def test_the_list_of_studies_and_the_catch_up_know_of_them(scored):
    assert state(scored) == OLD_FINDINGS
    answer = follow(scored)
    assert isinstance(answer, dg.RunRequest) and answer.tags["headwater/reuse"] == "true"
    bounds = [answer.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    paths = ["/".join(key.path) for key in answer.asset_selection]
    assert bounds == ["00000", "00002"] and {*ANALYSES, REPORT} < {*paths}
    assert scored.materialize(*paths, shards=bounds, reuse=True).success
    assert state(scored) == COMPLETE and is_complete(scored.lake, scored.study)
    assert isinstance(follow(scored), dg.SkipReason)
