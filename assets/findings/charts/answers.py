"""The figure of analysis 4: how often the answer stands among the best documents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import GREY, QUIET, Figure, drawn, in_words
from assets.findings.charts.lines import Panel
from assets.findings.charts.looks import (
    CONTROL,
    Look,
    is_control,
    looks_of,
    method_looks,
    method_name,
    ordered_groups,
    ordered_methods,
    quiet,
)
from assets.findings.charts.panels import Scale, Stroke, Word, grid
from assets.findings.charts.reading import means
from assets.findings.matching import NORMALIZED

if TYPE_CHECKING:
    import altair as alt

TITLE = "Queries whose answer stands among their best documents"
STATISTIC = r"^answer in the top ([0-9]+)$"
WIDE, HIGH = 280, 230
CHANCE, CONTROLS = "by chance", "their controls"
APART, SPREAD = 1.09, 1.4
"""Factor between lines along the axis of ranks, so that their intervals do not hide each other, and of all of them
together at most, so that they stand at their rank."""
SHARES = {0.0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1.0: "100 %"}


def answers_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """The evidence `answer in the top K`, a panel for each kind of query and a line for each method; `rows`, the table
    `answers`, tell how many queries have their answer anywhere in the corpus."""
    top = pl.col("statistic").str.extract(STATISTIC).cast(pl.Int64)
    found = means(evidence).with_columns(top=top).filter(pl.col("top").is_not_null())
    groups = [group for group in ordered_groups(found["group"]) if group in _whole_groups(rows, found)]
    kinds = [group for group in groups if not is_control(group)] or groups
    if not kinds:
        return in_words(TITLE, "No query has an answer that could be looked for.")
    tops = sorted(set(found["top"]))
    x = Scale("best documents looked at", tops[0] / 1.25, tops[-1] * 1.25, {float(k): f"{k:,}" for k in tops}, log=True)
    panels = [_panel(kind, found, rows, x, first=not place) for place, kind in enumerate(kinds)]
    return drawn(
        TITLE,
        grid([panels[at : at + 2] for at in range(0, len(panels), 2)], across=20),
        subtitle="factual: the answer in one document; reasoning: answers of all steps; 95 % intervals over queries",
    )


def _whole_groups(rows: pl.DataFrame, found: pl.DataFrame) -> set[str]:
    """Groups of queries, not their parts (tasks; right and wrong answers)."""
    if rows.width and len(rows):
        return set(rows["group"])
    return {group for group in found["group"] if not re.search(r"[:,]", group)}


def _panel(kind: str, found: pl.DataFrame, rows: pl.DataFrame, x: Scale, *, first: bool) -> alt.LayerChart:
    mine = found.filter(group=kind)
    methods = ordered_methods(mine)
    color = looks_of([kind])[kind].color
    looks = method_looks(methods, color) | {
        CONTROLS: quiet(color),
        CHANCE: Look(GREY, (1, 3), 1.4),
    }
    points = pl.concat([_of_methods(mine, methods), *_beside(found, kind, methods[0])])
    points = points.with_columns(x=pl.col("top") * pl.col("line").replace_strict(_dodged(looks)))
    panel = Panel(x, Scale("share of queries" if first else "", -0.02, 1.02, SHARES), WIDE, HIGH)
    solid, dotted = points.filter(pl.col("line") != CHANCE), points.filter(line=CHANCE)
    layers = [*panel.lines(solid, looks), *panel.names(points, looks)]
    if len(dotted):
        layers = [*panel.lines(dotted, looks, dots=False), *layers]
    layers += _anywhere(panel, rows, kind)
    queries = mine["queries"].max()
    return panel.sized(layers, f"{kind}, {queries} {'query' if queries == 1 else 'queries'}")


def _of_methods(mine: pl.DataFrame, methods: list[str]) -> pl.DataFrame:
    names = {method: method_name(method) for method in methods}
    return _points(mine, pl.col("method"), pl.col("method").replace_strict(names))


def _beside(found: pl.DataFrame, kind: str, method: str) -> list[pl.DataFrame]:
    """The controls of the kind under its main method, and what chance gives."""
    main = found.filter(method=method)
    controls = _points(main.filter(group=f"{kind} {CONTROL}"), pl.lit(CONTROLS), pl.lit(CONTROLS))
    chance = main.filter(pl.col("group") == kind, pl.col("chance").is_not_null())
    chance = chance.with_columns(estimate="chance", low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    return [controls, _points(chance, pl.lit(CHANCE), pl.lit(CHANCE))]


def _points(found: pl.DataFrame, line: pl.Expr, name: pl.Expr) -> pl.DataFrame:
    percent = pl.col("y").map_elements(lambda share: f"{100 * share:.0f} %", pl.String)
    points = found.select("top", "low", "high", y="estimate", line=line, short=name.cast(pl.String))
    return points.with_columns(name=pl.format("{} {}", "short", percent)).drop("short")


def _dodged(looks: Mapping[str, Look]) -> dict[str, float]:
    """By what each line's ranks are multiplied."""
    names = [name for name in looks if name != CHANCE]
    apart = min(APART, SPREAD ** (1 / max(1, len(names) - 1)))
    return {CHANCE: 1.0} | {name: apart ** (place - (len(names) - 1) / 2) for place, name in enumerate(names)}


def _anywhere(panel: Panel, rows: pl.DataFrame, kind: str) -> list[Word | Stroke]:
    """A rule at the share of queries that could be answered at all: every part stands somewhere in the corpus."""
    if not rows.width or rows.filter(group=kind, match=NORMALIZED).is_empty():
        return []
    main = rows.filter(group=kind, match=NORMALIZED).filter(pl.col("method") == ordered_methods(rows)[0])
    share = main.group_by("query_id").agg(there=(pl.col("corpus_documents") > 0).all())["there"].mean()
    place = panel.height - panel.y.place(share, panel.height)
    above = place > 12
    text = Word(
        f"somewhere in the corpus: {100 * share:.0f} %", 4, place - 7 if above else place + 8, color=QUIET, size=9
    )
    return [panel.rule(share, "#b9c0c8"), text]
