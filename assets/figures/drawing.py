"""How figures look and how they become files: Altair's description, drawn by vl-convert without browser or network.

One quiet style: little ink, labels at the marks rather than in a legend, units on the axes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 440, 200
SCALE = 1.5
COLORS_IN_PNG = 128
FONT = "Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, QUIET, RULE = "#2f3640", "#75808b", "#e6e9ed"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2f6b9a", "#c06c22", "#3f8a55", "#8a6bb1", "#b3475f", "#8b949e"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
LABEL_HEIGHT = 11


@dataclass(frozen=True)
class Figure:
    """A drawn figure: `png` for where pictures are shown, `svg` for where they are kept."""

    title: str
    png: bytes
    svg: str


def drawn(title: str, chart: alt.LayerChart | alt.Chart, *, subtitle: str = "", height: int = HEIGHT) -> Figure:
    """The chart in the house's style. Text that stands outside of the axes makes the picture wider."""
    import altair as alt
    import vl_convert

    whole = chart.properties(width=WIDTH, height=height, title=alt.Title(title, subtitle=subtitle or alt.Undefined))
    svg = vl_convert.vegalite_to_svg(whole.configure(**_style()).to_dict())
    return Figure(title, _smaller(vl_convert.svg_to_png(svg, scale=SCALE)), svg)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions in the same order, at least `gap` apart: moved down from `high`, then up from `low`."""
    moved, order = list(positions), sorted(range(len(positions)), key=lambda index: positions[index])
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    return moved


def key(colors: Mapping[str, str]) -> alt.LayerChart:
    """Colored words above the plot, in place of a legend's box."""
    import altair as alt
    import polars as pl

    words, at = [], 0.0
    for name, color in ((clipped(name, 24), color) for name, color in colors.items()):
        word = alt.Chart(pl.DataFrame({"word": [f"● {name}"]}))
        word = word.mark_text(align="left", baseline="bottom", fontSize=11, color=color)
        words.append(word.encode(x=alt.value(at), y=alt.value(-6), text="word:N"))
        at += 6.2 * len(name) + 26
    return alt.layer(*words)


def names_axis() -> alt.Axis:
    """An axis of rows that are read first."""
    import altair as alt

    return alt.Axis(labelColor=INK, labelFontSize=11, labelPadding=10)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Dotted names without the words that all of them share."""
    words = {name: name.split(".") for name in names}
    shared = set.intersection(*(set(each) for each in words.values())) if len(names) > 1 else set()
    return {name: " ".join(word for word in each if word not in shared) or name for name, each in words.items()}


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _smaller(png: bytes) -> bytes:
    """The same picture with a palette: a fourth of the bytes, and nothing that an eye would miss."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        plain = Image.new("RGB", picture.size, "white")
        plain.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        plain.quantize(COLORS_IN_PNG, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _style() -> dict[str, Any]:
    words = {"font": FONT, "labelFont": FONT, "titleFont": FONT}
    return {
        "background": "white",
        "padding": 10,
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "font": FONT,
            "fontSize": 13,
            "fontWeight": 600,
            "color": INK,
            "anchor": "start",
            "offset": 10,
            "subtitleFont": FONT,
            "subtitleFontSize": 11,
            "subtitleColor": QUIET,
        },
        "axis": {
            **{key: value for key, value in words.items() if key != "font"},
            "labelFontSize": 10,
            "labelColor": QUIET,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "titleColor": INK,
            "titlePadding": 8,
            "gridColor": RULE,
            "domainColor": "#c3c9d0",
            "tickColor": "#c3c9d0",
            "tickSize": 4,
            "tickCount": 6,
            "labelLimit": 160,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "text": {"font": FONT, "fontSize": 10},
        "line": {"strokeWidth": 1.8, "strokeCap": "round"},
    }
