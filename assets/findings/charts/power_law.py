"""The figure of analysis 3: how fast influence falls off with rank, query by query, by both definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import INK, QUIET, Figure, clipped, drawn, in_words
from assets.findings.charts.lines import marks_key
from assets.findings.charts.looks import Look, is_control, looks_of, method_name, ordered_methods
from assets.findings.charts.panels import Interval, Scale, Word, grid, intervals, layered, panel_title, pixels
from assets.findings.charts.reading import contrast, finite, means, with_interval

if TYPE_CHECKING:
    import altair as alt

TITLE = "How fast influence falls off with rank"
PANELS = {
    "slope": ("Slope of log score on log rank", "slope (further left: steeper)"),
    "alpha": ("Exponent of the scores' tail", "exponent α (further left: a heavier tail)"),
}
SAID = {"slope": "Slope", "alpha": "Exponent"}
WIDE, DOTS, THIN, GAP = 255, 34, 15, 12
ANSWERED = {"right": True, "wrong": False}
KEY = (
    ("right", {"fill": INK, "stroke": INK}),
    ("wrong", {"fill": "white", "stroke": INK}),
    ("not known", {"fill": INK, "stroke": INK, "size": 12}),
    ("mean over queries, with its 95 % interval", {"fill": INK, "stroke": INK, "shape": "diamond"}),
)


@dataclass(frozen=True)
class Line:
    """One row of the figure: queries as dots, or only the mean under another method."""

    label: str
    group: str
    evidence_group: str
    method: str
    top: float
    height: float
    queries: pl.DataFrame | None

    @property
    def is_thin(self) -> bool:
        return self.queries is None

    @property
    def mean_at(self) -> float:
        return self.top + (self.height / 2 if self.is_thin else self.height - 7)


def power_law_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `power_law`: slope and exponent of every query under the main method, by group and by whether
    its answer is right, with the means of evidence, and those of the other methods below."""
    drawable = [name for name in PANELS if rows.width and len(finite(rows, name))]
    if not drawable:
        return in_words(TITLE, "No query has enough positive scores for a slope or an exponent.")
    methods = ordered_methods(rows)
    shown = means(evidence)
    lines = list(_lines(rows, shown, methods))
    looks = looks_of(rows["group"])
    panels = [_panel(name, lines, looks, shown, labelled=not place) for place, name in enumerate(drawable)]
    tested = [
        f"{SAID[name]}, {found}"
        for name in drawable
        if (found := contrast(evidence, methods[0], name, "factual", "reasoning"))
    ]
    return drawn(
        TITLE,
        grid([[marks_key(KEY)], panels], across=20),
        subtitle=[f"{method_name(methods[0])}, query by query", *tested],
    )


def _lines(rows: pl.DataFrame, shown: pl.DataFrame, methods: list[str]) -> Iterator[Line]:
    """The rows of the figure from top to bottom."""
    top, main = 0.0, rows.filter(method=methods[0])
    for group in looks_of(rows["group"]):
        part = main.filter(group=group)
        split = {word: part.filter(pl.col("is_right") == right) for word, right in ANSWERED.items()}
        if all(map(len, split.values())) and not is_control(group):
            parts = {f"{group}, {word}": each for word, each in split.items()}
        else:
            parts = {group: part}
        for label, queries in parts.items():
            yield Line(label, group, label, methods[0], top, DOTS, queries)
            top += DOTS
        for method in methods[1:] if not is_control(group) else ():
            if len(shown.filter(method=method, group=group)):
                yield Line(method_name(method), group, group, method, top, THIN, None)
                top += THIN
        top += GAP


def _panel(
    name: str, lines: list[Line], looks: Mapping[str, Look], shown: pl.DataFrame, *, labelled: bool
) -> alt.LayerChart:
    """One quantity: all lines of the figure, with the means in words at the right."""
    title, axis_title = PANELS[name]
    found = {(row["method"], row["group"]): row for row in shown.filter(statistic=name).iter_rows(named=True)}
    scale = _scale(name, axis_title, lines, found)
    height = int(lines[-1].top + lines[-1].height) + 4
    parts: list = [panel_title(title), _dots(name, lines, looks, scale, height)]
    means_found = []
    for line in lines:
        if labelled:
            color = QUIET if line.is_thin or is_control(line.group) else looks[line.group].color
            parts.append(Word(clipped(line.label, 28), -10, line.top + line.height / 2, color, align="right"))
        if mean := found.get((line.method, line.evidence_group)):
            at, color = line.mean_at, QUIET if line.is_thin else INK
            ends = (mean[end] for end in ("estimate", "low", "high"))
            means_found.append(Interval(*ends, y=at, color=color, fill=color, size=16 if line.is_thin else 36))
            parts.append(Word(with_interval(mean), WIDE + 10, at, color, 9 if line.is_thin else 10))
    return layered([*parts, *intervals(means_found, scale, height, "diamond")], WIDE, height)


def _dots(name: str, lines: list[Line], looks: Mapping[str, Look], scale: Scale, height: int) -> alt.Chart:
    """A dot per query, spread a little so that they do not hide each other: full where the answer is right, a ring
    where it is wrong, small where that is not known."""
    import altair as alt

    (low, high), right = scale.domain, pl.col("is_right").cast(pl.Boolean)
    dots = pl.concat(
        finite(line.queries, name).select(
            x=pl.col(name).clip(low, high),
            y=(pl.int_range(pl.len()) * 0.618) % 1 * 16 + 4 + line.top,
            stroke=pl.lit(looks[line.group].color),
            fill=pl.when(right.fill_null(True)).then(pl.lit(looks[line.group].color)).otherwise(pl.lit("white")),
            size=pl.when(right.is_null()).then(9.0).otherwise(24.0),
        )
        for line in lines
        if line.queries is not None
    )
    colors = {
        mark: mark_of(f"{mark}:N", scale=None, legend=None)
        for mark, mark_of in (("stroke", alt.Stroke), ("fill", alt.Fill))
    }
    size = alt.Size("size:Q", scale=None, legend=None)
    marks = alt.Chart(dots).mark_point(strokeWidth=1, opacity=0.75)
    return marks.encode(x=scale.channel("x", alt.X), y=pixels("y", height), size=size, **colors)


def _scale(name: str, title: str, lines: list[Line], found: dict) -> Scale:
    """From the lowest to the highest query or mean; far outliers stand at the edge."""
    queries = pl.concat([finite(line.queries, name)[name] for line in lines if line.queries is not None])
    low, high = queries.min(), queries.max()
    if len(queries) > 8:
        lower, upper = queries.quantile(0.05), queries.quantile(0.95)
        reach = 1.5 * (upper - lower)
        low, high = max(low, lower - reach), min(high, upper + reach)
    for line in lines:
        row = found.get((line.method, line.evidence_group), {})
        ends = [row[key] for key in ("estimate", "low", "high") if row.get(key) is not None]
        low, high = min([low, *ends]), max([high, *ends])
    room = (high - low) * 0.04
    return Scale(title, low - room, high + room)
