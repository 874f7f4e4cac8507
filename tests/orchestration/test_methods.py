"""A study by all methods: rows of each in every table, exact scores that agree, rankings, findings and the report."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml

from compute.errors import BadInput
from compute.methods import METHODS
from orchestration.results import Results
from orchestration.studies import read_study
from tests.orchestration.copied_study import copy_of, home_at
from tests.orchestration.tiny_study import QUERIES, headwater, write_study

pytestmark = pytest.mark.slow

FINDINGS = {"resamples": 100, "depth": 20, "counts": [5], "cutoffs": [5]}
OPTIONS = {"methods": list(METHODS), "refinement": {"passes": 3, "documents": 8}}
UNIT_NORM = ("cosine", "trackstar")
KEYS = ["method", "query_id", "document_id"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny study by all methods, run; `table` reads what it left."""
    directory = tmp_path_factory.mktemp("methods")
    study, home = write_study(directory, findings=FINDINGS, options=OPTIONS), directory / "home"
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(
        home=home, study=study, table=lambda path: pl.scan_delta(str(home / "lake/study/tiny" / path)).collect()
    )


def of_method(rows: pl.DataFrame, method: str) -> pl.DataFrame:
    return rows.filter(method=method).select("query_id", "document_id", pl.col("score").cast(pl.Float64))


def test_each_document_is_scored_once_by_each_method(run):
    influence, documents = run.table("influence"), run.table("document_norms").height
    assert influence.select(KEYS).is_unique().all() and influence["score"].is_finite().all()
    counts = dict(influence.group_by("method").len().iter_rows())
    assert counts == dict.fromkeys(METHODS, len(QUERIES) * documents)
    assert set(run.table("query_gradients")["method"]) == set(METHODS)


def test_the_usual_methods_score_as_in_a_study_without_the_others(run, finished):
    """Both studies are of the same files, the same fit and the same rank."""
    usual = finished.table("study/tiny/influence")
    both = run.table("influence").join(usual, on=KEYS, suffix="_usual")
    assert set(both["method"]) == {"ekfac", "dot"} and len(both) == len(usual)
    for _, part in both.group_by("method", "query_id"):
        largest = part["score_usual"].abs().max()
        np.testing.assert_allclose(part["score"], part["score_usual"], rtol=1e-3, atol=1e-3 * largest)


def test_cosines_are_dot_products_of_gradients_of_norm_one(run):
    """One number per query, its own norm, is between a cosine times the document's norm and the dot product."""
    influence, norms = run.table("influence"), run.table("document_norms").select("document_id", "norm")
    dot = of_method(influence, "dot").rename({"score": "dot"})
    both = of_method(influence, "cosine").join(dot, on=["query_id", "document_id"]).join(norms, on="document_id")
    assert both["score"].abs().max() < 1.5  # low ranks may leave the sphere a little
    for (query,), part in both.group_by("query_id"):
        norm = (part["dot"] / (part["score"] * part["norm"])).median()
        largest = part["dot"].abs().max()
        np.testing.assert_allclose(part["score"] * part["norm"] * norm, part["dot"], atol=1e-4 * largest, err_msg=query)


def test_methods_differ_and_kfac_is_in_the_units_of_ekfac(run):
    influence = run.table("influence")
    wide = influence.pivot("method", index=["query_id", "document_id"], values="score")
    for one in METHODS:
        for other in METHODS:
            assert one == other or abs(wide.select(pl.corr(one, other)).item()) < 0.9999, (one, other)
    ratio = wide["kfac"].abs().median() / wide["ekfac"].abs().median()
    assert 0.1 < ratio < 10  # tens of times more, if tokens were taken for documents


def test_exact_scores_agree_and_are_the_sums_of_their_shares(run):
    rankings = run.table("rankings")
    assert len(rankings) == len(METHODS) * len(QUERIES) * 2 * 2 * 5
    for method in METHODS:
        rows = rankings.filter(method=method)
        for shares in ("token_scores", "module_scores"):
            largest = rows["exact_score"].abs().max()
            np.testing.assert_allclose(
                rows[shares].list.sum(), rows["exact_score"], rtol=1e-3, atol=1e-4 * largest, err_msg=method
            )
        assert rows.select(pl.corr("score", "exact_score")).item() > 0.95, method
    unit = rankings.filter(pl.col("method").is_in(UNIT_NORM))
    assert unit["exact_score"].abs().max() <= 1 + 1e-5


def test_scores_of_unit_norm_are_not_normed_again(run):
    rankings, statistics = run.table("rankings"), run.table("score_statistics")
    columns = ["query_id", "end", "rank", "document_id", "score", "normed_score"]
    told = ("mean", "bins", "counts", "top_document_ids", "top_scores")
    for method in METHODS:
        raw, normed = (
            rankings.filter(method=method, ranking=ranking).sort("query_id", "end", "rank").select(columns)
            for ranking in ("raw", "normed")
        )
        assert raw.equals(normed) == (method in UNIT_NORM), method
        summed = statistics.filter(method=method).sort("shard", "query_id")
        raw, normed = (summed.filter(ranking=ranking).select(told).to_dicts() for ranking in ("raw", "normed"))
        assert (raw == normed) == (method in UNIT_NORM), method
    unit = rankings.filter(pl.col("method").is_in(UNIT_NORM))
    assert (unit["normed_score"] == unit["score"]).all()


