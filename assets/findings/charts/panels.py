"""What panels of figures are put together from: axes, and words, strokes and intervals at places of their own.

Words, strokes and intervals are collected and become one layer each: Altair copies what it nests, again and again, so
that a figure of hundreds of small layers would take many seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from assets.figures.drawing import INK, QUIET

if TYPE_CHECKING:
    import altair as alt

OWN_SCALES = ("x", "y", "color", "fill", "size", "strokeDash", "strokeWidth")


@dataclass(frozen=True)
class Scale:
    """One axis of a panel: what it shows, from where to where, and its ticks with their words."""

    title: str | Sequence[str]
    low: float
    high: float
    ticks: Mapping[float, str] | None = None
    log: bool = False

    @property
    def domain(self) -> tuple[float, float]:
        """Never empty; a logarithmic axis starts above zero."""
        low, high = (max(self.low, 1e-12), max(self.high, 1e-12)) if self.log else (self.low, self.high)
        if high > low:
            return low, high
        return (low / 1.5, high * 1.5) if self.log else (low - 0.5, high + 0.5)

    def place(self, value: float, length: float) -> float:
        """Pixels from the low end, on an axis of that length."""
        low, high = self.domain
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return (value - low) / (high - low) * length

    def channel(self, column: str, channel: type, **axis: object) -> Any:
        """The encoding of a column on this axis; `channel` is alt.X or alt.Y."""
        import altair as alt

        words = {}
        if self.ticks is not None:
            cases = [f"abs(datum.value / {tick!r} - 1) < 1e-6 ? {text!r}" for tick, text in self.ticks.items() if tick]
            cases += [f"datum.value == 0 ? {text!r}" for tick, text in self.ticks.items() if not tick]
            words = {"values": list(self.ticks), "labelExpr": " : ".join([*cases, "''"])}
        scale = alt.Scale(domain=self.domain, type="log" if self.log else "linear", nice=False, zero=False)
        return channel(f"{column}:Q", title=self.title or None, scale=scale, axis=alt.Axis(**(words | axis)))


@dataclass(frozen=True)
class Word:
    """Text at a place of the panel, in pixels from its upper left corner."""

    text: str
    x: float
    y: float
    color: str = QUIET
    size: int = 10
    align: str = "left"
    weight: int = 400


@dataclass(frozen=True)
class Stroke:
    """A straight line between two places of the panel, in pixels."""

    x: float
    y: float
    x2: float
    y2: float
    color: str
    width: float = 0.7


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval (null: unknown) on the x axis, so many pixels below the panel's upper edge."""

    estimate: float | None
    low: float | None
    high: float | None
    y: float
    color: str
    fill: str
    size: float = 40
    width: float = 1.5


def panel_title(text: str, above: float = 11) -> Word:
    return Word(text, 0, -above, color=INK, size=11, weight=600)


def layered(parts: Sequence[Any], width: int, height: int) -> alt.LayerChart:
    """A panel out of charts, words (on top) and strokes (where the first of them stands)."""
    import altair as alt

    strokes, words = ([part for part in parts if isinstance(part, kind)] for kind in (Stroke, Word))
    charts: list[Any] = []
    for part in parts:
        if strokes and part is strokes[0]:  # all of them lie on what is named before the first
            charts.append(_strokes(strokes))
        elif not isinstance(part, Stroke | Word):
            charts.append(part)
    charts += [_words(words)] if words else []
    return alt.layer(*charts).properties(width=width, height=height)


def intervals(
    found: Sequence[Interval], x: Scale, height: int, shape: str = "circle", **axis: object
) -> list[alt.Chart]:
    """Rules with marks on them."""
    import altair as alt

    numbers = dict.fromkeys(("estimate", "low", "high", "y", "size", "width"), pl.Float64)
    frame = pl.DataFrame([asdict(each) for each in found], schema=numbers | {"color": pl.String, "fill": pl.String})
    color, fill = (alt.Stroke("color:N", scale=None, legend=None), alt.Fill("fill:N", scale=None, legend=None))
    base = alt.Chart(frame.filter(pl.col("estimate").is_not_null())).encode(y=pixels("y", height))
    width = alt.StrokeWidth("width:Q", scale=None, legend=None)
    rules = alt.Chart(frame.drop_nulls(["low", "high"])).mark_rule(clip=True, opacity=1)
    rules = rules.encode(x=x.channel("low", alt.X, **axis), x2="high:Q", y=pixels("y", height), stroke=color)
    marks = base.mark_point(shape=shape, opacity=1, strokeWidth=1.2).encode(
        x=x.channel("estimate", alt.X, **axis),
        stroke=color,
        fill=fill,
        size=alt.Size("size:Q", scale=None, legend=None),
    )
    return [rules.encode(strokeWidth=width), marks]


def pixels(column: str, height: int) -> alt.Y:
    """A y axis without ticks, in pixels from the panel's upper edge."""
    import altair as alt

    return alt.Y(f"{column}:Q", axis=None, scale=alt.Scale(domain=[height, 0], nice=False, zero=False))


def grid(rows: Sequence[Sequence[alt.LayerChart]], *, across: int = 24, down: int = 18) -> dict[str, Any]:
    """Panels side by side, row below row, each with scales of its own, as a description for `drawn`."""
    own, data = {"scale": dict.fromkeys(OWN_SCALES, "independent")}, {}
    described = []
    for row in rows:
        panels = []
        for panel in row:
            panel = panel.to_dict()
            data |= panel.pop("datasets", {})
            panels.append({name: value for name, value in panel.items() if name not in ("$schema", "config")})
        described.append({"hconcat": panels, "spacing": across, "resolve": own})
    return {"vconcat": described, "spacing": down, "resolve": own, "datasets": data}


def _words(words: Sequence[Word]) -> alt.Chart:
    import altair as alt

    places = {name: _each(name) for name in ("x", "y", "align", "color")}
    mark = alt.Chart(pl.DataFrame([asdict(word) for word in words])).mark_text(
        baseline="middle", fontSize=_each("size"), fontWeight=_each("weight"), **places
    )
    return mark.encode(text="text:N")


def _strokes(strokes: Sequence[Stroke]) -> alt.Chart:
    import altair as alt

    frame = pl.DataFrame([asdict(stroke) for stroke in strokes])
    ends = {
        "x": alt.X("x:Q", scale=None, axis=None),
        "y": alt.Y("y:Q", scale=None, axis=None),
        "x2": "x2:Q",
        "y2": "y2:Q",
    }
    return (
        alt.Chart(frame)
        .mark_rule(strokeWidth=_each("width"), color=_each("color"), opacity=1, aria=False)
        .encode(**ends)
    )


def _each(column: str) -> alt.ExprRef:
    """A property of marks that each row tells."""
    import altair as alt

    return alt.ExprRef(f"datum.{column}")
