"""The figure of analysis 2: influence per nat, summed over the best documents, and how far queries lie apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import Figure, drawn, in_words
from assets.findings.charts.lines import Panel
from assets.findings.charts.looks import looks_of, method_name, ordered_methods
from assets.findings.charts.panels import Scale, grid
from assets.findings.charts.reading import contrast, finite, number
from assets.findings.cuts import cut_name, tested_percentage

if TYPE_CHECKING:
    import altair as alt

TITLE = "Influence of the best documents"
CUT_SHARE = r"^top ([0-9.e+-]+) %$"
SIGNS = {"positive": "most positive documents", "negative": "most negative documents, without sign"}
BAND = (0.1, 0.9)
WIDE, HIGH, SMALL = 265, 210, 76


def magnitude_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `magnitude`: the mean over queries with a band, by group of queries and sign; the main method
    large, the others small below it."""
    rows = _placed(rows) if rows.width else rows
    if rows.is_empty():
        return in_words(TITLE, "There are no sums of influence to draw.")
    methods = ordered_methods(rows)
    x = _x_scale(rows)
    main = _by_sign(rows.filter(method=methods[0]), x, HIGH)
    others = [_by_sign(rows.filter(method=method), x, SMALL, method) for method in methods[1:]]
    return drawn(TITLE, grid([main, *others], across=30), subtitle=_subtitle(rows, evidence, methods[0]))


def _placed(rows: pl.DataFrame) -> pl.DataFrame:
    """With the column `x`: each cut's share of all documents, or its number of documents where no cut is a share."""
    rows = finite(rows.filter(pl.col("documents") >= 1), "influence_per_nat")
    share = pl.col("cut").str.extract(CUT_SHARE).cast(pl.Float64, strict=False) / 100
    corpus = rows.select((pl.col("documents") / share).max()).item() if len(rows) else None
    return rows.with_columns(x=pl.col("documents") / (corpus or 1.0), is_share=pl.lit(corpus is not None))


def _x_scale(rows: pl.DataFrame) -> Scale:
    low, high = rows["x"].min(), rows["x"].max()
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    powers = powers[:: max(1, math.ceil(len(powers) / 5))]
    if rows["is_share"][0]:
        return Scale("share of all documents", low, high, {10.0**p: f"{100 * 10.0**p:g} %" for p in powers}, log=True)
    return Scale("documents", low, high, {10.0**p: f"{10**p:,}" for p in powers}, log=True)


def _by_sign(rows: pl.DataFrame, x: Scale, height: int, method: str | None = None) -> list[alt.LayerChart]:
    """A panel for each sign, both with the same y axis, so that they can be compared."""
    looks = looks_of(rows["group"])
    points = _bands(rows)
    top = points.select(pl.max_horizontal(pl.col("y").max(), pl.col("high").max())).item() or 1.0
    panels = []
    for sign, words in SIGNS.items():
        shown = points.filter(sign=sign)
        y = Scale("influence per nat" if sign == "positive" else "", 0.0, top * 1.03)
        panel = Panel(
            x if method is None else replace(x, title=""),
            y,
            WIDE,
            height,
            {"tickCount": 3 if method else 6, "minExtent": 32},
        )
        layers: list = panel.lines(shown, looks, band=True, dots=False) if len(shown) else []
        layers += panel.names(shown, looks)
        title = f"{method_name(method)}, {sign}" if method else words
        panels.append(panel.sized(layers, title))
    return panels


def _bands(rows: pl.DataFrame) -> pl.DataFrame:
    """Mean and percentiles over the queries of each group."""
    value = pl.col("influence_per_nat")
    found = rows.group_by("sign", "x", line="group", maintain_order=True).agg(
        y=value.mean(), low=value.quantile(BAND[0], "linear"), high=value.quantile(BAND[1], "linear"), n=pl.len()
    )
    alone = pl.col("n") < 2
    return found.with_columns(
        pl.when(alone).then(None).otherwise(pl.col(name)).alias(name) for name in ("low", "high")
    ).with_columns(name=pl.format("{} {}", "line", pl.col("y").map_elements(number, pl.String)))


def _subtitle(rows: pl.DataFrame, evidence: pl.DataFrame, method: str) -> list[str]:
    queries = rows.filter(method=method)["query_id"].n_unique()
    lines = [
        f"{method_name(method)}, summed from the best document on: mean over queries, band from the 10th to the 90th "
        f"percentile; {queries} {'query' if queries == 1 else 'queries'}"
    ]
    shares = rows["cut"].str.extract(CUT_SHARE).drop_nulls().cast(pl.Float64).unique().to_list()
    cut = cut_name(tested_percentage(shares)) if shares else ""
    tested = contrast(evidence, method, f"positive influence per nat, {cut}", "factual", "reasoning")
    return [*lines, f"{cut.capitalize()}, {tested}"] if tested else lines
