"""The analyses over generated scores whose truth is known: it lies in their intervals, and what is not there is not
found."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from assets.corpus.documents import documents_table
from assets.findings import merged as merging
from assets.findings.answer_statistics import answer_statistics_table, kind_rows, kind_statistics_table, study_rules
from assets.findings.answers import ANSWERS
from assets.findings.claims import decided
from assets.findings.correlation import CORRELATION
from assets.findings.kinds import KINDS
from assets.findings.magnitude import MAGNITUDE
from assets.findings.merged import merged_ends, merged_histograms, merged_source_histograms
from assets.findings.power_law import POWER_LAW
from assets.findings.sources import SOURCES
from tests.assets.findings_study import METHOD, STAMP, FindingsStudy, Query, document_ids, one, several

TASKS = {"factual": ("capital", "river", "founder"), "reasoning": ("arithmetic", "equation", "slope")}
KINDS_AND_TASKS = [(kind, task) for kind, tasks in TASKS.items() for task in tasks]


def all_queries(each: int) -> list[Query]:
    return [query for kind, tasks in TASKS.items() for query in several(kind, tasks, each)]


def inside(row: dict, truth: float) -> bool:
    return row["low"] <= truth <= row["high"] and row["high"] - row["low"] < 0.5 * max(abs(truth), 0.2)


def by_factors(draw, queries, documents: int, task: tuple[float, float], group: tuple[float, float]) -> np.ndarray:
    """Scores that share a factor with the queries of their task and one with those of their kind; each query draws its
    two loadings from these ranges. Correlations are products of loadings."""
    labels = [(query.kind, query.task) for query in queries]
    of_kind = {kind: draw.normal(size=documents) for kind in sorted({kind for kind, _ in labels})}
    of_task = {label: draw.normal(size=documents) for label in sorted(set(labels))}
    scores = []
    for kind, name in labels:
        one_of_task, one_of_kind = draw.uniform(*task), draw.uniform(*group)
        rest = math.sqrt(1 - one_of_task**2 - one_of_kind**2)
        shared = one_of_task * of_task[kind, name] + one_of_kind * of_kind[kind]
        scores.append(shared + rest * draw.normal(size=documents))
    return np.array(scores)


# correlation


def test_correlations_within_and_between_tasks_are_those_of_the_factors(tmp_path):
    draw, queries = np.random.default_rng(1), all_queries(6)
    study = FindingsStudy(tmp_path, queries)
    scores = by_factors(draw, study.queries, 20_000, (0.4, 0.8), (0.2, 0.5))
    study.put_scores({METHOD: scores}, shards=(3_000, 1, 9_000))
    rows, evidence = study.found(CORRELATION)
    exact = np.corrcoef(scores.astype(np.float32))
    place = {query.id: number for number, query in enumerate(study.queries)}
    assert len(rows) == 36 * 35 // 2
    for row in rows.iter_rows(named=True):
        assert row["r"] == pytest.approx(exact[place[row["query_id"]], place[row["other_query_id"]]], abs=1e-12)
    for kind in TASKS:
        same, other = f"{kind}, same task", f"{kind}, other task"
        assert inside(one(evidence, "mean correlation", same), 0.6**2 + 0.35**2)
        contrast = one(evidence, "mean correlation", same, other)
        assert inside(contrast, 0.6**2)
        assert contrast["p_adjusted"] < 0.01
        assert contrast["queries"] == 18
    assert abs(one(evidence, "mean correlation", "factual × reasoning")["estimate"]) < 0.02
    kinds = one(evidence, "mean correlation", "factual", "reasoning")
    of_kind = [one(evidence, "mean correlation", kind)["estimate"] for kind in TASKS]
    assert kinds["estimate"] == pytest.approx(of_kind[0] - of_kind[1])
    assert -0.1 < kinds["low"] < kinds["estimate"] < kinds["high"] < 0.2  # drawn from the same ranges
    told = one(evidence, "mean correlation", "factual: river")
    of_river = [place[query.id] for query in queries if query.task == "river"]
    assert told["estimate"] == pytest.approx(exact[np.ix_(of_river, of_river)][np.triu_indices(6, 1)].mean())


def test_tasks_of_independent_queries_are_not_set_apart(tmp_path):
    """By chance one of twenty tests is: of eighteen, rarely more than three."""
    found = 0
    for seed in range(6):
        study = FindingsStudy(tmp_path / str(seed), all_queries(3), resamples=500)
        study.put_scores({METHOD: np.random.default_rng(seed).standard_t(3, (18, 200))})
        _, evidence = study.found(CORRELATION)
        p_values = evidence.drop_nulls("contrast")["p_value"]
        assert len(p_values) == 3  # tasks of both kinds, and the kinds
        found += (p_values < 0.05).sum()
        mean = one(evidence, "mean correlation", "factual, same task")
        assert mean["chance"] == 0
        assert abs(mean["estimate"]) < 0.1
    assert found <= 3


def test_methods_are_correlated_query_by_query(tmp_path):
    draw, study = np.random.default_rng(3), FindingsStudy(tmp_path, all_queries(2))
    dot = draw.normal(size=(12, 5_000))
    loadings = draw.uniform(0.5, 0.9, (12, 1))
    study.put_scores({"dot": dot, METHOD: loadings * dot + np.sqrt(1 - loadings**2) * draw.normal(size=dot.shape)})
    rows, evidence = study.found(CORRELATION)
    across = rows.filter(pl.col("method") != pl.col("other_method"))
    assert across["query_id"].to_list() == across["other_query_id"].to_list() == [each.id for each in study.queries]
    np.testing.assert_allclose(across["r"], loadings[:, 0], atol=0.05)
    for kind in TASKS:
        assert inside(one(evidence, "correlation of two methods", kind, method=f"dot, {METHOD}"), 0.7)


# magnitude


def test_influence_and_coverage_are_those_of_the_scores(tmp_path):
    draw = np.random.default_rng(4)
    queries = [Query(f"q{number}", "t", ("factual", "reasoning")[number % 2], nats=1.0 + number) for number in range(8)]
    study = FindingsStudy(tmp_path, queries, shares=(0.01, 0.1, 1.0), counts=(10, 100, 9_000))
    scores = (draw.standard_t(2, (8, 5_000)) + 0.2).astype(np.float32)
    study.put_scores({METHOD: scores}, {METHOD: -3 * scores}, shards=(1_000, 1_500))
    rows, evidence = study.found(MAGNITUDE)
    assert sorted(rows["cut"].unique()) == ["top 1 %", "top 10", "top 10 %", "top 100", "top 100 %"]
    for row in rows.iter_rows(named=True):
        of = scores[int(row["query_id"][1])].astype(np.float64) * (1 if row["sign"] == "positive" else -1)
        falling = np.sort(of[of > 0])[::-1]
        influence = falling[: round(row["documents"])].sum()
        nats = 1.0 + int(row["query_id"][1])
        assert row["influence"] == pytest.approx(influence, rel=0.01)
        assert row["influence_per_nat"] == pytest.approx(influence / nats, rel=0.01)
        assert row["coverage"] == pytest.approx(influence / falling.sum(), rel=0.01)
    told = one(evidence, "positive influence per nat, top 1 %", "factual")
    exact = [np.sort(scores[number])[::-1][:50].sum(dtype=np.float64) / (1 + number) for number in (0, 2, 4, 6)]
    assert told["estimate"] == pytest.approx(np.mean(exact), rel=0.01)
    volatility = one(evidence, "volatility of positive influence per nat, top 1 %", "factual")
    assert volatility["estimate"] == pytest.approx(np.abs(exact / np.mean(exact) - 1).mean(), rel=0.03)


def test_magnitudes_are_contrasted_where_they_differ(tmp_path):
    draw, queries = np.random.default_rng(5), all_queries(4)
    for name, factor in (("differ", 3.0), ("alike", 1.0)):
        study = FindingsStudy(tmp_path / name, queries)
        scale = np.array([factor if query.kind == "factual" else 1.0 for query in study.queries])
        study.put_scores({METHOD: (scale * draw.uniform(0.5, 1.5, 24))[:, None] * draw.standard_t(3, (24, 4_000))})
        _, evidence = study.found(MAGNITUDE)
        tested = evidence.drop_nulls("contrast")
        assert set(tested["statistic"].str.extract("top (.*)$")) == {"1 %"}
        contrast = one(evidence, "positive influence per nat, top 1 %", "factual", "reasoning")
        assert (contrast["p_adjusted"] < 0.05) == (name == "differ")
        assert (contrast["low"] > 0) == (name == "differ")


@pytest.mark.parametrize(
    ("shares", "tested"), [((0.01, 0.1), "1 %"), ((0.005, 0.1), "0.5 %"), ((0.001, 0.05), "5 %"), ((1.0,), "100 %")]
)
def test_groups_are_compared_at_the_share_nearest_to_one_percent(tmp_path, shares, tested):
    draw, queries = np.random.default_rng(22), all_queries(2)
    study = FindingsStudy(tmp_path, queries, shares=shares, resamples=200)
    scale = np.array([5.0 if query.kind == "factual" else 1.0 for query in study.queries])
    study.put_scores({METHOD: scale[:, None] * draw.standard_t(3, (12, 2_000))})
    _, evidence = study.found(MAGNITUDE)
    assert set(evidence.drop_nulls("contrast")["statistic"].str.extract("top (.*)$")) == {tested}
    claim = claim_of(decided(evidence), "magnitude")
    assert claim["sentence"].startswith(f"The top {tested} of documents have more influence")
    assert claim["estimate"] > 0


def test_two_queries_have_no_interval_of_their_volatility(tmp_path):
    for each, is_known in ((2, False), (3, True)):
        queries = [*several("factual", ["a"], each), *several("reasoning", ["slope"], 8)]
        study = FindingsStudy(tmp_path / str(each), queries, resamples=300)
        study.put_scores({METHOD: np.random.default_rng(23).standard_t(3, (len(queries), 1_000))})
        _, evidence = study.found(MAGNITUDE)
        volatility = "volatility of positive influence per nat, top 1 %"
        told = [one(evidence, volatility, "factual"), one(evidence, volatility, "factual", "reasoning")]
        assert all(row["estimate"] == row["estimate"] for row in told)
        assert [not math.isnan(row["low"]) for row in told] == [is_known, is_known]


def test_intervals_do_not_leave_what_can_be(tmp_path):
    draw, study = np.random.default_rng(24), FindingsStudy(tmp_path, several("factual", ["a"], 5), ranking="normed")
    scores = draw.standard_t(1, (5, 2_000))  # a few documents have nearly all influence
    sources = draw.permutation(np.repeat(["rare", "web"], [20, 1_980]))
    scores[0, np.flatnonzero(sources == "rare")[:3]] += 1e6
    study.put_scores({METHOD: scores}, {METHOD: scores}, sources=sources)
    for analysis in (MAGNITUDE, SOURCES):
        _, evidence = study.found(analysis)
        known = evidence.filter(pl.col("low").is_not_nan())
        assert len(known) and known["low"].min() >= 0
        coverage = known.filter(pl.col("statistic").str.contains("coverage"))
        assert coverage.is_empty() or coverage["high"].max() <= 1
    rare = one(evidence, "representation of rare, top 50", "factual")
    assert rare["low"] == 0 < rare["estimate"]
    assert one(evidence, "representation of web, top 50", "factual")["high"] <= 2_000 / 1_980


# power law


@pytest.mark.parametrize(("factual", "reasoning"), [(2.5, 4.0), (3.0, 3.0)])
def test_exponents_and_slopes_of_pareto_tails(tmp_path, factual, reasoning):
    """Of the 32 intervals of four draws 31 hold the truth; of this one all eight do."""
    draw = np.random.default_rng(16)
    study = FindingsStudy(tmp_path, all_queries(4))
    mean = np.array([factual if query.kind == "factual" else reasoning for query in study.queries])
    alphas = mean + np.tile(np.linspace(-0.15, 0.15, 12), 2)  # the same spread for both kinds
    scores = draw.pareto(alphas[:, None] - 1, (24, 20_000)) + 1
    scores[:, ::3] *= -1
    study.put_scores({METHOD: scores}, shards=(4_000, 9_000))
    rows, evidence = study.found(POWER_LAW)
    assert rows["points"].to_list() == [500] * 24
    for kind in TASKS:
        for statistic, truths in (("alpha", alphas), ("slope", -1 / (alphas - 1))):
            truth = truths[[query.kind == kind for query in study.queries]].mean()
            told = one(evidence, statistic, kind)
            assert told["low"] <= truth <= told["high"]
            assert told["high"] - told["low"] < 0.15 * abs(truth)
        assert one(evidence, "share of queries whose tail fits a power law", kind)["estimate"] > 0.6
    for statistic in ("slope", "alpha"):
        contrast = one(evidence, statistic, "factual", "reasoning")
        assert (contrast["p_adjusted"] < 0.05) == (factual != reasoning)
        assert (contrast["low"] <= 0 <= contrast["high"]) == (factual == reasoning)


def test_a_query_without_a_tail_is_no_fit_and_not_counted(tmp_path):
    study = FindingsStudy(tmp_path, [Query(f"q{number}", "t", "factual") for number in range(4)])
    scores = np.random.default_rng(7).pareto(2, (4, 2_000)) + 1
    scores[3] *= -1
    study.put_scores({METHOD: scores})
    rows, evidence = study.found(POWER_LAW)
    last = rows.filter(query_id="q3").row(0, named=True)
    assert last["points"] == 0
    assert all(math.isnan(last[name]) for name in ("slope", "alpha", "p_fit", "r_squared"))
    for statistic in ("slope", "alpha", "share of queries whose tail fits a power law"):
        assert one(evidence, statistic, "factual")["queries"] == 3


# sources


def with_code_at_the_top(draw, queries, codes: np.ndarray, share: dict[str, float], top: int) -> np.ndarray:
    """Heavy-tailed scores of whose `top` highest this share, by kind of query, is of code on average."""
    scores = []
    for query in queries:
        of_code = draw.binomial(top, share[query.kind])
        both = ((True, of_code), (False, top - of_code))
        first = np.concatenate(
            [draw.choice(np.flatnonzero(codes == is_code), count, replace=False) for is_code, count in both]
        )
        order = np.concatenate([draw.permutation(first), draw.permutation(np.setdiff1d(np.arange(len(codes)), first))])
        one_query = np.empty(len(codes))
        one_query[order] = np.sort(draw.standard_t(2, len(codes)))[::-1]
        scores.append(one_query)
    return np.array(scores)


def test_representation_of_sources(tmp_path):
    """Code is a tenth of the corpus and two fifths of the top 50 of reasoning queries."""
    draw, study = np.random.default_rng(8), FindingsStudy(tmp_path, all_queries(4), ranking="normed")
    sources = draw.permutation(np.repeat(["code", "books", "web"], [1_000, 4_000, 5_000]))
    scores = with_code_at_the_top(draw, study.queries, sources == "code", {"factual": 0.1, "reasoning": 0.4}, 50)
    study.put_scores({METHOD: -scores}, {METHOD: scores}, sources=sources, shards=(2_500, 4_000))
    rows, evidence = study.found(SOURCES)
    top = "representation of code, top 50"
    reasoning, factual = (one(evidence, top, kind) for kind in ("reasoning", "factual"))
    assert inside(reasoning, 4.0)
    assert reasoning["chance"] == 1
    assert factual["low"] <= 1 <= factual["high"]
    contrast = one(evidence, top, "factual", "reasoning")
    assert inside(contrast, -3.0)
    assert contrast["p_adjusted"] < 0.01
    assert inside(one(evidence, "representation of books, top 50", "reasoning"), 0.6 / 0.9)
    for source in ("code", "books", "web"):
        bottom = one(evidence, f"representation of {source}, bottom 50", "reasoning")
        assert bottom["low"] <= 1 <= bottom["high"]
    for (query, end), part in rows.filter(cut_off=50).group_by("query_id", "end"):
        of = scores[[each.id for each in study.queries].index(query)] * (1 if end == "top" else -1)
        first = sources[np.argsort(-of)[:50]]
        assert part["documents"].sum() == pytest.approx(50)
        for row in part.iter_rows(named=True):
            assert abs(row["documents"] - (first == row["source"]).sum()) <= 2
    assert set(rows["cut_off"]) == {50, 500, 5000}


# answers


def put_answers(study: FindingsStudy, scores: np.ndarray, holding: dict[tuple[str, str], set[int]], shards) -> None:
    """As a shard's step counts them: `holding` are the documents that hold a part of a query's answer, the half of them
    with even numbers to the letter."""
    ids, ends = document_ids(scores.shape[1]), np.cumsum([0, *shards, scores.shape[1] - sum(shards)])
    place = {query.id: number for number, query in enumerate(study.queries)}
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        shard, rows = f"{number:05d}", []
        for (query, part), match in itertools.product(holding, ("normalized", "exact")):
            of, documents = scores[place[query]].astype(np.float32), held(holding, query, part, match)
            found = sorted((each for each in documents if start <= each < end), key=lambda each: (-of[each], ids[each]))
            best = {"best_score": float(of[found[0]]), "best_document_id": ids[found[0]]} if found else {}
            rows.append({"shard": shard, "method": METHOD, "query_id": query, "part": part, "answer": "7"})
            rows[-1] |= {"match": match, "documents": len(found), "best_score": None, "best_document_id": None} | best
        study.put(answer_statistics_table("s"), rows, shard=shard)


def held(holding: dict[tuple[str, str], set[int]], query: str, part: str, match: str) -> set[int]:
    return {each for each in holding[query, part] if match == "normalized" or each % 2 == 0}


def test_ranks_of_answers_are_those_of_sorting_all_documents(tmp_path):
    draw, shards = np.random.default_rng(9), (900, 1_500)
    study = FindingsStudy(tmp_path, all_queries(2), depth=100)
    scores = draw.standard_t(3, (12, 4_000)).astype(np.float32)
    scores[:, :30] = 9.0  # ties across the list
    holding = {}
    for number, query in enumerate(study.queries):
        for part in ("answer",) if query.kind == "factual" else ("answer", "step 1", "step 2"):
            size = (0, 1, 40, 400)[(number + len(part)) % 4]
            holding[query.id, part] = set(draw.choice(4_000, size, replace=False).tolist())
    study.put_scores({METHOD: scores}, shards=shards)
    put_answers(study, scores, holding, shards)
    rows, evidence = study.found(ANSWERS)
    assert len(rows) == 2 * len(holding)
    ids, worst = np.array(document_ids(4_000)), {}
    for row in rows.iter_rows(named=True):
        number = [each.id for each in study.queries].index(row["query_id"])
        documents = held(holding, row["query_id"], row["part"], row["match"])
        assert row["corpus_documents"] == len(documents)
        order = np.lexsort((ids, -scores[number]))
        ranks = {int(document): rank for rank, document in enumerate(order, 1)}
        exact = min((ranks[each] for each in documents), default=None)
        worst.setdefault((row["query_id"], row["match"]), []).append(math.inf if exact is None else exact)
        if exact is None:
            assert (row["best_rank"], row["worst_rank"], row["best_document_id"]) == (None, None, None)
        elif exact <= 100:
            assert (row["best_rank"], row["worst_rank"]) == (exact, exact)
            assert row["best_document_id"] == ids[order[exact - 1]]
        else:
            assert 100 <= row["best_rank"] <= exact <= row["worst_rank"]
            assert row["worst_rank"] - row["best_rank"] < 300
    for kind, match in itertools.product(TASKS, ("normalized", "exact")):
        of_kind = [max(worst[query.id, match]) for query in study.queries if query.kind == kind]
        for top in (1, 5, 10, 50, 100):
            told = one(evidence, f"{'exact ' if match == 'exact' else ''}answer in the top {top}", kind)
            assert told["estimate"] == pytest.approx(np.mean([rank <= top for rank in of_kind]))
    assert evidence.filter(statistic="answer in the top 500").is_empty()
    tested = evidence.filter(pl.col("contrast").is_not_null())["statistic"]
    assert len(tested) and not tested.str.starts_with("exact").any()  # they would be corrected for twice


def test_chance_of_an_answer_is_that_of_random_orders(tmp_path):
    draw, shards = np.random.default_rng(10), (150,)
    queries = [Query(f"{kind} {number}", "t", kind) for kind in TASKS for number in range(3)]
    study = FindingsStudy(tmp_path, queries, depth=50)
    scores = draw.normal(size=(6, 300))
    parts = {"factual": ("answer",), "reasoning": ("answer", "step 1")}
    holding = {
        (query.id, part): set(draw.choice(300, 4 * (number % 3) + 2, replace=False).tolist())
        for number, query in enumerate(study.queries)
        for part in parts[query.kind]
    }
    study.put_scores({METHOD: scores}, shards=shards)
    put_answers(study, scores, holding, shards)
    _, evidence = study.found(ANSWERS)
    orders = draw.permuted(np.tile(np.arange(300), (4_000, 1)), axis=1)  # [each of 4,000, document] = rank from 0
    for kind, top in (("factual", 10), ("factual", 50), ("reasoning", 50)):
        hits = [
            np.all([(orders[:, sorted(holding[query.id, part])] < top).any(1) for part in parts[kind]], axis=0).mean()
            for query in study.queries
            if query.kind == kind
        ]
        assert one(evidence, f"answer in the top {top}", kind)["chance"] == pytest.approx(np.mean(hits), abs=0.015)


# kinds

RULES = """rules:
  - {rule: programs, tasks: [slope], kind: code, must: ["def slope"]}
  - {rule: worked, tasks: [slope], kind: worked_example, must: ["divide"]}
  - {rule: talk, tasks: [slope, capital], kind: fact, must: ["capital"]}
