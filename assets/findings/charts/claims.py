"""The figure of the claims: each with its effect and interval under every method, and its controls' below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import BLUE, GREEN, GREY, INK, ORANGE, QUIET, Figure, clipped, drawn, in_words
from assets.findings.charts.looks import ANALYSES, method_name, ordered_methods
from assets.findings.charts.panels import Interval, Scale, Stroke, Word, grid, intervals, layered, panel_title
from assets.findings.charts.reading import chance_of, finite, number, with_interval
from assets.findings.claim_rules import FEW_QUERIES, IN_CONTROLS, NOT_FOUND, SPECIFIC

if TYPE_CHECKING:
    import altair as alt

TITLE = "The claims, and whether they hold"
WIDE, NARROW, ROW, HEAD = 170, 116, 28, 24
NUMBERS_AT, VERDICT_AT, BESIDE = WIDE + 12, WIDE + 158, 5
ENDS = ("estimate", "low", "high")
ON_OWN_SCALE = Scale("", -1.08, 1.08)
DEPTH = r"top (\d+)"
SMALLEST = "sources"
"""The analysis of whose claims the smallest depth is shown; of the others it is the largest, as in the paper."""


COLORS = {NOT_FOUND: GREY, FEW_QUERIES: GREY, IN_CONTROLS: ORANGE, SPECIFIC: GREEN}
"""Of what is said of a claim; blue where it holds and the controls leave open what it is specific to."""
SUBTITLE = [
    "effect less what chance gives, with its 95 % interval over queries; hollow below it: the controls",
    "each claim and method on its own scale; of claims at several depths one is shown",
]


@dataclass(frozen=True)
class Line:
    """A row of the figure: a heading (no claim), or a claim; `also` says at how many depths it holds."""

    label: str
    top: float
    claim: str | None = None
    also: str = ""


def claims_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `claims` (controls are in its columns), by analysis: the main method with its numbers, the
    others beside it. Claims are of different quantities, so each has a scale of its own around what chance gives."""
    rows = finite(rows, "estimate") if rows.width else rows
    if rows.is_empty():
        return in_words(TITLE, "No claim could be tested: the study's queries have no kinds to compare.")
    methods = ordered_methods(rows)
    lines = list(_lines(_with_families(rows), methods[0]))
    height = round(lines[-1].top + ROW)
    panels = [
        _panel(rows.filter(method=method), method, lines, height, is_main=method == methods[0]) for method in methods
    ]
    return drawn(TITLE, grid([panels], across=16), subtitle=SUBTITLE)


def _with_families(rows: pl.DataFrame) -> pl.DataFrame:
    """With the depth that a claim is made at (0: at none), and the claim's name without it."""
    depth = pl.col("claim").str.extract(DEPTH).cast(pl.Int64).fill_null(0)
    return rows.with_columns(depth=depth, family=pl.col("claim").str.replace(DEPTH, "top"))


def _lines(rows: pl.DataFrame, method: str) -> Iterator[Line]:
    """Headings and claims from top to bottom; of each family of claims the one at the depth to be shown."""
    top = 0.0
    known = rows["analysis"].unique(maintain_order=True).to_list()
    for analysis in sorted(known, key=lambda name: ANALYSES.index(name) if name in ANALYSES else len(ANALYSES)):
        yield Line(analysis.replace("_", " ").capitalize(), top)
        top += HEAD
        of_analysis = rows.filter(analysis=analysis)
        for family in of_analysis["family"].unique(maintain_order=True):
            members = of_analysis.filter(family=family).sort("depth", descending=analysis != SMALLEST)
            row = members.row(0, named=True)
            main = members.filter(method=method)
            also = f"{main['holds'].sum()} of {len(main)} depths" if len(main) > 1 else ""
            yield Line(_label(row), top, row["claim"], also)
            top += ROW


def _label(row: dict) -> str:
    """The claim's name, and what it compares, where the name does not say so."""
    if row["contrast"] is None or row["group"].split(",")[0] in row["claim"]:
        return row["claim"]
    return f"{row['claim']}: {row['group']} − {row['contrast']}"


def _panel(rows: pl.DataFrame, method: str, lines: Sequence[Line], height: int, *, is_main: bool) -> alt.LayerChart:
    """The column of one method."""
    width = WIDE if is_main else NARROW
    words, found = [panel_title(method_name(method))], []
    for line in lines:
        at = line.top + (HEAD if line.claim is None else ROW) / 2
        words += [_name(line, at)] if is_main else []
        for row in rows.filter(claim=line.claim).iter_rows(named=True) if line.claim else ():
            found += _effect(row, at, is_main=is_main)
            words += _words(row, line, at) if is_main else []
    chance = Stroke(width / 2, 0, width / 2, height, "#d5d9de", 1.0)
    charts = intervals(found, ON_OWN_SCALE, height, ticks=False, labels=False, domain=False)
    return layered([chance, *charts, *words], width, height)


def _name(line: Line, at: float) -> Word:
    if line.claim is None:
        return Word(line.label, -230, at + 3, QUIET, 11, weight=600)
    return Word(clipped(line.label, 44), -222, at, INK)


def _words(row: dict, line: Line, at: float) -> list[Word]:
    """Numbers and what is said of the claim, at the right."""
    verdict, color = row["verdict"], COLORS.get(row["verdict"], BLUE)
    numbers = with_interval({name: _known(row[name]) for name in ENDS})
    chance = "" if _known(row["chance"]) is None else f"by chance {number(row['chance'])}"
    below = ", ".join(filter(None, (chance, chance_of(row["p_adjusted"]).removeprefix(", "))))
    return [
        Word(numbers, NUMBERS_AT, at - 6 if below else at, INK),
        Word(below, NUMBERS_AT, at + 6, size=9),
        Word(verdict, VERDICT_AT, at - 6 if line.also else at, color, weight=600),
        Word(line.also, VERDICT_AT, at + 6, size=9),
    ]


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _effect(row: dict, at: float, *, is_main: bool) -> list[Interval]:
    """The effect and its controls' as shares of the largest of them, chance taken away."""
    chance = _known(row["chance"]) or 0.0
    known = {name: _known(row.get(name)) for name in (*ENDS, *(f"control_{end}" for end in ENDS))}
    less = {name: None if value is None else value - chance for name, value in known.items()}
    unit = max(abs(value) for value in less.values() if value is not None) or 1.0
    shares = {name: None if value is None else value / unit for name, value in less.items()}
    own, controls = ([shares[f"{of}{end}"] for end in ENDS] for of in ("", "control_"))
    color, size = COLORS.get(row["verdict"], BLUE), 44 if is_main else 28
    found = [Interval(*own, y=at - 3, color=color, fill=color, size=size, width=1.8)]
    return [*found, Interval(*controls, y=at + BESIDE, color=GREY, fill="white", size=18, width=1.1)]
