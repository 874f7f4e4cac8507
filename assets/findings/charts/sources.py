"""The figure of analysis 6: which sources are over- and under-represented at both ends of the rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import GREY, INK, Figure, clipped, drawn, in_words
from assets.findings.charts.lines import Panel, line_key
from assets.findings.charts.looks import is_control, looks_of, method_name, ordered_methods
from assets.findings.charts.panels import Scale, Word, grid
from assets.findings.charts.reading import finite, means

if TYPE_CHECKING:
    import altair as alt

TITLE = "Sources at both ends of the rankings"
STATISTIC = r"^representation of (.+), (top|bottom) ([0-9]+)$"
ENDS = {"top": "most positive", "bottom": "most negative"}
ACROSS, MOST_SOURCES = 5, 10
WIDE, HIGH, SMALL = 126, 120, 76
LOWEST, HIGHEST = 2.0**-5, 2.0**9
"""Values beyond are drawn at the edge: a source that is never met has no logarithm."""
APART = 0.025
"""How far the lines of groups lie apart, as a part of the axis of cut-offs."""


@dataclass(frozen=True)
class Sheet:
    """What all panels have in common."""

    points: pl.DataFrame
    shares: dict[str, float]
    x: Scale
    low: float
    high: float


def sources_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """A panel for each source: representation by cut-off and group, means and intervals from evidence (from the rows of
    the table `sources`, without intervals, where there is none). The ends lie one below the other; the other methods
    follow, small."""
    points = _points(rows, evidence)
    if points.is_empty():
        return in_words(TITLE, "The corpus is smaller than every cut-off: there is no end of a ranking to look at.")
    methods, sources = ordered_methods(points), _sources(points)
    sheet = _sheet(points.filter(pl.col("source").is_in(sources)), rows)
    blocks = [sources[at : at + ACROSS] for at in range(0, len(sources), ACROSS)]
    ends = [end for end in ENDS if end in sheet.points["end"]]
    lines = [_row(sheet, methods[0], end, block, HIGH) for end in ends for block in blocks]
    lines += [_row(sheet, method, ends[0], blocks[0], SMALL) for method in methods[1:]]
    key = line_key(looks_of(sheet.points["line"]))
    return drawn(TITLE, grid([[key], *lines], across=14, down=12), subtitle=_subtitle(points, sources))


def _points(rows: pl.DataFrame, evidence: pl.DataFrame) -> pl.DataFrame:
    """method, end, cut_off, source, line (the group), y, low, high."""
    if not rows.width or rows.is_empty():
        return pl.DataFrame()
    names = pl.col("statistic").str.extract_groups(STATISTIC).struct
    found = means(evidence).with_columns(
        source=names.field("1"), end=names.field("2"), cut_off=names.field("3").cast(pl.Int64)
    )
    found = found.filter(pl.col("source").is_not_null() & pl.col("group").is_in(rows["group"].unique().to_list()))
    key = ("method", "end", "cut_off", "source")
    if len(found):
        return found.select(*key, "low", "high", line="group", y="estimate")
    unknown = pl.lit(None, pl.Float64)
    by_group = finite(rows, "representation").group_by(*key, line="group").agg(y=pl.col("representation").mean())
    return by_group.select(*key, "line", "y", low=unknown, high=unknown)


def _sources(points: pl.DataFrame) -> list[str]:
    """Those that queries (not their controls) meet most unlike chance at the top, at most so many."""
    main = points.filter(pl.col("method") == ordered_methods(points)[0])
    asked = main.filter(pl.Series([not is_control(group) for group in main["line"]], dtype=pl.Boolean))
    unlike = pl.col("y").clip(LOWEST, HIGHEST).log(2).abs().max()
    by_source = (asked if len(asked) else main).group_by("source").agg(unlike=unlike)
    return by_source.sort("unlike", "source", descending=[True, False]).head(MOST_SOURCES)["source"].to_list()


def _sheet(points: pl.DataFrame, rows: pl.DataFrame) -> Sheet:
    """Axes over all that is shown, and each source's share of the corpus."""
    points = points.with_columns(pl.col("y", "low", "high").clip(LOWEST, HIGHEST))
    ends = points.select(pl.min_horizontal("y", "low").min().alias("low"), pl.max_horizontal("y", "high").max())
    low, high = ends.row(0)
    powers = (min(-1, math.floor(math.log2(low))), max(1, math.ceil(math.log2(high))))
    cuts = sorted(points["cut_off"].unique())
    ticks = {float(cut): f"{cut // 1000}k" if cut >= 1000 and not cut % 1000 else f"{cut:,}" for cut in cuts}
    x = Scale("", cuts[0] / 1.8, cuts[-1] * 1.8, ticks, log=True)
    shares = dict(rows.group_by("source").agg(pl.col("corpus_share").mean()).iter_rows())
    return Sheet(points, shares, x, 2.0 ** powers[0], 2.0 ** powers[1])


def _row(sheet: Sheet, method: str, end: str, sources: Sequence[str], height: int) -> list[alt.LayerChart]:
    """The panels of one method and end, side by side."""
    part, powers = sheet.points.filter(method=method, end=end), _powers(sheet, height)
    main = Scale([ENDS[end], method_name(method)], sheet.low * 0.9, sheet.high * 1.1, powers, log=True)
    panels = []
    for place, source in enumerate(sources):
        y = replace(main, title="", ticks=dict.fromkeys(powers, "")) if place else main
        panel = Panel(sheet.x, y, WIDE, height, {"minExtent": 0 if place else 36})
        panels.append(_panel(panel, part.filter(source=source), source, sheet.shares))
    return panels


def _powers(sheet: Sheet, height: int) -> dict[float, str]:
    """Powers of two as ticks, always with 1."""
    powers = range(round(math.log2(sheet.low)), round(math.log2(sheet.high)) + 1)
    every = max(1, math.ceil(len(powers) / (height / 17)))
    chosen = [power for power in powers if not power % every]
    words = {power: f"{2**power}×" if power >= 0 else f"1/{2**-power}×" for power in chosen}
    if sheet.low == LOWEST:  # as on any row that has a source which is never met
        words = {power: text for power, text in words.items() if power >= powers[0] + every}
        words[powers[0]] = f"≤ 1/{round(1 / LOWEST)}×"
    return {2.0**power: text for power, text in words.items()}


def _panel(panel: Panel, points: pl.DataFrame, source: str, shares: dict[str, float]) -> alt.LayerChart:
    looks = looks_of(points["line"])
    low, high = panel.x.domain
    turns = {name: place - (len(looks) - 1) / 2 for place, name in enumerate(looks)}
    apart = ((high / low) ** APART) ** pl.col("line").replace_strict(turns, return_dtype=pl.Float64)
    share = shares.get(source)
    parts: list = [panel.rule(1.0, GREY), Word(clipped(source, 20), 0, -20, color=INK, size=11, weight=600)]
    points = points.with_columns(x=pl.col("cut_off") * apart)
    parts += panel.lines(points, looks, dots=panel.height > SMALL) if len(points) else []
    return panel.sized([*parts, Word("" if share is None else f"{100 * share:.2g} % of the corpus", 0, -8, size=9)])


def _subtitle(points: pl.DataFrame, sources: Sequence[str]) -> list[str]:
    count = points["source"].n_unique()
    some = f"; the {len(sources)} of {count} sources that differ most" if len(sources) < count else ""
    return [f"how many times as often as in the corpus, by documents looked at; 95 % intervals over queries{some}"]
