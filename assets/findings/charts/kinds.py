"""The figure of analysis 5: what kinds of document stand at the top, beside what the corpus holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, RED, Figure, clipped, drawn, in_words
from assets.findings.charts.lines import marks_key
from assets.findings.charts.looks import is_control, looks_of, method_name, mixed, ordered_groups, ordered_methods
from assets.findings.charts.panels import Scale, Word, grid, layered, panel_title, pixels
from assets.findings.charts.reading import finite, means
from assets.findings.document_rules import PROCEDURAL

if TYPE_CHECKING:
    import altair as alt

TITLE = "Kinds of document at the top of the rankings"
COLORS = {"worked_example": ORANGE, "code": mixed(ORANGE, 0.45), "fact": BLUE}
MORE_COLORS, MORE = (GREEN, PURPLE, RED), "further kinds"
REST = {MORE: "#8b949e", "other": "#b3bac2", "none": "#dde1e5"}
"""What has no color of its own, or what no rule speaks of: at the end."""
WORDS = {"none": "no rule fits"}
ROW, BAR, CORPUS_BAR = 30, 14, 4
TASKS_SHOWN = 6
"""A group of more tasks is one row, as are controls."""
STATISTIC = r"^share of procedural documents, top [0-9]+$"
SHARE = Scale("share of documents", 0.0, 1.0, {0.0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1.0: "100 %"})
SHORT_SHARE = Scale("", 0.0, 1.0, {0.0: "0 %", 0.5: "50 %", 1.0: "100 %"})
VALUES = {"share": (2, BAR), "corpus_share": (2 + BAR + 1, CORPUS_BAR)}
"""What the bars of a row show, how far below its top, and how high."""


def kinds_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `kinds`: a stacked bar per group and task, the mean over its queries, with the corpus's shares
    as a thin bar below it; a column for each method. Procedural kinds stand first, with the interval of their sum from
    evidence."""
    rows = finite(rows, "share") if rows.width else rows
    if rows.is_empty():
        return in_words(TITLE, "No documents were sorted into kinds.")
    colors, methods = _colors(rows), ordered_methods(rows)
    labels, bars = _bars(rows, colors)
    intervals = means(evidence).filter(pl.col("statistic").str.contains(STATISTIC))
    panels = [_panel(bars.filter(method=method), method, methods, labels, colors, intervals) for method in methods]
    subtitle = [
        f"mean share over queries of the top {_depth(rows):,} documents; thin bar below: share of the whole corpus",
        *(
            ["black: 95 % interval of the share of procedural documents (worked examples and code)"]
            * (len(intervals) > 0)
        ),
    ]
    return drawn(TITLE, grid([[marks_key(_words(colors))], panels], across=22), subtitle=subtitle)


def _panel(
    bars: pl.DataFrame,
    method: str,
    methods: list[str],
    labels: Mapping[str, str],
    colors: Mapping[str, str],
    intervals: pl.DataFrame,
) -> alt.LayerChart:
    """The column of one method; the first one has the rows' names."""
    is_main, height = method == methods[0], ROW * len(labels)
    scale = SHARE if is_main else SHORT_SHARE
    layers = [_stack(bars, value, scale, colors, height) for value in VALUES]
    layers += _whiskers(intervals.filter(method=method), list(labels), scale, height)
    layers.append(panel_title(method_name(method)))
    if is_main:
        looks = looks_of(labels.values())
        for place, (label, group) in enumerate(labels.items()):
            at = ROW * place + VALUES["share"][0] + BAR / 2
            color = QUIET if is_control(group) else looks[group].color
            layers.append(Word(clipped(label, 34), -8, at, color=color, size=11, align="right"))
    width = 420 if len(methods) == 1 else 270 if is_main else 120
    return layered(layers, width, height)


def _stack(bars: pl.DataFrame, value: str, scale: Scale, colors: Mapping[str, str], height: int) -> alt.Chart:
    import altair as alt

    above, thick = VALUES[value]
    shown = bars.filter(pl.col(value) > 0).select(
        "kind", x=f"{value}_start", stop=f"{value}_stop", y=ROW * pl.col("place") + above
    )
    shown = shown.with_columns(below=pl.col("y") + thick)
    marks = alt.Chart(shown).mark_rect(opacity=1 if value == "share" else 0.75, stroke="white", strokeWidth=0.5)
    color = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(colors), range=list(colors.values())))
    return marks.encode(x=scale.channel("x", alt.X), x2="stop:Q", y=pixels("y", height), y2="below:Q", color=color)


