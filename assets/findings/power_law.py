"""study/<study>/power_law: how fast influence falls off with rank, by both of the paper's definitions (analysis 3).

The slope is that of log score against log rank over the top documents (Ruis et al. 2024); the exponent that of the tail
of the scores' distribution, by maximum likelihood (Grosse et al. 2023; Clauset, Shalizi and Newman 2009).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from assets.findings.analysis import Analysis, Found, queries_of
from assets.findings.comparing import Comparing
from assets.findings.magnitude import GROUP, TASK
from assets.findings.merged import merged_ends, merged_histograms
from assets.findings.score_statistics import score_statistics_table
from assets.findings.tails import log_rank_slope, tail_exponent
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.step import Step

LEAST_P_FIT = 0.1
"""Clauset, Shalizi and Newman 2009, section 4.1: at or below it a power law is ruled out."""
STORY = "Slope of log score on log rank, and the tail's exponent with its goodness of fit."


def power_law_table(study: str) -> Table:
    number = pa.float64()
    return Table(
        key=("study", study, "power_law"),
        grain="one row per method and query",
        columns=(
            METHOD,
            QUERY_ID,
            GROUP,
            TASK,
            Column("is_right", pa.bool_(), "Whether the completion gives the answer; null: unknown.", nullable=True),
            Column("points", pa.int32(), "Documents with a positive score among those listed."),
            Column("slope", number, "Slope of log score against log rank, by least squares; NaN: too few points."),
            Column("intercept", number, "Log score that the line gives the first document."),
            Column("r_squared", number, "Share of the log scores' variance that the line explains."),
            Column("alpha", number, "Exponent of the tail: p(score) ∝ score^−α above x_min; NaN: no fit."),
            Column("alpha_error", number, "Standard error of the exponent, with the choice of x_min."),
            Column("x_min", number, "Score above which the tail is fitted, by the smallest distance."),
            Column("tail_documents", pa.int32(), "Documents in that tail."),
            Column("at_floor", pa.bool_(), "Whether x_min is the lowest score listed: the tail may go on."),
            Column("distance", number, "Kolmogorov–Smirnov distance of the tail from the fit."),
            Column("p_fit", number, "Share of samples from the fit that lie farther from it; up to 0.1: no power law."),
            STAMP,
        ),
        sort_by=("method", "query_id"),
    )


def find_power_law(step: Step, study: Study) -> Found:
    """Both fits of every query's top documents, compared between groups of queries."""
    queries, histograms = queries_of(step, study), merged_histograms(step, study, "raw")
    tops = merged_ends(step, study, "raw", "top").partition_by("method", "query_id", as_dict=True)
    rows = pl.DataFrame(
        [_fitted(study, *key, top["score"].to_numpy(), histograms[key].documents) for key, top in sorted(tops.items())]
    )
    rows = rows.join(queries.select("query_id", "group", "task", "is_right"), on="query_id", how="left")
    comparing, evidence = Comparing(queries, study.spec.findings), []
    for (method,), part in rows.group_by("method", maintain_order=True):
        for statistic in ("slope", "alpha"):
            evidence += comparing.found(method, statistic, part.select("query_id", value=statistic))
        fitted = pl.col("p_fit").fill_nan(None)  # to polars NaN is above every number
        fits = part.select("query_id", value=(fitted > LEAST_P_FIT).cast(pl.Float64))
        evidence += comparing.shares(method, "share of queries whose tail fits a power law", fits)
    return Found(rows, evidence)


def _fitted(study: Study, method: str, query: str, scores: np.ndarray, documents: int) -> dict:
    slope = log_rank_slope(scores, depth=study.spec.findings.depth)
    tail = tail_exponent(scores, total=documents, seed=study.spec.findings.seed)
    return {
        "method": method,
        "query_id": query,
        "points": slope.points,
        "slope": slope.slope,
        "intercept": slope.intercept,
        "r_squared": slope.r_squared,
        "alpha": tail.alpha,
        "alpha_error": tail.refit_error,
        "x_min": tail.x_min,
        "tail_documents": tail.tail,
        "at_floor": tail.at_floor,
        "distance": tail.distance,
        "p_fit": tail.p_value,
    }


POWER_LAW = Analysis(
    "power_law", "2", STORY, power_law_table, lambda study: [score_statistics_table(study.name)], find_power_law
)
