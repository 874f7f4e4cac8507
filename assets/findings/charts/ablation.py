"""The figure of analysis 8: agreement of settings that cost less with full-rank EK-FAC, beside the time of the pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import BLUE, INK, ORANGE, QUIET, Figure, clipped, drawn, in_words
from assets.findings.charts.panels import Interval, Scale, Word, grid, intervals, layered, panel_title
from assets.findings.charts.reading import means, number

if TYPE_CHECKING:
    import altair as alt

TITLE = "How well settings that cost less agree with full-rank EK-FAC"
REFERENCE = "full rank"
WIDE, ROW = 150, 20
COLUMNS = {"Pearson correlation": "pearson", "Spearman correlation": "spearman", "share of the top": "overlap"}
"""How statistics of the evidence begin, and the columns that they are of."""


def ablation_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `ablation`, and evidence: per setting a dot for the mean with its interval and a diamond for
    the worst query, and the time of the pass as a multiple of that at full rank."""
    if rows.is_empty():
        return in_words(TITLE, "No setting was compared.")
    rows = rows.sort("position").with_columns(
        pl.col("pearson", "spearman").fill_nan(None), overlap=pl.col("overlap") / pl.col("listed")
    )
    variants = rows["variant"].unique(maintain_order=True).to_list()
    shown = means(evidence)
    panels = [
        _agreement(rows, shown.filter(pl.col("statistic").str.starts_with(start)), column, start, variants)
        for start, column in COLUMNS.items()
    ]
    first = rows.row(0, named=True)
    subtitle = [
        f"mean over {rows['query_id'].n_unique():,} queries with its 95 % interval, and the worst query (diamond), on "
        f"{first['documents']:,} documents; full rank in float32 is 1",
        "bold: the study’s own setting; right: seconds of the pass over these documents, full rank = 1",
    ]
    return drawn(TITLE, grid([[*panels, _cost(rows, variants)]], across=60), subtitle=subtitle)


def _agreement(
    rows: pl.DataFrame, evidence: pl.DataFrame, column: str, start: str, variants: list[str]
) -> alt.LayerChart:
    of = {row["statistic"].partition(", ")[2]: row for row in evidence.iter_rows(named=True)}
    found = rows.group_by("variant").agg(mean=pl.col(column).mean(), worst=pl.col(column).min())
    values = {row["variant"]: row for row in found.iter_rows(named=True)}
    scale, height = _scale(found["worst"].min()), ROW * len(variants)
    dots, diamonds, words = [], [], []
    is_first = column == "pearson"
    for place, variant in enumerate(variants):
        at, (_, mean, worst) = ROW * (place + 0.5), values[variant].values()
        row = of.get(variant, {})
        dots.append(Interval(mean, row.get("low"), row.get("high"), at, BLUE, BLUE))
        diamonds.append(Interval(worst, None, None, at, ORANGE, "white", size=34))
        words.append(Word(number(mean, 2 if column == "overlap" else 4), WIDE + 8, at, INK))
        if is_first:
            own = rows.filter(variant=variant)["is_study"][0]
            words.append(Word(clipped(variant, 40), -8, at, INK, 11, "right", 600 if own else 400))
    title = {"overlap": f"top {rows['listed'][0]} in common"}.get(column, start)
    layers = [*intervals(dots, scale, height), *intervals(diamonds, scale, height, "diamond"), panel_title(title)]
    return layered([*layers, *words], WIDE, height)


def _scale(worst: float | None) -> Scale:
    """From a round number below the worst query up to 1."""
    low = max(-1.0, math.floor(10 * worst - 1e-9) / 10) if worst is not None and math.isfinite(worst) else 0.0
    middle = (low + 1) / 2
    return Scale("", low, 1.0, {low: number(low, 1), middle: number(middle, 2), 1.0: "1"})


def _cost(rows: pl.DataFrame, variants: list[str]) -> alt.LayerChart:
    seconds = dict(rows.group_by("variant").agg(pl.col("seconds").first()).iter_rows())
    full, height = seconds.get(REFERENCE) or 1.0, ROW * len(variants)
    times = [seconds[variant] / full for variant in variants]
    top = max(1.0, *times)
    scale = Scale("", 0.0, top * 1.05, {0.0: "0", 0.5: "0.5", 1.0: "1"} if top < 4 else {0.0: "0", 1.0: "1"})
    places = [ROW * (place + 0.5) for place in range(len(variants))]
    dots = [Interval(time, None, None, at, QUIET, QUIET) for time, at in zip(times, places, strict=True)]
    words = [Word(f"{number(time, 2)} ×", WIDE + 8, at, QUIET) for time, at in zip(times, places, strict=True)]
    return layered([*intervals(dots, scale, height), panel_title("time of the pass"), *words], WIDE, height)
