"""Checks as Dagster shows them: of the whole table, whichever shards a run looked at, and failed for real."""

from __future__ import annotations

import json
from dataclasses import replace

import dagster as dg
import pytest
from deltalake import DeltaTable

from orchestration.run import failed_checks
from orchestration.summary import print_summary
from tests.orchestration.tiny_study import records, write_jsonl

RECORDS = ("corpus/tiny/records", "corpus/tiny/rejected", "corpus/tiny/tombstones")
SCORES = ("study/tiny/influence", "study/tiny/document_norms", "study/tiny/candidates")


def shown(copied, path: str, name: str) -> dg.AssetCheckEvaluation:
    """What the UI shows of a check."""
    key = dg.AssetCheckKey(dg.AssetKey(path.split("/")), name)
    return copied.instance.get_latest_asset_check_evaluation_record(key).evaluation


def failed_shards(evaluation: dg.AssetCheckEvaluation) -> set[str]:
    assert evaluation.passed is ("failed" not in evaluation.metadata)
    return set() if evaluation.passed else set(evaluation.metadata["failed"].value)


def scores_finite(copied) -> dg.AssetCheckEvaluation:
    return shown(copied, "study/tiny/influence", "scores_finite")


def keys_whole(copied) -> dg.AssetCheckEvaluation:
    return shown(copied, "corpus/tiny/documents", "keys_whole")


def version(copied, path: str) -> int:
    return DeltaTable(str(copied.directory / "home/lake" / path)).version()


def with_section(copied, section: str, **changes):
    """The study with other settings."""
    spec = copied.study.spec
    changed = spec.model_copy(update={section: getattr(spec, section).model_copy(update=changes)})
    return replace(copied, study=replace(copied.study, spec=changed))


@pytest.fixture
def lose_a_record(monkeypatch):
    """Cutting loses the first record of a shard, until it is undone."""
    import compute.windows

    cut = compute.windows.cut_windows_batch
    monkeypatch.setattr(
        compute.windows, "cut_windows_batch", lambda texts, *args, **options: [[], *cut(texts, *args, **options)[1:]]
    )
    return monkeypatch.undo


@pytest.fixture
def unscorable(copied, monkeypatch):
    """The copied study after a run whose scores of shard 00001 were not finite."""
    from compute.influence import InfluencePass

    score = InfluencePass.score

    def spoiled(self, documents, **options):
        scores = score(self, documents, **options)
        scores.norms_D[0] = float("nan")
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(InfluencePass, "score", spoiled)
        assert not copied.materialize(*SCORES, shards=("00001",)).success
    found = scores_finite(copied)
    assert failed_shards(found) == {"00001"} and found.severity is dg.AssetCheckSeverity.ERROR
    return copied


def test_a_problem_stays_until_its_shard_is_looked_at_again(unscorable):
    others = unscorable.materialize(*SCORES, shards=("00002",))
    assert others.success  # what failed in another shard is no reason to fail this one
    found = scores_finite(unscorable)
    assert failed_shards(found) == {"00001"} and found.severity is dg.AssetCheckSeverity.WARN
    assert "earlier run" in found.description and "shard 00001" in found.description
    assert found.metadata["looked at"].value == 1

    assert unscorable.materialize(*SCORES, shards=("00000", "00002"), reuse=True).success  # all are kept
    found = scores_finite(unscorable)
    assert failed_shards(found) == {"00001"} and "Last looked at" in found.description

    assert unscorable.materialize(*SCORES, shards=("00001",)).success
    assert scores_finite(unscorable).passed


def test_what_runs_later_in_the_run_is_not_stopped_by_a_problem_of_an_earlier_one(copied, lose_a_record):
    assert not copied.materialize("corpus/tiny/documents", shards=("00001",)).success
    lose_a_record()
    result = copied.materialize("corpus/tiny/documents", *SCORES, shards=("00002",))
    assert result.success and failed_shards(keys_whole(copied)) == {"00001"}
    assert "study/tiny/influence" in {
        "/".join(e.asset_key.path) for e in result.all_events if e.is_step_materialization
    }


def test_a_problem_goes_with_its_shard(unscorable):
    unscorable.instance.delete_dynamic_partition("corpus/tiny", "00001")
    assert unscorable.materialize(*SCORES, shards=("00002",)).success
    assert scores_finite(unscorable).passed


