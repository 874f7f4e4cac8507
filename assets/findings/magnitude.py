"""study/<study>/magnitude: how much influence the best documents have, per nat, and how much of all it is (analysis 2).

Positive influence is summed over the most positive documents, negative over the most negative; a cut takes a share of
all documents or a number of them. Volatility, how far queries of one group lie apart, is drawn as a band and reported
as how far each query lies from its group's mean, relative to it; the groups are the kinds and their controls, also
where right and wrong answers or single tasks are told apart. Two queries lie equally far from their mean, so their
volatility has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from assets.findings.analysis import Analysis, Found, queries_of
from assets.findings.comparing import Comparing
from assets.findings.cuts import cut_name, tested_percentage
from assets.findings.merged import merged_histograms
from assets.findings.score_histogram import ScoreHistogram
from assets.findings.score_statistics import score_statistics_table
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

STORY = "Influence of the best documents, by share and by count: summed, per nat of the completion, and as a share."
GROUP = Column("group", pa.string(), "Kind of the query, or the kind that it is a control of.")
TASK = Column("task", pa.string(), "Task of the query.")


def magnitude_table(study: str) -> Table:
    return Table(
        key=("study", study, "magnitude"),
        grain="one row per method, query, sign and cut",
        columns=(
            METHOD,
            QUERY_ID,
            GROUP,
            TASK,
            Column(
                "sign", pa.string(), "positive: documents that lower the completion's loss; negative: that raise it."
            ),
            Column("cut", pa.string(), "The documents that are summed up: top 1 %, top 50, …"),
            Column("documents", pa.float64(), "Their number; a share may end within a document."),
            Column("influence", pa.float64(), "Sum of their scores, without sign."),
            Column("influence_per_nat", pa.float64(), "The same, divided by the completion's information in nats."),
            Column("coverage", pa.float64(), "The same, as a share of all influence of that sign; NaN: there is none."),
            STAMP,
        ),
        sort_by=("method", "query_id", "sign", "documents"),
    )


def find_magnitude(step: Step, study: Study) -> Found:
    """Sums of both ends of every query's scores, compared between groups of queries."""
    queries, histograms = queries_of(step, study), merged_histograms(step, study, "raw")
    rows = pl.DataFrame(
        [row for key, histogram in sorted(histograms.items()) for row in _of_query(study, key, histogram)]
    )
    rows = rows.join(queries.select("query_id", "group", "task", "nats"), on="query_id", how="left").with_columns(
        influence_per_nat=pl.col("influence") / pl.col("nats")
    )
    comparing = Comparing(queries, study.spec.findings)
    # The cut at which groups are compared; at the others their means are told.
    compared = cut_name(tested_percentage(100 * share for share in study.spec.findings.shares))
    evidence = []
    for (method, sign, cut), part in rows.group_by("method", "sign", "cut", maintain_order=True):
        tests = {"tested": cut == compared}
        for column, name, most in (("influence_per_nat", "influence per nat", math.inf), ("coverage", "coverage", 1.0)):
            values, bounds = part.select("query_id", value=column), (0.0, most)
            evidence += comparing.found(method, f"{sign} {name}, {cut}", values, bounds=bounds, **tests)
        statistic = f"volatility of {sign} influence per nat, {cut}"
        evidence += comparing.found(method, statistic, _distance(part), bounds=(0.0, math.inf), **tests)
    return Found(rows.drop("nats"), evidence)


def _distance(part: pl.DataFrame) -> pl.DataFrame:
    """How far each query's influence per nat lies from its group's mean, relative to it; null: it is the only one."""
    mean = pl.col("influence_per_nat").mean().over("group")
    distance = (pl.col("influence_per_nat") - mean).abs() / mean
    return part.select("query_id", value=pl.when(pl.len().over("group") > 1).then(distance))


def cuts(study: Study, documents: int) -> Iterator[tuple[str, float]]:
    """The cuts that a corpus of this size has: names, and documents."""
    for share in study.spec.findings.shares:
        yield cut_name(100 * share), share * documents
    for count in study.spec.findings.counts:
        if count <= documents:
            yield f"top {count}", float(count)


def _of_query(study: Study, key: tuple[str, str], histogram: ScoreHistogram) -> Iterator[dict]:
    for sign, whole in (("positive", histogram.positive()), ("negative", histogram.negated().positive())):
        total = float(whole.sums.sum())
        for name, documents in cuts(study, histogram.documents):
            influence = float(whole.top_sum(documents))
            yield {
                "method": key[0],
                "query_id": key[1],
                "sign": sign,
                "cut": name,
                "documents": documents,
                "influence": influence,
                "coverage": influence / total if total else np.nan,
            }


MAGNITUDE = Analysis(
    "magnitude", "2", STORY, magnitude_table, lambda study: [score_statistics_table(study.name)], find_magnitude
)
