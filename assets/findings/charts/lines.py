"""A panel of lines with their uncertainty and their names at the right end, and the keys of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from assets.figures.drawing import LABEL_HEIGHT, RULE, clipped, spread
from assets.findings.charts.looks import Look
from assets.findings.charts.panels import Scale, Stroke, Word, layered, panel_title

if TYPE_CHECKING:
    import altair as alt

LABEL_LENGTH = 34
LABEL_GAP = LABEL_HEIGHT + 1
PIECE, KEY_HEIGHT = 16, 12
"""Pixels of a piece of line in a key, and of a key."""


@dataclass(frozen=True)
class Panel:
    """Where lines are drawn: both axes and the size in pixels."""

    x: Scale
    y: Scale
    width: int
    height: int
    y_axis: Mapping[str, Any] = field(default_factory=dict)

    def lines(
        self, points: pl.DataFrame, looks: Mapping[str, Look], *, band: bool = False, dots: bool = True
    ) -> list[alt.Chart]:
        """Of columns `line` (a name of `looks`), `x`, `y`, `low` and `high` (null: unknown): the lines, and what lies
        between low and high as a band or as rules."""
        import altair as alt

        points = points.select("line", "x", "y", "low", "high").sort("x")
        x, y, color, dash, width = self.x.channel("x", alt.X), self._y(), *_channels(looks)
        known = alt.Chart(points.drop_nulls(["low", "high"]))
        known = (
            known.mark_area(opacity=0.14, clip=True) if band else known.mark_rule(opacity=0.55, clip=True, aria=False)
        )
        line = alt.Chart(points).mark_line(clip=True)
        layers = [
            known.encode(x=x, y=self._y("low"), y2="high:Q", color=color),
            line.encode(x=x, y=y, color=color, strokeDash=dash, strokeWidth=width),
        ]
        if dots or points.group_by("line").len()["len"].min() == 1:  # a line of one point is seen nowhere
            layers.append(alt.Chart(points).mark_circle(size=20, opacity=1, aria=False).encode(x=x, y=y, color=color))
        return layers

    def names(self, points: pl.DataFrame, looks: Mapping[str, Look]) -> list[Word]:
        """The text in column `name` at each line's right end, moved apart where lines end together."""
        ends = points.sort("x").group_by("line", maintain_order=True).last()
        places = [min(self.height, max(0, self.height - self.y.place(y, self.height))) for y in ends["y"]]
        low, high = 0.0, max(float(self.height), LABEL_GAP * (len(ends) - 1))
        return [
            Word(clipped(name, LABEL_LENGTH), self.width + 8, place, looks[line].color)
            for (line, name), place in zip(
                ends.select("line", "name").iter_rows(), spread(places, LABEL_GAP, low, high), strict=True
            )
        ]

    def rule(self, value: float, color: str = RULE) -> Stroke:
        """A rule across the panel at a value of the y axis."""
        at = self.height - self.y.place(value, self.height)
        return Stroke(0, at, self.width, at, color, 1.0)

    def sized(self, parts: Sequence[Any], title: str = "") -> alt.LayerChart:
        """The panel in its size, with a title above it."""
        return layered([*parts, *([panel_title(title)] if title else [])], self.width, self.height)

    def _y(self, column: str = "y") -> alt.Y:
        import altair as alt

        return self.y.channel(column, alt.Y, **self.y_axis)


def line_key(looks: Mapping[str, Look]) -> alt.LayerChart:
    """A row of a grid: the names of lines in their colors, with a piece of the line before each."""
    parts: list[Word | Stroke] = []
    y, at = KEY_HEIGHT / 2, 0.0
    for name, look in looks.items():
        pieces = ((0, PIECE),) if look.dash == (1, 0) else ((0, 4), (6, 10), (12, PIECE))
        parts += [Stroke(at + start, y, at + end, y, look.color, look.width) for start, end in pieces]
        parts.append(Word(clipped(name, LABEL_LENGTH), at + PIECE + 6, y, look.color, 11))
        at += PIECE + 6.2 * min(len(name), LABEL_LENGTH) + 24
    return layered(parts, round(at), KEY_HEIGHT)


def marks_key(marks: Sequence[tuple[str, dict]]) -> alt.LayerChart:
    """A row of a grid: what marks mean; each is told by the arguments of Altair's `mark_point`."""
    import altair as alt

    parts: list[Any] = []
    y, at = KEY_HEIGHT / 2, 5.0
    for text, told in marks:
        point = alt.Chart(pl.DataFrame({"one": [1]})).mark_point(
            **({"size": 44, "opacity": 1, "strokeWidth": 1} | told)
        )
        parts += [point.encode(x=alt.value(at), y=alt.value(y)), Word(text, at + 9, y)]
        at += 5.4 * len(text) + 30
    return layered(parts, round(at), KEY_HEIGHT)


def _channels(looks: Mapping[str, Look]) -> tuple:
    """Color, dash and width of lines by their name."""
    import altair as alt

    def scale(values: list) -> alt.Scale:
        return alt.Scale(domain=list(looks), range=values)

    return (
        alt.Color("line:N", legend=None, scale=scale([look.color for look in looks.values()])),
        alt.StrokeDash("line:N", legend=None, scale=scale([list(look.dash) for look in looks.values()])),
        alt.StrokeWidth("line:N", legend=None, scale=scale([look.width for look in looks.values()])),
    )