def test_a_run_that_keeps_everything_tells_when_it_was_looked_at(copied):
    before = scores_finite(copied)
    assert before.passed and before.metadata["looked at"].value == 3
    for _ in range(2):
        assert copied.materialize(*SCORES, shards=("00000", "00002"), reuse=True).success
        kept = scores_finite(copied)
        assert kept.passed and "Last looked at" in kept.description and kept.metadata["looked at"].value == 0
        assert kept.metadata["last looked at"] == before.metadata["last looked at"]


def test_a_shard_that_failed_does_not_hide_that_another_is_mended(copied, lose_a_record):
    assert not copied.materialize("corpus/tiny/documents", shards=("00000", "00001")).success
    assert failed_shards(keys_whole(copied)) == {"00000", "00001"}
    lose_a_record()
    table = copied.lake.scan(_records_table(), where={"shard": "00001"}).collect().to_arrow()
    copied.lake.overwrite(_records_table(), table.slice(0, 0), where={"shard": "00001"}, commit={})
    with pytest.MonkeyPatch.context() as patch:
        import assets.corpus.documents as stage

        cut = stage._cut_shard

        def crash_on_the_second(step, study, shard, *rest):
            if shard == "00001":
                raise stage.BadInput("cannot be cut")
            return cut(step, study, shard, *rest)

        patch.setattr(stage, "_cut_shard", crash_on_the_second)
        assert not copied.materialize("corpus/tiny/documents", shards=("00000", "00001")).success
    assert failed_shards(keys_whole(copied)) == {"00001"}


def _records_table():
    from assets.corpus.records import records_table

    return records_table("tiny")


def test_the_run_that_ends_last_is_shown_though_another_was_planned_after_it(copied, monkeypatch):
    """Two runs at a time: the one that fails began first and ends last."""
    import compute.windows

    cut, inner = compute.windows.cut_windows_batch, []

    def overtaken(texts, *args, **options):
        if inner:
            return cut(texts, *args, **options)
        inner.append(None)
        inner[0] = copied.materialize("corpus/tiny/documents", shards=("00002",))
        return [[], *cut(texts, *args, **options)[1:]]

    monkeypatch.setattr(compute.windows, "cut_windows_batch", overtaken)
    assert not copied.materialize("corpus/tiny/documents", shards=("00001",)).success
    assert inner[0].success
    assert failed_shards(keys_whole(copied)) == {"00001"}
    assert copied.materialize("corpus/tiny/documents", shards=("00000",)).success
    assert failed_shards(keys_whole(copied)) == {"00001"}
    assert copied.materialize("corpus/tiny/documents", shards=("00001",)).success
    assert keys_whole(copied).passed


def test_documents_that_lose_a_record_are_not_written(copied, lose_a_record):
    before = version(copied, "corpus/tiny/documents")
    assert not copied.materialize("corpus/tiny/documents", shards=("00001",)).success
    found = keys_whole(copied)
    assert not found.passed and found.blocking and "1 records have no document" in found.description
    assert version(copied, "corpus/tiny/documents") == before


def test_a_tokenizer_that_is_not_the_models(copied):
    from compute.tokenizer import train_tokenizer

    train_tokenizer(["many other words " * 3], vocab_size=300).save_pretrained(copied.directory / "model")
    before = version(copied, "corpus/tiny/documents")
    assert not copied.materialize("corpus/tiny/documents", shards=("00001",)).success
    found = shown(copied, "corpus/tiny/documents", "tokenizers_equal")
    assert not found.passed and found.blocking and "model tiny: its tokenizer" in found.description
    assert version(copied, "corpus/tiny/documents") == before
    assert not isinstance(keys_whole(copied), dg.AssetCheckEvaluation)  # planned, and never come to


def test_losses_that_are_not_finite(copied, monkeypatch):
    """Settings that are taken back find the rows that passed with them."""
    import compute.completions

    nats = compute.completions.completion_nats
    changed = with_section(copied, "options", max_new_tokens=3)
    with monkeypatch.context() as patch:
        patch.setattr(compute.completions, "completion_nats", lambda *a, **k: nats(*a, **k) | {"plain": float("nan")})
        assert not changed.materialize("study/tiny/completions", reuse=True).success
    found = shown(copied, "study/tiny/completions", "losses_finite")
    assert not found.passed and "the loss of query plain" in found.description
    assert copied.table("study/tiny/completions")["nats"].is_finite().all()

    assert copied.materialize("study/tiny/completions", reuse=True).success
    assert shown(copied, "study/tiny/completions", "losses_finite").passed


