"""Top lists in SQL over sorted scores: the rows of a list that was sorted whole, of a part of the row groups."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import pytest

import assets.study.clustered_runs as clustered_runs
from assets.study.clustered_reading import live_version
from orchestration.results import Results
from orchestration.results.top_scores import TopScores, top_scores
from tests.assets.clustered_study import KEYS, ClusteredStudy

ROWS = 8  # of a row group
TOP = "SELECT document_id, score FROM influence WHERE study = 'any' AND method = '{}' AND query_id = '{}' "


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs of several row groups each: shards of 40 and of 12 documents, clustered at two times."""
    with pytest.MonkeyPatch.context() as patch:
        of = clustered_runs.influence_by_query_table
        for module in ("assets.study.clustered_runs", "assets.study.clustered_reading", "tests.assets.clustered_study"):
            patch.setattr(f"{module}.influence_by_query_table", lambda name: replace(of(name), row_group_rows=ROWS))
        study = ClusteredStudy.at(tmp_path_factory.mktemp("sorted"))
        for number in range(3):
            study.score(f"{number:05d}", 40, 0)
        study.cluster()
        study.score("00003", 12, 0)
        study.cluster()
    return study


def sql(study, query: str) -> list[tuple]:
    return Results(study.lake).sql(query).collect().rows()


@pytest.mark.parametrize("order", ["DESC", "ASC", ""])
@pytest.mark.parametrize("bounds", ["LIMIT 1", "LIMIT 7", "LIMIT 5 OFFSET 9", "LIMIT 500", "LIMIT 0"])
def test_a_top_list_is_that_of_all_scores_sorted(study, order, bounds):
    scores = study.scores()
    for method, query in KEYS:
        found = sql(study, TOP.format(method, query) + f"ORDER BY score {order}, document_id {bounds}")
        rows = scores.filter(method=method, query_id=query)
        rows = rows.sort("score", "document_id", descending=[order == "DESC", False])
        count, offset = [*(int(word) for word in bounds.split() if word.isdigit()), 0][:2]
        assert found == rows.slice(offset, count).select("document_id", "score").rows()


def test_ties_may_be_ordered_by_anything(study):
    found = sql(study, TOP.format("ekfac", "q0") + "ORDER BY score DESC, shard DESC, document_id LIMIT 15")
    rows = study.scores().filter(method="ekfac", query_id="q0")
    rows = rows.sort("score", "shard", "document_id", descending=[True, True, False])
    assert found == rows.head(15).select("document_id", "score").rows()


def test_all_methods_of_a_query_make_one_list(study):
    found = sql(study, "SELECT * FROM influence WHERE query_id = 'q0' ORDER BY score DESC, method, document_id LIMIT 9")
    rows = study.scores().filter(query_id="q0").sort("score", "method", "document_id", descending=[True, False, False])
    assert [row[2:6] for row in found] == rows.head(9).select("method", "query_id", "document_id", "score").rows()


def test_few_row_groups_are_read(study):
    runs = live_version(study.lake, "any")
    for bottom in (False, True):
        read = runs.end_groups({"method": "ekfac", "query_id": "q0"}, 3, bottom=bottom).to_table(columns=["score"])
        whole = runs.dataset().count_rows()
        assert 3 <= len(read) < whole / 6
    assert runs.end_groups({"query_id": "nobody"}, 3).count_rows() == 0


# ruff: noqa: E501
OTHERS = {
    "another meaning of score": "SELECT document_id, -score AS score FROM influence WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "another condition": "SELECT document_id, score FROM influence WHERE query_id = 'q0' AND score < 3 ORDER BY score DESC LIMIT 3",
    "another order": "SELECT document_id, score FROM influence WHERE query_id = 'q0' ORDER BY abs(score) LIMIT 3",
    "a place in place of a name": "SELECT document_id, score FROM influence WHERE query_id = 'q0' ORDER BY 2 DESC LIMIT 3",
    "one of several": "SELECT score FROM influence WHERE query_id = 'q0' OR query_id = 'q1' ORDER BY score DESC LIMIT 3",
    "no query": "SELECT score FROM influence WHERE method = 'dot' ORDER BY score DESC LIMIT 3",
    "each once": "SELECT DISTINCT score FROM influence WHERE query_id = 'q0' ORDER BY score DESC LIMIT 3",
    "a share of the rows": "SELECT score FROM influence WHERE query_id = 'q0' ORDER BY score DESC LIMIT 10%",
    "a number that is computed": "SELECT score FROM influence WHERE query_id = 'q0' ORDER BY score DESC LIMIT 1 + 2",
    "no limit": "SELECT score FROM influence WHERE query_id = 'q0' ORDER BY score DESC",
    "groups": "SELECT method, max(score) AS score FROM influence WHERE query_id = 'q0' GROUP BY method ORDER BY score LIMIT 3",
    "a sum": "SELECT sum(score) AS score FROM influence WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "a window": "SELECT score, rank() OVER (ORDER BY score) FROM influence WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "a join": "SELECT a.score FROM influence a JOIN influence b USING (document_id) WHERE a.query_id = 'q0' ORDER BY a.score LIMIT 3",
    "within another": "SELECT count(*) FROM (SELECT score FROM influence WHERE query_id = 'q0') ORDER BY 1 LIMIT 3",
    "a named part": "WITH a AS (SELECT * FROM influence) SELECT score FROM a WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "both together": "SELECT score FROM influence WHERE query_id = 'q0' UNION ALL SELECT 1e9 ORDER BY score DESC LIMIT 3",
    "a sample": "SELECT score FROM influence USING SAMPLE 5 ROWS WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "another table": "SELECT score FROM rankings WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "replaced in the star": "SELECT * REPLACE (-score AS score) FROM influence WHERE query_id = 'q0' ORDER BY score LIMIT 3",
    "twice, and never": "SELECT score FROM influence WHERE query_id = 'q0' AND query_id = 'q1' ORDER BY score LIMIT 3",
    "a number as a text": "SELECT score FROM influence WHERE query_id = 7 ORDER BY score LIMIT 3",
}  # fmt: skip


@pytest.mark.parametrize("query", OTHERS.values(), ids=OTHERS)
def test_other_forms_are_read_whole(query):
    with duckdb.connect() as engine:
        assert top_scores(engine, query) is None


def test_the_form_is_known_whatever_its_letters(study):
    query = "select * FROM Influence AS i where i.\"query_id\" = 'q0' and METHOD = 'dot' order by i.Score desc limit 3 offset 2"
    with duckdb.connect() as engine:
        assert top_scores(engine, query) == TopScores({"query_id": "q0", "method": "dot"}, 5, bottom=False)
    rows = study.scores().filter(method="dot", query_id="q0").sort("score", descending=True)
    assert [row[5] for row in sql(study, query)] == rows["score"][2:5].to_list()


def test_another_study_s_scores_are_none(study):
    assert sql(study, TOP.replace("'any'", "'other'").format("dot", "q0") + "ORDER BY score LIMIT 3") == []
    assert not study.scores().is_empty()
