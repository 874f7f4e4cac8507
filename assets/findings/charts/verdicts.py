"""The figure of a judge's verdicts: shares of each kind of query, one panel for each thing that was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import QUIET, Figure, clipped, drawn, in_words
from assets.findings.charts.looks import Look, looks_of, method_name, ordered_methods
from assets.findings.charts.panels import Interval, Scale, Word, grid, intervals, layered, panel_title
from assets.findings.charts.reading import means, number

if TYPE_CHECKING:
    import altair as alt

TITLE = "What a judge says of the top documents"
WIDE, ROW = 250, 22
SHARE = Scale("", 0.0, 1.0, {0.0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1.0: "100 %"})


def verdicts_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `verdicts`, and evidence: a dot with its interval for each kind of query and its controls."""
    # Of a group's parts (tasks, right and wrong answers) the report has a table.
    shown = means(evidence).filter(~pl.col("group").str.contains(r": |, (?:right|wrong)$"))
    rows = rows.filter("is_current") if rows.width else rows
    if rows.is_empty() or shown.is_empty():
        return in_words(TITLE, "No verdict could be read.")
    method, looks = ordered_methods(shown)[0], looks_of(shown["group"])
    shown = shown.filter(method=method)
    statistics = shown["statistic"].unique().sort().to_list()
    panels = [_panel(shown.filter(statistic=each), each, looks, is_first=not at) for at, each in enumerate(statistics)]
    judges, unclear = ", ".join(rows["judge"].unique().sort()), (rows["verdict"] == "unclear").sum()
    subtitle = [
        f"{len(rows):,} verdicts of {clipped(judges, 40)}, {unclear:,} of them unclear, on the documents with the "
        f"highest {method_name(method)} scores",
        "mean over queries, with its 95 % interval; hollow: controls",
    ]
    return drawn(TITLE, grid([panels], across=110), subtitle=subtitle)


def _panel(rows: pl.DataFrame, statistic: str, looks: Mapping[str, Look], *, is_first: bool) -> alt.LayerChart:
    of, height = {row["group"]: row for row in rows.iter_rows(named=True)}, ROW * len(looks)
    words, found = [panel_title(clipped(statistic.partition(", by ")[0], 44))], []
    for place, (group, look) in enumerate(looks.items()):
        at, color = ROW * (place + 0.5), QUIET if look.is_quiet else look.color
        if is_first:
            words.append(Word(clipped(group, 30), -8, at, color, 11, align="right"))
        if row := of.get(group):
            fill = "white" if look.is_quiet else look.color
            numbers = (row[name] for name in ("estimate", "low", "high"))
            found.append(Interval(*numbers, y=at, color=look.color, fill=fill))
            words.append(Word(f"{number(100 * row['estimate'], 0)} %, n = {row['queries']}", WIDE + 8, at, color))
    return layered([*intervals(found, SHARE, height), *words], WIDE, height)