def test_the_same_rows_stay_under_suspicion_until_they_are_computed_again(copied, monkeypatch):
    import compute.completions

    nats = compute.completions.completion_nats
    with monkeypatch.context() as patch:
        patch.setattr(compute.completions, "completion_nats", lambda *a, **k: nats(*a, **k) | {"plain": float("nan")})
        assert not copied.materialize("study/tiny/completions").success
    assert copied.materialize("study/tiny/completions", reuse=True).success
    found = shown(copied, "study/tiny/completions", "losses_finite")
    assert not found.passed and found.severity is dg.AssetCheckSeverity.WARN
    assert copied.materialize("study/tiny/completions").success
    assert shown(copied, "study/tiny/completions", "losses_finite").passed


def test_gradients_that_are_not_finite(copied, monkeypatch):
    import assets.study.query_gradients as stage

    components = stage._components

    def spoiled(step, study, table, names, gradient, stamp):
        gradient.left_OR[0] = float("inf")
        return components(step, study, table, names, gradient, stamp)

    monkeypatch.setattr(stage, "_components", spoiled)
    before = version(copied, "study/tiny/query_gradients")
    assert not copied.materialize("study/tiny/query_gradients").success
    found = shown(copied, "study/tiny/query_gradients", "gradients_finite")
    assert not found.passed and found.blocking and "is not finite; see its loss" in found.description
    assert version(copied, "study/tiny/query_gradients") == before


def test_an_agreement_that_cannot_be_measured_is_said_to_be_so(copied):
    """One listed document per query."""
    from assets.study.rankings import rankings_table

    table = rankings_table("tiny")
    one = copied.table(table.path).unique(["method", "query_id"]).select(table.schema.names)
    copied.lake.overwrite(table, one.to_arrow().cast(table.schema), commit={})
    assert copied.materialize(table.path, reuse=True).success
    found = shown(copied, table.path, "low_rank_agreement")
    assert not found.passed and "could not be measured" in found.description and "nan" not in found.description
    json.dumps([entry.value for entry in found.metadata.values()], allow_nan=False)


def add_shard(copied, rows: list[dict]) -> None:
    """A file of its own, which becomes shard 00003."""
    write_jsonl(copied.directory / "corpus/part9.jsonl", rows)
    assert copied.materialize("corpus/tiny/shards").success


def test_documents_wait_while_too_many_records_are_set_aside(copied):
    add_shard(copied, [{"id": f"bad{number}"} for number in range(20)])
    assert not copied.materialize(*RECORDS, shards=("00003",)).success
    share = shown(copied, "corpus/tiny/records", "rejected_share")
    assert not share.passed and "20 of 110 records were rejected" in share.description
    assert shown(copied, "corpus/tiny/records", "ids_unique").passed  # looked at all the same

    alone = copied.materialize("corpus/tiny/documents", shards=("00000",))
    assert not alone.success
    failure = next(event for event in alone.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data.description == share.description

    tolerant = with_section(copied, "corpus", max_rejected=0.5)
    assert tolerant.materialize("corpus/tiny/documents", shards=("00000",)).success


def test_a_shard_of_rejected_records_only_is_read_once(copied):
    add_shard(copied, [{"id": "bad0"}, {"id": "bad1"}])
    assert copied.materialize(*RECORDS, shards=("00003",), reuse=True).success
    before = version(copied, "corpus/tiny/rejected")
    assert copied.materialize(*RECORDS, shards=("00003",), reuse=True).success
    assert version(copied, "corpus/tiny/rejected") == before


def test_a_shard_whose_reading_was_killed_is_read_again(copied):
    """After its rejected records were written, before the others were."""
    good, bad = {"id": "good", "text": "the cat sits", "source": "code"}, {"id": "bad"}
    add_shard(copied, [good, bad])
    assert copied.materialize(*RECORDS, shards=("00003",), reuse=True).success
    nothing = _records_table().schema.empty_table()
    copied.lake.overwrite(_records_table(), nothing, where={"shard": "00003"}, commit={})
    assert copied.materialize(*RECORDS, shards=("00003",), reuse=True).success
    assert copied.table("corpus/tiny/records").filter(shard="00003")["record_id"].to_list() == ["good"]


def test_an_id_that_stands_twice_is_told_until_one_of_the_shards_is_mended(copied):
    first, original = records()[0], records()[30:60]
    copied.rewrite(1, [first, *original[1:]])
    assert copied.materialize("corpus/tiny/shards").success
    assert not copied.materialize(*RECORDS, shards=("00000", "00001")).success
    found = shown(copied, "corpus/tiny/records", "ids_unique")
    assert failed_shards(found) == {"00000", "00001"} and "'r0' stands 2 times" in found.description

    assert copied.materialize(*RECORDS, shards=("00002",)).success
    found = shown(copied, "corpus/tiny/records", "ids_unique")
    assert failed_shards(found) == {"00000", "00001"} and found.severity is dg.AssetCheckSeverity.WARN
    assert not copied.materialize(*RECORDS, shards=("00000",)).success  # one of both, with nothing mended

    copied.rewrite(1, original)
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*RECORDS, shards=("00001",)).success
    assert shown(copied, "corpus/tiny/records", "ids_unique").passed