"""
TEXTS = ("def slope(a, b)", "subtract, then divide", "the capital of the land", "nothing of it")


def with_documents(root, queries, texts: np.ndarray, scores: np.ndarray, shards: tuple[int, ...]) -> FindingsStudy:
    root.mkdir(parents=True, exist_ok=True)
    (root / "rules.yaml").write_text(RULES)
    study = FindingsStudy(root, queries, document_rules="rules.yaml", kinds_depth=40)
    study.put_scores({METHOD: scores}, shards=shards)
    rules, ids = study_rules(study.study), document_ids(len(texts))
    ends = np.cumsum([0, *shards, len(texts) - sum(shards)])
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        shard = f"{number:05d}"
        rows = [
            {"shard": shard, "position": at, "document_id": ids[at], "record_id": "r", "window": 0, "source": "books"}
            | {"text": TEXTS[texts[at]], "token_ids": [1], "tokens": 1, "tokenizer_fingerprint": "t"}
            for at in range(start, end)
        ]
        study.put(documents_table("c"), rows, shard=shard)
        counted = kind_rows(shard, pl.Series([row["text"] for row in rows]), rules, STAMP)
        study.lake.overwrite(kind_statistics_table("s"), counted, where={"shard": shard}, commit={})
    return study


def test_kinds_at_the_top_against_the_corpus(tmp_path):
    """Programs and worked examples are a fifth of the corpus; they score higher for queries of slopes."""
    draw = np.random.default_rng(11)
    queries = [
        *several("reasoning", ["slope"], 6),
        *several("control", ["slope"], 6),
        *several("factual", ["capital"], 5),
    ]
    queries += several("factual", ["river"], 2)  # a task that no rule names
    texts = draw.choice(4, 2_000, p=[0.1, 0.1, 0.3, 0.5])
    scores = draw.normal(size=(len(queries), 2_000))
    names = sorted(query.id for query in queries)
    scores[np.ix_([name.startswith("slope query") for name in names], texts <= 1)] += 1.0
    study = with_documents(tmp_path, queries, texts, scores, (700, 800))
    rows, evidence = study.found(KINDS)
    assert set(rows["query_id"]) == {query.id for query in queries if query.task != "river"}
    named = dict(enumerate(("code", "worked_example", "fact", "none")))
    for (query,), part in rows.filter(task="slope").group_by("query_id"):
        first = texts[np.argsort(-scores[names.index(query)])[:40]]
        exact = {named[kind]: int((first == kind).sum()) for kind in range(4)}
        assert dict(part.select("kind", "documents").iter_rows()) == exact
        shares = {named[kind]: (texts == kind).mean() for kind in range(4)}
        assert dict(part.select("kind", "corpus_share").iter_rows()) == pytest.approx(shares)
    reasoning, control = (
        one(evidence, "share of procedural documents, top 40", group) for group in ("reasoning", "reasoning control")
    )
    assert reasoning["chance"] == pytest.approx((texts <= 1).mean())
    assert reasoning["low"] > reasoning["chance"]
    assert control["low"] <= control["chance"] <= control["high"]
    claim = claim_of(decided(evidence), "procedural documents")
    assert (claim["holds"], claim["in_controls"], claim["task_specific"]) == (True, False, True)


def test_a_query_whose_procedure_is_nowhere_in_the_corpus_counts_as_none_of_its_documents(tmp_path):
    draw = np.random.default_rng(21)
    queries = [*several("reasoning", ["slope"], 4), *several("factual", ["capital"], 4)]
    texts = draw.choice(4, 500, p=[0.2, 0.2, 0.2, 0.4])  # of capitals there are facts, and no procedure
    study = with_documents(tmp_path, queries, texts, draw.normal(size=(8, 500)), ())
    _, evidence = study.found(KINDS)
    told = one(evidence, "share of procedural documents, top 40", "factual")
    assert (told["estimate"], told["chance"], told["queries"]) == (0, 0, 4)
    assert one(evidence, "share of procedural documents, top 40", "factual", "reasoning")["queries"] == 8


def test_rules_for_other_tasks_find_no_kinds(tmp_path):
    study = with_documents(
        tmp_path, several("factual", ["river"], 3), np.zeros(50, int), np.random.default_rng(1).normal(size=(3, 50)), ()
    )
    rows, evidence = study.found(KINDS)
    assert rows.is_empty()
    assert evidence.is_empty()


# controls


def claim_of(claims: list[dict], name: str) -> dict:
    (claim,) = [claim for claim in claims if claim["claim"] == name]
    return claim


@pytest.mark.parametrize("also_in_controls", [False, True])
def test_an_effect_that_controls_have_is_not_of_the_task(tmp_path, also_in_controls):
    draw, tasks = np.random.default_rng(12), TASKS["reasoning"]
    queries = [*several("reasoning", tasks, 5), *several("control", tasks, 5)]
    study = FindingsStudy(tmp_path, queries)
    scores = by_factors(draw, study.queries, 4_000, (0.5, 0.7), (0.2, 0.4))
    if not also_in_controls:
        control = [query.kind == "control" for query in study.queries]
        scores[control] = draw.normal(size=(15, 4_000))
    study.put_scores({METHOD: scores}, shards=(1_000,))
    _, evidence = study.found(CORRELATION)
    claim = claim_of(decided(evidence), "same task, reasoning")
    assert claim["holds"]
    assert claim["in_controls"] == also_in_controls
    assert claim["task_specific"] == (not also_in_controls)


def test_without_controls_nothing_is_said_of_them(tmp_path):
    study = FindingsStudy(tmp_path, all_queries(4))
    study.put_scores({METHOD: by_factors(np.random.default_rng(13), study.queries, 3_000, (0.5, 0.7), (0.2, 0.4))})
    _, evidence = study.found(CORRELATION)
    claim = claim_of(decided(evidence), "same task, factual")
    assert claim["holds"]
    assert claim["in_controls"] is None
    assert claim["task_specific"] is None
    assert math.isnan(claim["control_estimate"])


# what there may be none of

OVER_SCORES = (CORRELATION, MAGNITUDE, POWER_LAW, SOURCES)


@pytest.mark.parametrize("analysis", OVER_SCORES, ids=lambda analysis: analysis.name)
@pytest.mark.parametrize(
    "queries",
    [
        [Query("only", "slope", "reasoning")],
        [Query("only")],
        [Query("one"), Query("two"), Query("three")],
        [Query("one", None, "factual"), Query("two", "slope", None), Query("three", "slope", "control")],
        [Query("one", "slope", "control"), Query("two", "slope", "control")],
    ],
    ids=["one query", "one without a kind", "no kinds", "some kinds", "controls of nothing"],
)
def test_few_queries_and_queries_without_kinds(tmp_path, analysis, queries):
    study = FindingsStudy(tmp_path, queries)
    study.put_scores({METHOD: np.random.default_rng(14).standard_t(3, (len(queries), 600))}, shards=(200,))
    rows, evidence = study.found(analysis)
    assert (len(rows) > 0) == (len(queries) > 1 or analysis is not CORRELATION)
    alone = evidence.filter(pl.col("queries") == 1, pl.col("contrast").is_null())
    assert alone.filter(pl.col("statistic").str.starts_with("share of") | pl.col("low").is_nan()).equals(alone)
    assert decided(evidence) is not None


def test_answers_of_one_query_and_of_none(tmp_path):
    study = FindingsStudy(tmp_path, [Query("only"), Query("without an answer")])
    scores = np.random.default_rng(15).normal(size=(2, 40))
    study.put_scores({METHOD: scores})
    put_answers(study, scores, {("only", "answer"): {3}}, ())
    rows, evidence = study.found(ANSWERS)
    assert rows.select("query_id", "match").rows() == [("only", "exact"), ("only", "normalized")]
    assert set(evidence["queries"]) == {1}
    assert one(evidence, "answer in the top 10", "no kind")["chance"] == pytest.approx(10 / 40)


@pytest.mark.parametrize("analysis", OVER_SCORES, ids=lambda analysis: analysis.name)
def test_a_shard_without_documents_adds_nothing(tmp_path, analysis):
    draw, found = np.random.default_rng(16), []
    scores = draw.standard_t(3, (6, 900))
    for name, shards in (("two", (300,)), ("empty", (0, 300, 0))):
        study = FindingsStudy(tmp_path / name, several("factual", ["a", "b"], 3))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            study.put_scores({METHOD: scores}, shards=shards)
            found.append(study.found(analysis))
    for one_frame, other in zip(*found, strict=True):
        assert_frame_equal(one_frame, other)


def test_a_corpus_smaller_than_every_cut_off_has_no_sources_to_compare(tmp_path):
    study = FindingsStudy(tmp_path, several("factual", ["a"], 3))
    study.put_scores({METHOD: np.random.default_rng(17).normal(size=(3, 40))})
    rows, evidence = study.found(SOURCES)
    assert rows.is_empty()
    assert evidence.is_empty()


def test_scores_that_are_all_alike_say_nothing(tmp_path):
    study = FindingsStudy(tmp_path, several("factual", ["a", "b"], 3))
    scores = np.random.default_rng(18).normal(size=(6, 300))
    scores[0] = 0
    study.put_scores({METHOD: scores})
    rows, evidence = study.found(CORRELATION)
    assert rows["r"].is_nan().sum() == 5
    assert not math.isnan(one(evidence, "mean correlation", "factual")["estimate"])
    rows, evidence = study.found(MAGNITUDE)
    silent = rows.filter(query_id=study.queries[0].id)
    assert silent["coverage"].is_nan().all()
    assert (silent["influence"] == 0).all()
    assert one(evidence, "positive coverage, top 1 %", "factual")["queries"] == 5
    rows, _ = study.found(POWER_LAW)
    assert math.isnan(rows["slope"][0])


def test_a_group_of_one_query_has_no_volatility(tmp_path):
    study = FindingsStudy(tmp_path, [*several("factual", ["a"], 3), *several("reasoning", ["slope"], 1)])
    study.put_scores({METHOD: np.random.default_rng(19).normal(size=(4, 300))})
    _, evidence = study.found(MAGNITUDE)
    volatility = evidence.filter(pl.col("statistic").str.starts_with("volatility"))
    assert set(volatility["group"]) == {"factual"}
    alone = one(evidence, "positive influence per nat, top 1 %", "reasoning")
    assert alone["estimate"] > 0
    assert math.isnan(alone["low"])


def test_statistics_are_the_same_in_whatever_blocks_they_are_read(tmp_path, monkeypatch):
    draw = np.random.default_rng(20)
    study = FindingsStudy(tmp_path, several("factual", ["a", "b"], 2), depth=30)
    scores = draw.standard_t(1, (4, 600)).round(1)  # ties, and shards whose scores reach differently far
    study.put_scores({METHOD: scores}, sources=draw.choice(["books", "code"], 600), shards=(5, 40, 0, 200, 150))

    def merged() -> list:
        ends = [merged_ends(study, study.study, "raw", end) for end in ("top", "bottom")]
        by_source = merged_source_histograms(study, study.study, "raw")
        histograms = {**merged_histograms(study, study.study, "raw"), **by_source}
        return [
            *ends,
            [(key, *(column.tolist() for column in vars(each).values())) for key, each in histograms.items()],
        ]

    whole = merged()
    monkeypatch.setattr(merging, "ROWS_AT_ONCE", 1)  # every shard is a block
    blocks = merged()
    assert_frame_equal(whole[0], blocks[0])
    assert_frame_equal(whole[1], blocks[1])
    for one_histogram, other in zip(whole[2], blocks[2], strict=True):
        assert one_histogram[:3] == other[:3]
        assert one_histogram[3] == pytest.approx(other[3], rel=1e-12)
