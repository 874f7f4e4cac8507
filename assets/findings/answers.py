"""study/<study>/answers: whether documents that hold the answer are among the most influential ones (analysis 4).

A factual query is answered by one document that holds its whole answer; a reasoning query when the answer of every step
has been found, possibly in several documents. The rank of a query is how far one has to read until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import polars as pl
import pyarrow as pa

from assets.findings.analysis import Analysis, Found, queries_of
from assets.findings.answer_statistics import MATCH, answer_statistics_table
from assets.findings.comparing import Comparing
from assets.findings.magnitude import GROUP, TASK
from assets.findings.matching import EXACT, answered_rank
from assets.findings.merged import merged_ends, merged_histograms
from assets.findings.score_histogram import ScoreHistogram
from assets.findings.score_statistics import score_statistics_table
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

STORY = "At which rank a document holds the answer, or the answers of the steps, and how many of the corpus do."
KEY = ("method", "query_id", "part", "match")
TOPS = (1, 5, 10, 50, 100, 500)


def answers_table(study: str) -> Table:
    rank = pa.int64()
    return Table(
        key=("study", study, "answers"),
        grain="one row per method, query, part of its answer and way of matching",
        columns=(
            METHOD,
            QUERY_ID,
            GROUP,
            TASK,
            Column("is_right", pa.bool_(), "Whether the completion gives the answer; null: unknown.", nullable=True),
            Column("part", pa.string(), "answer, or the answer of a step: step 1, step 2, …"),
            Column("answer", pa.string(), "What is looked for."),
            MATCH,
            Column("corpus_documents", pa.int64(), "Documents of the corpus that hold it."),
            Column("best_rank", rank, "Rank of the first that does, by score; null: none does.", nullable=True),
            Column(
                "worst_rank", rank, "The same at worst: beyond findings.depth ranks are known to a bin.", nullable=True
            ),
            Column("best_document_id", pa.string(), "That document.", nullable=True),
            STAMP,
        ),
        sort_by=KEY,
    )


def find_answers(step: Step, study: Study) -> Found:
    """Ranks of the answers of all queries, and the share of queries that are answered at the top."""
    queries, histograms = queries_of(step, study), merged_histograms(step, study, study.spec.findings.ranking)
    rows = _ranked(step, study, _added_up(step, study), histograms).join(
        queries.select("query_id", "group", "task", "is_right"), on="query_id", how="left"
    )
    documents = next(iter(histograms.values())).documents
    comparing, evidence = Comparing(queries, study.spec.findings), []
    for (method, match), part in rows.group_by("method", "match", maintain_order=True):
        is_exact = match == EXACT
        for top in (top for top in TOPS if top <= min(study.spec.findings.depth, documents)):
            answered = pl.DataFrame(list(_answered(part, top)), schema=["query_id", "value"], orient="row")
            statistic = f"{'exact ' if is_exact else ''}answer in the top {top}"
            chance = _by_chance(part, top, documents)
            tests = {"tested": not is_exact, "against_chance": not is_exact}
            evidence += comparing.shares(method, statistic, answered, chance=chance, **tests)
    return Found(rows, evidence)


def _added_up(step: Step, study: Study) -> pl.DataFrame:
    """Over all shards, by method, query, part and match: documents that hold it, and the best of them."""
    rows = step.scan(answer_statistics_table(study.name)).collect()
    falling = [False] * len(KEY) + [True, False]
    rows = rows.sort(*KEY, "best_score", "best_document_id", descending=falling, nulls_last=True)
    return rows.group_by(KEY, maintain_order=True).agg(
        pl.col("answer").first(),
        corpus_documents=pl.col("documents").sum(),
        best_score=pl.col("best_score").first(),
        best_document_id=pl.col("best_document_id").first(),
    )


def _ranked(
    step: Step, study: Study, found: pl.DataFrame, histograms: dict[tuple[str, str], ScoreHistogram]
) -> pl.DataFrame:
    """With the best document's rank: exact among those listed, to a bin of the histogram beyond."""
    listed = merged_ends(step, study, study.spec.findings.ranking, "top").select(
        "method", "query_id", "rank", best_document_id="document_id"
    )
    rows = found.join(listed, on=["method", "query_id", "best_document_id"], how="left")
    ranges = [
        (rank, rank)
        if rank is not None
        else (None, None)
        if score is None
        else histograms[method, query].rank_range(score)
        for method, query, rank, score in rows.select("method", "query_id", "rank", "best_score").iter_rows()
    ]
    columns = {"best_rank": [best for best, _ in ranges], "worst_rank": [worst for _, worst in ranges]}
    return rows.with_columns(pl.Series(name, values, pl.Int64) for name, values in columns.items()).drop(
        "rank", "best_score"
    )


def _answered(rows: pl.DataFrame, top: int) -> Iterator[tuple[str, float]]:
    """Of every query, 1.0 where all of its parts are found among the `top` documents."""
    for (query,), parts in rows.group_by("query_id", maintain_order=True):
        ranks = {part: rank for part, rank in parts.select("part", "worst_rank").iter_rows() if rank is not None}
        rank = answered_rank(ranks, parts["part"])
        yield query, float(rank is not None and rank <= top)


def _by_chance(rows: pl.DataFrame, top: int, documents: int) -> dict[str, float]:
    """Of every query, how probable that is in a random order of all documents; parts are taken as independent."""
    chances: dict[str, float] = {}
    for query, holding in rows.select("query_id", "corpus_documents").iter_rows():
        missed = comb(documents - holding, top) / comb(documents, top) if documents - holding >= top else 0.0
        chances[query] = chances.get(query, 1.0) * (1 - missed)
    return chances


ANSWERS = Analysis(
    "answers",
    "3",
    STORY,
    answers_table,
    lambda study: [answer_statistics_table(study.name), score_statistics_table(study.name)],
    find_answers,
)