def test_ids_are_looked_at_though_a_shard_of_the_run_cannot_be_read(copied):
    first, original = records()[0], records()[30:60]
    copied.rewrite(1, [first, *original[1:]])
    assert copied.materialize("corpus/tiny/shards").success
    (copied.directory / "corpus/part2.jsonl").unlink()
    result = copied.materialize(*RECORDS, shards=("00000", "00002"))
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert "part2.jsonl does not exist" in failure.user_failure_data.description
    assert failed_shards(shown(copied, "corpus/tiny/records", "ids_unique")) == {"00000", "00001"}


GRADIENTS = "study/tiny/query_gradients"


def with_options(copied, **options):
    spec = copied.study.spec
    changed = spec.model_copy(update={"options": spec.options.model_copy(update=options)})
    return replace(copied, study=replace(copied.study, spec=changed))


def test_low_ranks_are_compared_with_the_full_one(copied):
    """A fixed one is flagged where it agrees too little; ranks that are chosen follow the agreement asked for."""
    assert copied.materialize(GRADIENTS).success
    found = shown(copied, GRADIENTS, "low_rank_agrees")
    worst = found.metadata["worst"].value
    assert found.passed and not found.blocking and 0.9 <= worst < 1

    flagged = with_options(copied, min_agreement=1.0)
    assert flagged.materialize(GRADIENTS).success
    found = shown(copied, GRADIENTS, "low_rank_agrees")
    assert not found.passed and f"query {found.metadata['query'].value} correlate with full-rank" in found.description

    chosen = with_options(copied, rank="auto", agreement=0.9999, min_agreement=1.0)
    result = chosen.materialize(GRADIENTS)
    found = shown(copied, GRADIENTS, "low_rank_agrees")
    assert found.passed and found.metadata["worst"].value >= 0.9999 > worst
    (event,) = result.asset_materializations_for_node("study__tiny__query_gradients")
    assert "| `ekfac` |" in event.metadata["agreement with full rank"].value


def test_a_check_that_blocks_nothing_is_told_on_the_terminal_when_it_fails_and_at_the_end(copied, capfd):
    flagged = with_options(copied, min_agreement=1.0)
    first = flagged.materialize(GRADIENTS)
    assert "  check low_rank_agrees failed: study tiny: on " in capfd.readouterr().err
    again = flagged.materialize(GRADIENTS, reuse=True)  # keeps the table, whose problem stays
    for run in (first, again):
        (told,) = failed_checks(copied.instance, [run.run_id])
        assert told.startswith(f"{GRADIENTS}, low_rank_agrees: ") and "raise options.rank" in told
        print_summary(copied.study, copied.lake, [told])
        assert f"1 check failed:\n  {told}\n" in capfd.readouterr().out
    assert failed_checks(copied.instance, [copied.materialize(GRADIENTS).run_id]) == []
    print_summary(copied.study, copied.lake)
    assert "failed" not in capfd.readouterr().out


def test_nothing_is_compared_at_full_rank_or_where_no_document_is_asked_for(copied):
    for options in ({"rank": "full"}, {"agreement_documents": 0}):
        assert with_options(copied, **options).materialize(GRADIENTS).success
        found = shown(copied, GRADIENTS, "low_rank_agrees")
        assert found.passed and found.metadata["measured"].value is False