def _whiskers(intervals: pl.DataFrame, labels: list[str], scale: Scale, height: int) -> list[alt.Chart]:
    """The intervals of the share of procedural documents, at the ends of their bars."""
    import altair as alt

    places = {label: ROW * place + VALUES["share"][0] + BAR / 2 for place, label in enumerate(labels)}
    shown = intervals.filter(pl.col("group").is_in(labels)).drop_nulls(["low", "high"])
    if shown.is_empty():
        return []
    shown = shown.select("low", "high", y=pl.col("group").replace_strict(places, return_dtype=pl.Float64))
    base = alt.Chart(shown).encode(y=pixels("y", height))
    rules = base.mark_rule(color=INK, strokeWidth=1.3, clip=True)
    ticks = base.mark_tick(color=INK, orient="vertical", size=6, thickness=1.3, clip=True)
    low = scale.channel("low", alt.X)
    return [rules.encode(x=low, x2="high:Q"), ticks.encode(x=low), ticks.encode(x=scale.channel("high", alt.X))]


def _depth(rows: pl.DataFrame) -> int:
    return round(rows.group_by("method", "query_id").agg(pl.col("documents").sum())["documents"].max())


def _colors(rows: pl.DataFrame) -> dict[str, str]:
    """Kinds of document in the order of the bars: the procedural ones, other known ones, by the alphabet, the rest."""
    found, known = set(rows["kind"]), [*PROCEDURAL, *(kind for kind in COLORS if kind not in PROCEDURAL)]
    others = sorted(found - {*known, *REST})
    shown = {kind: COLORS[kind] for kind in known if kind in found} | dict(zip(others, MORE_COLORS, strict=False))
    rest = (found & set(REST)) | ({MORE} if len(others) > len(MORE_COLORS) else set())
    return shown | {kind: color for kind, color in REST.items() if kind in rest}


def _words(colors: Mapping[str, str]) -> list[tuple[str, dict]]:
    """The key: squares and what kinds of document are called."""
    square = {"shape": "square", "size": 70, "strokeWidth": 0}
    return [(WORDS.get(kind, kind.replace("_", " ")), square | {"fill": color}) for kind, color in colors.items()]


def _bars(rows: pl.DataFrame, colors: Mapping[str, str]) -> tuple[dict[str, str], pl.DataFrame]:
    """The rows of the figure with their groups, and where the parts of each bar start and stop."""
    rows = _labelled(rows)
    labels = dict(rows.select("label", "group").unique(maintain_order=True).iter_rows())
    shown = pl.when(pl.col("kind").is_in(list(colors))).then("kind").otherwise(pl.lit(MORE))
    queries = rows.group_by("method", "label").agg(queries=pl.col("query_id").n_unique())
    sums = rows.group_by("method", "label", kind=shown).agg(pl.col(*VALUES).sum()).join(queries, on=["method", "label"])
    places, kinds = (pl.DataFrame({name: list(of)}) for name, of in (("label", labels), ("kind", colors)))
    sums = sums.join(places.with_row_index("place"), on="label").join(kinds.with_row_index("turn"), on="kind")
    sums = sums.sort("method", "place", "turn").with_columns(pl.col(value) / pl.col("queries") for value in VALUES)
    stops = {f"{value}_stop": pl.col(value).cum_sum().over("method", "place") for value in VALUES}
    starts = {f"{value}_start": pl.col(f"{value}_stop") - pl.col(value) for value in VALUES}
    return labels, sums.with_columns(pl.col("place").cast(pl.Float64), **stops).with_columns(**starts)


def _labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """With the row of the figure that each query belongs to, which evidence calls by the same name, in their order."""
    order = {group: place for place, group in enumerate(ordered_groups(rows["group"]))}
    tasks = rows.group_by("group").agg(tasks=pl.col("task").n_unique())
    split = pl.col("tasks").is_between(2, TASKS_SHOWN) & ~pl.col("group").is_in(list(filter(is_control, order)))
    label = pl.when(split).then(pl.format("{}: {}", "group", "task")).otherwise("group")
    turn = pl.col("group").replace_strict(order, return_dtype=pl.Int64)
    return rows.join(tasks, on="group").sort(turn, "task", "query_id").with_columns(label=label)