def test_findings_and_the_report_have_all_of_them(run):
    for table in ("score_statistics", "correlation", "magnitude", "power_law", "answers", "sources", "claims"):
        assert set(run.table(table)["method"]) == set(METHODS), table
    page = run.table("report")["html"][0]
    gradients = ("EK-FAC influence", "Gradient dot product", "K-FAC influence", "Gradient cosine")
    for name in (*gradients, "TrackStar-style", "ASTRA-style"):
        assert name in page, name


def test_the_command_line_ranks_by_any_of_them(run):
    told = headwater(run.home, "top", "tiny", "given", "--method", "cosine")
    assert told.returncode == 0 and "by cosine score\n" in told.stdout


@pytest.fixture(scope="module")
def scorer(run):
    return Results.open(home_at(run.home)).scorer("tiny")


def test_ones_own_texts_have_the_scores_of_the_pass(run, scorer):
    documents = run.table("rankings").unique("document_id").sort("document_id")
    listed = documents.filter(pl.col("document_id").str.ends_with("#0")).head(3).with_row_index("text_number")
    scores = scorer.score_texts(listed["text"]).collect().filter(window=0)
    assert set(scores["method"]) == set(METHODS)
    of_text = listed.select(pl.col("text_number").cast(pl.Int64), "document_id")
    both = scores.join(of_text, on="text_number").join(run.table("influence"), on=KEYS, suffix="_stored")
    assert len(both) == len(METHODS) * len(QUERIES) * len(listed)
    for (method,), part in both.group_by("method"):
        largest = part["score_stored"].abs().max()
        np.testing.assert_allclose(part["score"], part["score_stored"], rtol=1e-3, atol=1e-3 * largest, err_msg=method)
        assert (part["normed_score"] == part["score"]).all() == (method in UNIT_NORM), method


def test_a_query_asked_again_has_its_exact_scores(run, scorer):
    query = run.table("completions").filter(query_id="given").row(0, named=True)
    expected = run.table("rankings").filter(query_id="given").unique(["method", "document_id"])
    expected = expected.filter(pl.col("method") != "astra")  # refined for the queries of the set alone
    asked = scorer.ask(query["prompt"], query["completion"])
    found = scorer.score_query(asked, documents=expected["document_id"].unique()).collect()
    both = expected.join(found, on=["method", "document_id"], suffix="_asked", validate="1:1")
    assert len(both) == len(expected)
    for (method,), part in both.group_by("method"):
        largest = part["exact_score"].abs().max()
        for one, other in (("score_asked", "exact_score"), (pl.col("token_scores_asked").list.sum(), "exact_score")):
            values = part.select(one).to_series()
            np.testing.assert_allclose(values, part[other], rtol=1e-3, atol=1e-4 * largest, err_msg=method)
        assert (part["normed_score_asked"] == part["score_asked"]).all() == (method in UNIT_NORM), method


def test_the_best_documents_of_a_query_are_those_of_its_methods(run, scorer):
    query = run.table("completions").filter(query_id="given").row(0, named=True)
    found = scorer.score_query(query["prompt"], query["completion"], count=2, methods=["trackstar", "kfac"]).collect()
    assert found.group_by("method").len().sort("method").rows() == [("kfac", 2), ("trackstar", 2)]
    first = found.filter(method="trackstar").sort("rank")["score"].to_list()
    assert first == sorted(first, reverse=True) and first[0] <= 1 + 1e-5


def test_refined_gradients_are_kept_and_told_of(run):
    rows = run.table("refined_gradients")
    assert set(rows["query_id"]) == {query["id"] for query in QUERIES} and rows["residual"].is_finite().all()
    told = headwater(run.home, "run", run.study)
    assert told.returncode == 0
    assert run.table("refined_gradients").equals(rows)


def test_a_query_cannot_be_asked_by_a_refined_method(scorer):
    with pytest.raises(BadInput, match="astra refines the gradients of a study's own queries; ask by another method"):
        scorer.ask("the cat", " sits", methods=["astra"])


def test_a_study_without_kfac_is_asked_by_it(run, finished):
    query = run.table("completions").filter(query_id="given").row(0, named=True)
    ids = run.table("rankings").filter(query_id="given")["document_id"].unique().sort().head(2)
    usual = Results.open(home_at(finished.home)).scorer("tiny")
    found = usual.score_query(query["prompt"], query["completion"], documents=ids, methods="kfac").collect()
    assert len(found) == len(ids) and found["score"].is_finite().all()


def test_documents_are_not_whitened_by_another_damping_than_the_queries(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "copy/home/dagster"))
    copied = copy_of(run.study, tmp_path)
    with copied.instance:
        path, file = copied.directory / run.study.name, yaml.safe_load(run.study.read_text())
        path.write_text(yaml.safe_dump(file | {"options": file["options"] | {"damping": 0.5}}))
        changed, first = replace(copied, study=read_study(path)), ["00000", "00000"]
        scores = [f"study/tiny/{name}" for name in ("influence", "document_norms", "candidates")]
        result = changed.materialize(*scores, shards=first)
        assert not result.success
        (failed,) = (event for event in result.all_events if event.is_step_failure)
        assert "trackstar whitens documents by these; materialize study/tiny/query_gradients first" in str(failed)
        assert changed.materialize("study/tiny/query_gradients").success
        assert changed.materialize(*scores, shards=first).success
