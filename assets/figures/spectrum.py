"""The figure of a curvature fit: each module's corrected eigenvalues Λ in falling order, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import BLUE, HEIGHT, LABEL_HEIGHT, PALETTE, Figure, drawn, short_names, spread

if TYPE_CHECKING:
    import altair as alt
    import numpy as np

POINTS_PER_LINE = 120
MODULES_AS_LINES = 12
RANKS_PER_DECADE = 20
BANDS = ((0, 100, 0.14), (10, 90, 0.3))
"""Percentiles over modules that a band lies between, and its opacity."""
DEEPEST = 1e-12
"""Eigenvalues below this share of the largest are rounding, and left out."""


def spectrum_rows(module: str, eigenvalues: np.ndarray) -> pl.DataFrame:
    """A module's Λ in falling order, thinned to ranks that lie evenly on a logarithmic axis."""
    import numpy as np

    values = np.sort(np.asarray(eigenvalues, dtype=np.float32), axis=None)[::-1]
    ranks = np.unique(np.geomspace(1, len(values), POINTS_PER_LINE).astype(np.int64))
    return pl.DataFrame({"module": module, "rank": ranks, "eigenvalue": values[ranks - 1].astype(np.float64)})


def eigenvalue_spectrum(rows: pl.DataFrame) -> Figure:
    """Columns `module`, `rank`, `eigenvalue` (`spectrum_rows`): a line per module, or bands where there are many."""
    import altair as alt

    rows = rows.filter(pl.col("eigenvalue") > DEEPEST * pl.col("eigenvalue").max()).sort("module", "rank")
    if rows.is_empty():  # all zero, or not finite
        rows = pl.DataFrame({"module": ["no eigenvalue above zero"], "rank": [1], "eigenvalue": [1.0]})
    low, high = rows["eigenvalue"].min(), rows["eigenvalue"].max()
    scale = alt.Scale(type="log", domain=[low, high], nice=False)

    def y(column: str) -> alt.Y:
        axis = alt.Axis(format="~e", values=_decades(low, high), titleAngle=0, titleAlign="right")
        return alt.Y(f"{column}:Q", title="Λ", scale=scale, axis=axis)

    last = rows["rank"].max()
    decades = alt.Axis(format="~s", values=_decades(1, last))
    ranks = alt.Scale(type="log", domain=[1, last + 1], nice=False)
    x = alt.X("rank:Q", title="rank of the eigenvalue", scale=ranks, axis=decades)
    modules = rows["module"].n_unique()
    chart = _lines(rows, x, y) if modules <= MODULES_AS_LINES else _bands(rows, x, y)
    among = "" if modules <= MODULES_AS_LINES else ": median, 10–90 %, all"
    return drawn("Spectrum of the curvature", chart, subtitle=f"Λ of {_modules(modules)}{among}")


def _lines(rows: pl.DataFrame, x: alt.X, y: Callable[[str], alt.Y]) -> alt.LayerChart:
    import altair as alt

    names = short_names(rows["module"].unique(maintain_order=True).to_list())
    rows = rows.with_columns(name=pl.col("module").replace_strict(names))
    colors = _shades(list(names.values()))
    scheme = alt.Scale(domain=list(colors), range=list(colors.values()))
    color = alt.Color("name:N", legend=None, scale=scheme)
    lines = alt.Chart(rows).mark_line(strokeWidth=1.3).encode(x=x, y=y("eigenvalue"), color=color)
    text = alt.Chart(_labels(rows)).mark_text(align="left", dx=5, fontSize=9)
    return lines + text.encode(x=x, y=y("place"), text="name:N", color=color)


def _bands(rows: pl.DataFrame, x: alt.X, y: Callable[[str], alt.Y]) -> alt.LayerChart:
    """What all modules, and most of them, lie between, rank by rank."""
    import altair as alt

    steps = (pl.col("rank").log10() * RANKS_PER_DECADE).round() / RANKS_PER_DECADE
    by_module = rows.group_by("module", rank=10**steps).agg(pl.col("eigenvalue").mean())
    percentiles = {50, *(edge for low, high, _ in BANDS for edge in (low, high))}
    columns = {f"q{each}": pl.col("eigenvalue").quantile(each / 100) for each in percentiles}
    base = alt.Chart(by_module.group_by("rank").agg(**columns).sort("rank")).encode(x=x)
    bands = [
        base.mark_area(color=BLUE, opacity=opacity).encode(y=y(f"q{low}"), y2=f"q{high}:Q")
        for low, high, opacity in BANDS
    ]
    return alt.layer(*bands, base.mark_line(color=BLUE).encode(y=y("q50")))


def _labels(rows: pl.DataFrame) -> pl.DataFrame:
    """Where each line's name stands: at the right edge, as high as the line a decade before it, where lines have not
    yet fallen together; names of lines that are close there are moved apart."""
    late = rows.filter(pl.col("rank") <= (pl.col("rank").max() / 10).clip(1))
    ends = late.sort("rank").group_by("name", maintain_order=True).last()
    low, high = math.log10(rows["eigenvalue"].min()), math.log10(rows["eigenvalue"].max())
    gap = max(high - low, 1e-9) * LABEL_HEIGHT / HEIGHT
    places = spread([math.log10(value) for value in ends["eigenvalue"]], gap, low, high)
    return ends.with_columns(place=pl.Series([10**place for place in places]), rank=pl.lit(rows["rank"].max()))


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between, at most six."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / 6))]]


def _shades(names: list[str]) -> dict[str, str]:
    """A color per sort of module (its name without numbers), lighter for later layers."""
    sorts: dict[str, list[str]] = {}
    for name in names:
        sorts.setdefault(" ".join(word for word in name.split() if not word.isdigit()), []).append(name)
    colors = {}
    for number, members in enumerate(sorts.values()):
        for place, name in enumerate(members):
            colors[name] = _lighter(PALETTE[number % len(PALETTE)], 0.5 * place / max(1, len(members) - 1))
    return {name: colors[name] for name in names}


def _lighter(color: str, share: float) -> str:
    parts = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def _modules(count: int) -> str:
    return f"{count} module{'' if count == 1 else 's'}"
