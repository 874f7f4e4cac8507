"""Which queries are compared with which: by kind and task, and the controls beside those that they control."""

from __future__ import annotations

import polars as pl

CONTROL = "control"
NO_KIND = "no kind"


def grouped(completions: pl.DataFrame) -> pl.DataFrame:
    """Of the study's queries: query_id, task, kind, group, is_control, is_right and nats, in the order of their ids.

    A query of kind `control` belongs to the kind of the other queries of its task, and its group is, for example,
    `factual control`; the group of any other query is its kind.
    """
    queries = completions.select("query_id", "task", "kind", "is_right", "nats").with_columns(
        pl.col("kind").fill_null(NO_KIND), pl.col("task").fill_null("no task")
    )
    others = queries.filter(pl.col("kind") != CONTROL)
    kinds = others.group_by("task").agg(controls=pl.col("kind").mode().sort().first())
    is_control = pl.col("kind") == CONTROL
    of_control = pl.when(pl.col("controls").is_null()).then(pl.lit(CONTROL)).otherwise(pl.col("controls") + " control")
    return (
        queries.join(kinds, on="task", how="left")
        .with_columns(is_control=is_control, group=pl.when(is_control).then(of_control).otherwise("kind"))
        .with_columns(kind=pl.when(is_control).then(pl.col("controls").fill_null(CONTROL)).otherwise("kind"))
        .drop("controls")
        .sort("query_id")
    )
