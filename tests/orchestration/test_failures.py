"""Shards that fail: the others are done and reported, a crash is retried without doing them again, a mistake is not."""

from __future__ import annotations

import dagster as dg
import pytest
from deltalake import DeltaTable

import assets.study.influence as influence_stage

RECORDS = ("corpus/tiny/records", "corpus/tiny/rejected", "corpus/tiny/tombstones")
SCORES = ("study/tiny/influence", "study/tiny/document_norms", "study/tiny/candidates")


def retries(result: dg.ExecuteInProcessResult) -> int:
    return sum(event.is_step_up_for_retry for event in result.all_events)


def reported(result: dg.ExecuteInProcessResult, path: str) -> set[str]:
    key = dg.AssetKey(path.split("/"))
    events = [event for event in result.all_events if event.is_step_materialization and event.asset_key == key]
    return {event.partition for event in events}


def test_a_shard_that_cannot_be_read_does_not_keep_the_others_from_it(copied):
    path = copied.directory / "corpus/part1.jsonl"
    kept = path.read_bytes()
    path.unlink()
    result = copied.materialize(*RECORDS, shards=("00000", "00002"))
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert "corpus/part1.jsonl does not exist" in failure.user_failure_data.description
    assert reported(result, "corpus/tiny/records") == {"00000", "00002"}
    assert retries(result) == 0
    path.write_bytes(kept)
    alone = copied.materialize(*RECORDS, shards=("00001",))
    assert alone.success and reported(alone, "corpus/tiny/records") == {"00001"}


def test_a_crash_is_retried_and_what_was_done_before_it_is_kept(copied, monkeypatch):
    """The middle shard crashes once, as an accelerator does that runs out of memory."""
    score, crashed = influence_stage._score_shard, []

    def crash_once(step, study, influence_pass, keys, shard, documents, on_batch):
        if shard == "00001" and not crashed:
            crashed.append(shard)
            raise RuntimeError("out of memory")
        return score(step, study, influence_pass, keys, shard, documents, on_batch)

    monkeypatch.setattr(influence_stage, "_score_shard", crash_once)
    table = str(copied.directory / "home/lake/study/tiny/influence")
    before = DeltaTable(table).version()
    result = copied.materialize(*SCORES, shards=("00000", "00002"))
    assert result.success and retries(result) == 1
    assert reported(result, "study/tiny/influence") == {"00000", "00001", "00002"}
    # Two shards by the first attempt and the one that crashed by the second.
    assert DeltaTable(table).version() == before + 2 or DeltaTable(table).version() == before + 3


@pytest.mark.parametrize("what", ["scores", "norms"])
def test_a_shard_whose_check_fails_is_not_written(copied, monkeypatch, what):
    from compute.influence import InfluencePass

    score = InfluencePass.score

    def spoiled(self, documents, **options):
        scores = score(self, documents, **options)
        (scores.scores_QD[:, 0] if what == "scores" else scores.norms_D)[0] = float("nan")
        return scores

    monkeypatch.setattr(InfluencePass, "score", spoiled)
    table = str(copied.directory / "home/lake/study/tiny/influence")
    before = DeltaTable(table).version()
    result = copied.materialize(*SCORES, shards=("00001",))
    assert not result.success and retries(result) == 0
    evaluations = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert not evaluations["scores_finite"].passed and "shard 00001" in evaluations["scores_finite"].description
    assert DeltaTable(table).version() == before


def test_rankings_wait_for_every_shard(copied):
    """A shard without scores: coverage says so, and what is computed over all shards is not."""
    from assets.study.influence import influence_table

    table = influence_table("tiny")
    copied.lake.overwrite(table, table.schema.empty_table(), where={"shard": "00001"}, commit={})
    result = copied.materialize("study/tiny/coverage", "study/tiny/rankings")
    assert not result.success
    evaluations = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert "1 of 3 shards are not scored" in evaluations["shards_complete"].description
    assert not [event for event in result.all_events if event.is_step_materialization]
    states = copied.table("study/tiny/coverage").sort("shard")["state"].to_list()
    assert states == ["scored", "missing", "scored"]


def test_all_checks_pass_on_the_finished_study(copied):
    result = copied.materialize("study/tiny/coverage", "study/tiny/rankings")
    evaluations = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
    assert result.success and evaluations["shards_complete"] and evaluations["keys_unique"]


def test_the_agreement_of_kept_rankings_is_judged_too(copied):
    """By the option as it is now."""
    from dataclasses import replace

    options = copied.study.spec.options.model_copy(update={"min_agreement": 1.0})
    strict = replace(copied.study, spec=copied.study.spec.model_copy(update={"options": options}))
    for study, passes in ((copied.study, True), (strict, False)):
        result = replace(copied, study=study).materialize("study/tiny/rankings", reuse=True)
        (evaluation,) = result.get_asset_check_evaluations()
        assert result.success and evaluation.passed is passes, evaluation.description
