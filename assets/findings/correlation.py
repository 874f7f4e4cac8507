"""study/<study>/correlation: which queries draw on the same documents (analysis 1).

Pearson's R of two queries' scores over all documents of the corpus. Queries are the unit of the tests: labels of tasks
and kinds are permuted among queries (Mantel), never documents. Between methods, and between studies, each query is
compared with itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import polars as pl
import pyarrow as pa

from assets.findings.analysis import Analysis, Found, framed, queries_of
from assets.findings.comparing import Comparing
from assets.findings.comparison_statistics import compared_correlations, comparison_statistics_table
from assets.findings.evidence import Evidence
from assets.findings.magnitude import GROUP, TASK
from assets.findings.merged import MethodMoments, merged_method_moments, merged_moments
from assets.findings.score_statistics import score_statistics_table
from assets.findings.uncertainty.pairs import (
    between_groups,
    within_against_between,
    within_against_within,
    within_groups,
)
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

STORY = "Pearson's R of every two queries' scores over all documents; and of each query under two methods."
WITHIN, BETWEEN = "same task", "other task"
ORDER = ("method", "other_method", "other_study", "query_id", "other_query_id")
OTHER_STUDY = Column(
    "other_study", pa.string(), "Study of the other scores: this one, or one that findings.compare names."
)


def correlation_table(study: str) -> Table:
    return Table(
        key=("study", study, "correlation"),
        grain="one row per pair of queries, per query and pair of methods, or per query and other study",
        columns=(
            METHOD,
            QUERY_ID,
            Column(
                "other_method", pa.string(), "Method of the other; another one where a query is compared with itself."
            ),
            OTHER_STUDY,
            Column("other_query_id", pa.string(), "The other query; within a method each pair stands once."),
            TASK,
            Column("other_task", pa.string(), "Task of the other query."),
            GROUP,
            Column("other_group", pa.string(), "Kind of the other query, or the kind that it is a control of."),
            Column("r", pa.float64(), "Pearson's R of their scores; NaN: one of them scores all documents alike."),
            Column("documents", pa.int64(), "Documents of the corpus, over which R is taken."),
            STAMP,
        ),
        sort_by=ORDER,
    )


def find_correlation(step: Step, study: Study) -> Found:
    """All pairs of queries, and means within and between tasks and kinds."""
    queries, merged = queries_of(step, study), merged_moments(step, study, "raw")
    methods, across = merged_method_moments(step, study, "raw")
    pairs = [row for each in merged for row in _pairs(each)]
    matched = [row for query, moments in across.items() for row in _matched(methods, query, moments)]
    own = queries.select("query_id", "task", "group")
    other = own.rename({"query_id": "other_query_id", "task": "other_task", "group": "other_group"})
    across_studies = _of_studies(step, study, merged)
    joined = ("task", "group", "other_task", "other_group")
    rows = framed(pairs + matched, correlation_table(study.name), *joined, "other_study")
    rows = rows.with_columns(other_study=pl.lit(study.name))
    rows = pl.concat([rows, across_studies.select(rows.columns)])
    rows = rows.join(own, on="query_id").join(other, on="other_query_id").sort(ORDER)
    comparing = Comparing(queries, study.spec.findings)
    evidence = [each for method in merged for each in _within_method(study, method, queries, comparing)]
    for (method, than), part in rows.filter(pl.col("method") != pl.col("other_method")).group_by(
        "method", "other_method", maintain_order=True
    ):
        evidence += comparing.found(
            f"{method}, {than}", "correlation of two methods", part.select("query_id", value="r"), bounds=(-1.0, 1.0)
        )
    for (method, name), part in across_studies.group_by("method", "other_study", maintain_order=True):
        # Without contrasts, so that what a study is compared with does not change how its own tests are corrected.
        values = part.select("query_id", value="r")
        evidence += comparing.found(method, f"correlation with study {name}", values, tested=False, bounds=(-1.0, 1.0))
    return Found(rows, evidence)


def _of_studies(step: Step, study: Study, merged: list[MethodMoments]) -> pl.DataFrame:
    """Of each query that another study has too, how its scores agree with those there, under the same method."""
    rows = compared_correlations(step, study, {each.method: each.moments.documents for each in merged})
    return rows.with_columns(other_method=pl.col("method"), other_query_id=pl.col("query_id"))


def _pairs(method: MethodMoments) -> Iterator[dict]:
    r = method.moments.correlations()
    for one, other in combinations(range(len(r)), 2):
        yield {
            "method": method.method,
            "other_method": method.method,
            "query_id": method.query_ids[one],
            "other_query_id": method.query_ids[other],
            "r": float(r[one, other]),
            "documents": method.moments.documents,
        }


def _matched(methods: list[str], query: str, moments) -> Iterator[dict]:
    r = moments.correlations()
    for one, other in combinations(range(len(methods)), 2):
        yield {
            "method": methods[one],
            "other_method": methods[other],
            "query_id": query,
            "other_query_id": query,
            "r": float(r[one, other]),
            "documents": moments.documents,
        }


def _within_method(
    study: Study, method: MethodMoments, queries: pl.DataFrame, comparing: Comparing
) -> Iterator[Evidence]:
    """Means of R within each kind and its tasks, between kinds, and whether tasks and kinds set queries apart."""
    r = method.moments.correlations()
    labels = pl.DataFrame({"query_id": method.query_ids}).join(
        queries, on="query_id", how="left", maintain_order="left"
    )
    options = {"resamples": study.spec.findings.resamples, "seed": study.spec.findings.seed}
    named = {"method": method.method, "statistic": "mean correlation"}
    groups, tasks = labels["group"].to_list(), labels["task"].to_list()
    sizes = {group: groups.count(group) for group in sorted(set(groups))}
    for group, size in sizes.items():
        yield Evidence.of_group(group, within_groups(r, groups, group=group, **options), size, 0.0, **named)
        yield from _by_task(
            r, [task if g == group else None for task, g in zip(tasks, groups, strict=True)], group, named, options
        )
    for one, other in combinations(sizes, 2):
        interval = between_groups(r, groups, one, other, **options)
        yield Evidence.of_group(f"{one} × {other}", interval, sizes[one] + sizes[other], 0.0, **named)
    for one, other in comparing.pairs:
        if one in sizes and other in sizes:
            test = within_against_within(r, groups, one, other, **options)
            yield Evidence.of_contrast(one, other, test, sizes[one] + sizes[other], **named)


def _by_task(r: np.ndarray, tasks: list[str | None], group: str, named: dict, options: dict) -> Iterator[Evidence]:
    """Of the queries that have a task here (one group's): pairs of the same task, pairs of different ones, and both."""
    counts = {task: tasks.count(task) for task in sorted({task for task in tasks if task is not None})}
    if len(counts) < 2:
        return
    size = sum(counts.values())
    yield Evidence.of_group(f"{group}, {WITHIN}", within_groups(r, tasks, **options), size, 0.0, **named)
    test = within_against_between(r, tasks, **options)
    yield Evidence.of_contrast(f"{group}, {WITHIN}", f"{group}, {BETWEEN}", test, size, **named)
    for task, count in counts.items():
        if count > 1:
            interval = within_groups(r, tasks, group=task, **options)
            yield Evidence.of_group(f"{group}: {task}", interval, count, 0.0, **named)


def _by_shard(study: Study) -> list[Table]:
    compared = [comparison_statistics_table(study.name)] if study.spec.findings.compare else []
    return [score_statistics_table(study.name), *compared]


CORRELATION = Analysis("correlation", "4", STORY, correlation_table, _by_shard, find_correlation)
