"""A matrix of correlations as a picture: one image in the figure, so that a hundred queries do not become ten thousand
rectangles."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import polars as pl

from assets.findings.charts.panels import Word
from assets.findings.charts.reading import number

if TYPE_CHECKING:
    import altair as alt
    import numpy as np

LOW, MIDDLE, HIGH, UNKNOWN = (36, 88, 140), (255, 255, 255), (176, 58, 46), (226, 229, 233)
"""Colors of the lowest and the highest r, of 0, and of an r that is not known."""
LIMITS = (0.05, 0.1, 0.2, 0.5, 1.0)
SHADES = 15
"""Colors on each side of 0: more would hardly be told apart, and make the picture large."""
PIXELS = 840
BAR_WIDE, BAR_HIGH, BAR_BELOW = 150, 9, 16


def picture(r: np.ndarray, side: int, limit: float) -> alt.Chart:
    """The matrix as a square of `side` pixels, with its first row at the top."""
    each = max(1, round(PIXELS / len(r)))
    return _image(shades(r, limit).repeat(each, axis=0).repeat(each, axis=1), 0, 0, side, side)


def shades(r: np.ndarray, limit: float) -> np.ndarray:
    """The color of each r as three bytes: white at 0, ever more blue below it and red above it."""
    import numpy as np

    known = np.isfinite(r)
    strength = np.round(np.clip(np.where(known, r, 0.0) / limit, -1, 1) * SHADES)[..., None] / SHADES
    ends = np.where(strength < 0, np.array(LOW), np.array(HIGH))
    mixed = np.array(MIDDLE) + np.abs(strength) * (ends - np.array(MIDDLE))
    return np.where(known[..., None], np.rint(mixed), np.array(UNKNOWN)).astype(np.uint8)


def color_bar(side: int, limit: float) -> list[alt.Chart | Word]:
    """What the colors mean, below the matrix."""
    import numpy as np

    ramp = np.linspace(-limit, limit, 2 * SHADES + 1)[None, :].repeat(4, axis=0).repeat(4, axis=1)
    left, top = side - BAR_WIDE - 20, side + BAR_BELOW
    layers = [_image(shades(ramp, limit), left, top, BAR_WIDE, BAR_HIGH)]
    for share, r in ((0, -limit), (0.5, 0.0), (1, limit)):
        layers.append(Word(number(r), left + share * BAR_WIDE, top + BAR_HIGH + 9, align="center"))
    return [*layers, Word("r", left - 12, top + BAR_HIGH / 2, align="right", size=11)]


def _image(pixels: np.ndarray, x: float, y: float, width: float, height: float) -> alt.Chart:
    import altair as alt
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).quantize(2 * SHADES + 2, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    mark = alt.Chart(pl.DataFrame({"address": [address]})).mark_image(
        width=width, height=height, align="left", baseline="top", aspect=False
    )
    return mark.encode(x=alt.value(x), y=alt.value(y), url="address:N")
