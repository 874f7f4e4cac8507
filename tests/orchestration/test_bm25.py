"""BM25 beside influence: the study that asks for it has it everywhere in its findings, and no other has any of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import bm25s
import polars as pl
import pytest
from deltalake import DeltaTable

from compute.bm25 import WORD
from orchestration.automation import study_keys
from orchestration.graph import study_assets, study_tables
from orchestration.studies import read_study
from tests.orchestration.test_automation import Platform
from tests.orchestration.tiny_study import headwater, write_study

pytestmark = pytest.mark.slow

FINDINGS = {"bm25": True, "resamples": 100, "depth": 20, "counts": [5], "cutoffs": [5]}
SUMMED_UP = ("score_statistics", "source_statistics", "answer_statistics")
PATH = "study/tiny/bm25"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny study with BM25, run; `table` reads what it left."""
    directory = tmp_path_factory.mktemp("bm25")
    study, home = write_study(directory, findings=FINDINGS), directory / "home"
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(
        home=home, study=study, table=lambda path: pl.scan_delta(str(home / "lake/study/tiny" / path)).collect()
    )


def expected_scores(home) -> dict[tuple[str, str], float]:
    """By query and document, of one index of bm25s over all documents."""
    lake = home / "lake"
    documents = pl.scan_delta(str(lake / "corpus/tiny/documents")).select("document_id", "text").collect()
    queries = pl.scan_delta(str(lake / "study/tiny/completions")).collect()
    options = {"token_pattern": WORD, "stopwords": None, "show_progress": False}
    whole = bm25s.BM25()
    whole.index(bm25s.tokenize(documents["text"].to_list(), **options), show_progress=False)
    expected = {}
    for query_id, prompt, completion in queries.select("query_id", "prompt", "completion").iter_rows():
        words = bm25s.tokenize(prompt + completion, **options, return_ids=False)[0]
        scores = whole.get_scores_from_ids(whole.get_tokens_ids(words))
        expected |= {(query_id, name): value for name, value in zip(documents["document_id"], scores, strict=True)}
    return expected


def assert_scores_are_of_the_whole_corpus(run) -> None:
    found = run.table("bm25").select("query_id", "document_id", "score")
    assert {(query, document): score for query, document, score in found.iter_rows()} == expected_scores(run.home)
    assert len(found) == found.select("query_id", "document_id").n_unique()


def test_scores_are_those_of_one_index_over_all_shards(run):
    rows = run.table("bm25")
    assert rows.columns == run.table("influence").columns
    assert set(rows["method"]) == {"bm25"} and rows["shard"].n_unique() == 3
    assert_scores_are_of_the_whole_corpus(run)


def test_all_findings_have_it_as_a_method(run):
    tables = ("score_statistics", "source_statistics", "answer_statistics", "correlation", "magnitude", "power_law")
    for table in (*tables, "answers", "sources", "claims"):
        assert set(run.table(table)["method"]) == {"bm25", "dot", "ekfac"}, table
    evidence = run.table("evidence")
    assert {"bm25", "bm25, dot", "bm25, ekfac"} <= set(evidence["method"])
    assert "BM25" in run.table("report")["html"][0]
    queries = run.table("completions").height
    pairs = run.table("correlation").filter(method="bm25").group_by("other_method").len()
    assert dict(pairs.iter_rows()) == {"bm25": queries * (queries - 1) // 2, "dot": queries, "ekfac": queries}


def test_scores_without_a_gradient_are_not_normed(run):
    rows = run.table("score_statistics").filter(method="bm25").sort("shard", "query_id")
    told = ("mean", "bins", "counts", "top_document_ids", "top_scores")
    raw, normed = (rows.filter(ranking=ranking).select(told).to_dicts() for ranking in ("raw", "normed"))
    assert raw == normed and raw
    best = run.table("answer_statistics").filter(method="bm25").drop_nulls("best_score")
    scores = run.table("bm25").select("query_id", "score", best_document_id="document_id")
    assert (
        best.join(scores, on=["query_id", "best_document_id"])
        .select(pl.col("score") == pl.col("best_score"))
        .to_series()
        .all()
    )
    assert len(best)


def test_a_new_shard_changes_the_scores_of_all_and_nothing_else_does(run):
    lake = run.home / "lake"

    def versions() -> dict[str, int]:
        return {name: DeltaTable(str(lake / "study/tiny" / name)).version() for name in ("bm25", *SUMMED_UP)}

    before = versions()
    new = run.study.parent / "corpus/part3.jsonl"
    new.write_text(json.dumps({"id": "new", "text": "the new river", "source": "code"}))
    result = headwater(run.home, "run", run.study)
    assert result.returncode == 0, result.stderr
    assert versions() == {name: version + 4 for name, version in before.items()}  # a commit for each shard
    assert_scores_are_of_the_whole_corpus(run)
    new.unlink()
    result = headwater(run.home, "run", run.study)
    assert result.returncode == 0, result.stderr
    assert run.table("bm25")["shard"].n_unique() == 3
    assert_scores_are_of_the_whole_corpus(run)
    assert run.table("score_statistics")["mean"].is_finite().all()


def test_no_study_has_it_that_does_not_ask(tmp_path):
    for section, is_there in (({}, False), ({"bm25": True}, True)):
        study = read_study(write_study(tmp_path, findings=section))
        keys = {key.to_user_string() for definition in study_assets(study) for key in definition.keys}
        assert (PATH in keys) == (PATH in {table.path for table in study_tables(study)}) == is_there
        assert (PATH in {key.to_user_string() for key in study_keys(study)}) == is_there


def test_statistics_of_a_new_shard_wait_for_it(tmp_path, instance):
    study = read_study(write_study(tmp_path, findings={"bm25": True}, automation={"watch": True}))
    platform = Platform(instance, study)
    instance.add_dynamic_partitions("corpus/tiny", ["00002"])
    for path in ("records", "rejected", "tombstones", "documents"):
        platform.update(f"corpus/tiny/{path}", "00002")
    for name in ("influence", "document_norms", "candidates"):
        platform.update(f"study/tiny/{name}", "00002")
    over_all = ("coverage", "influence_by_query", "rankings", "bm25")
    assert platform.tick(study_keys) == {(f"study/tiny/{name}", None) for name in over_all}
    assert platform.tick(study_keys) == set()
    for name in over_all:
        platform.update(f"study/tiny/{name}")
    shards = ("00000", "00001", "00002")
    assert platform.tick(study_keys) == {(f"study/tiny/{name}", shard) for name in SUMMED_UP for shard in shards}


@pytest.fixture
def instance():
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
