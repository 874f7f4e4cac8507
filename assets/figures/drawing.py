"""How figures look and how they become files: Altair's description, drawn by vl-convert without browser or network.

One quiet style: little ink, labels at the marks rather than in a legend, units on the axes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 440, 200
SCALE, WIDEST, LARGEST_PNG = 1.5, 1000, 42_000
"""Pixels of a PNG per unit of the SVG; where a wide figure gets fewer; and the bytes beyond which any figure does, as
pictures must fit into Dagster's events."""
COLORS_IN_PNG = 128
FONT = "Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, QUIET, RULE = "#2f3640", "#75808b", "#e6e9ed"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#2f6b9a", "#c06c22", "#3f8a55", "#8a6bb1", "#b3475f", "#8b949e"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
LABEL_HEIGHT = 11
#: Characters of names that XML cannot hold; vl-convert aborts at them, and the whole process with it.
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Figure:
    """A drawn figure: `png` for where pictures are shown, `svg` for where they are kept."""

    title: str
    png: bytes
    svg: str


def drawn(
    title: str,
    chart: alt.LayerChart | alt.Chart | Mapping[str, Any],
    *,
    subtitle: str | Sequence[str] = "",
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Figure:
    """The chart in the house's style. Text that stands outside of the axes makes the picture wider. Panels side by side
    or one below the other come as Vega-Lite's description, and have sizes of their own."""
    import vl_convert

    size = {"width": width, "height": height}
    spec = dict(chart) if isinstance(chart, Mapping) else chart.properties(**size).to_dict()
    lines = subtitle if isinstance(subtitle, str) else list(subtitle)
    spec["title"] = {"text": title} | ({"subtitle": lines} if lines else {})
    spec["config"] = _style()
    svg = vl_convert.vegalite_to_svg(_drawable(spec))
    return Figure(title, _png(svg), svg)


def in_words(title: str, sentence: str) -> Figure:
    """In place of a figure that has nothing to draw: why."""
    import altair as alt
    import polars as pl

    said = alt.Chart(pl.DataFrame({"said": [sentence]})).mark_text(align="left", fontSize=12, color=QUIET)
    return drawn(title, said.encode(x=alt.value(0), y=alt.value(16), text="said:N"), height=32)


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


def _drawable(part: Any) -> Any:
    """A description without characters at which vl-convert would end the process."""
    if isinstance(part, dict):
        return {_drawable(name): _drawable(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_drawable(value) for value in part]
    return NOT_XML.sub("\ufffd", part) if isinstance(part, str) else part


def _png(svg: str) -> bytes:
    """The figure in pixels; where it would not fit, with fewer colors, and then with fewer pixels."""
    import vl_convert

    scale = min(SCALE, WIDEST / float(re.search(r'width="([0-9.]+)"', svg)[1]))
    picture = vl_convert.svg_to_png(svg, scale=scale)
    png = _smaller(picture, COLORS_IN_PNG)
    if len(png) > LARGEST_PNG:
        png = _smaller(picture, COLORS_IN_PNG // 2)
    if len(png) > LARGEST_PNG:
        scale *= max(LARGEST_PNG / len(png), 0.5)
        png = _smaller(vl_convert.svg_to_png(svg, scale=scale), COLORS_IN_PNG // 2)
    return png


def _smaller(png: bytes, colors: int) -> bytes:
    """The same picture with a palette: a fourth of the bytes, and nothing that an eye would miss. The palette is by
    median cut: Pillow's quicker ways turn a pale red into a pale blue, which is the other sign."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        plain = Image.new("RGB", picture.size, "white")
        plain.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        plain.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
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
