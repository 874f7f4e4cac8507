"""The means beside the matrix of correlations: within tasks and kinds, between kinds, and of two methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import INK, QUIET, clipped
from assets.findings.charts.looks import Look, is_control, method_name
from assets.findings.charts.panels import Interval, Scale, Stroke, Word, intervals, layered
from assets.findings.charts.reading import means, number

if TYPE_CHECKING:
    import altair as alt

WITHIN, MATCHED, IN_STUDY = "mean correlation", "correlation of two methods", "correlation with study "
WIDE, ROW, MOST_ROWS, ZERO = 130, 19, 22, "#d5d9de"
TASKS_NAMED = 4
"""The tasks of a group that has more are left to the matrix."""


def means_panel(evidence: pl.DataFrame, method: str, looks: Mapping[str, Look]) -> alt.LayerChart | None:
    """A dot with its interval for each mean; None where evidence has none."""
    rows = list(_rows(means(evidence), method, looks))[:MOST_ROWS]
    if not rows:
        return None
    ends = [row[name] for _, _, row in rows for name in ("estimate", "low", "high") if row[name] is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.04 * ((high - low) or 1.0)
    scale, height = Scale("", low - room, high + room), ROW * len(rows)
    zero = scale.place(0.0, WIDE)
    words = [Word("mean r, with its 95 % interval", -8, -9, INK, 11, weight=600)]
    found = []
    for place, (label, look, row) in enumerate(rows):
        at, color = ROW * (place + 0.5), QUIET if look.is_quiet else look.color
        fill = "white" if look.is_quiet else look.color
        numbers = (row[name] for name in ("estimate", "low", "high"))
        found.append(Interval(*numbers, y=at, color=look.color, fill=fill, size=34))
        words.append(Word(clipped(label, 40), -8, at, color, align="right"))
        words.append(Word(number(row["estimate"], 2), WIDE + 10, at, color))
    charts = intervals(found, scale, height, grid=False, tickCount=4)
    return layered([Stroke(zero, 0, zero, height, ZERO, 1.0), *charts, *words], WIDE, height)


def _rows(shown: pl.DataFrame, method: str, looks: Mapping[str, Look]) -> Iterator[tuple[str, Look, dict]]:
    """Label, look and evidence: of each kind and its tasks, between kinds, of controls, between methods, and between
    studies."""
    within = {row["group"]: row for row in shown.filter(method=method, statistic=WITHIN).iter_rows(named=True)}
    kinds = [group for group in looks if not is_control(group)]
    for kind in kinds:
        tasks = [name for name in within if name.startswith(f"{kind}: ")]
        names = {kind: f"{kind}, all pairs", f"{kind}, same task": f"{kind}, same task"}
        names |= {name: name.removeprefix(f"{kind}: ") for name in tasks} if len(tasks) <= TASKS_NAMED else {}
        yield from ((label, looks[kind], within[name]) for name, label in names.items() if name in within)
    between = Look(INK)
    for pair in (f"{one} × {other}" for one, other in combinations(sorted(kinds), 2)):
        if pair in within:
            yield pair, between, within[pair]
    for group in looks:
        for name in (group, f"{group}, same task"):
            if is_control(group) and name in within:
                yield name, looks[group], within[name]
    for row in shown.filter(statistic=MATCHED).iter_rows(named=True):
        others = [each for each in row["method"].split(", ") if each != method]
        if len(others) == 1 and row["group"] in kinds:
            yield f"{row['group']}, with {method_name(others[0])}", Look(QUIET), row
    for row in shown.filter(pl.col("statistic").str.starts_with(IN_STUDY), method=method).iter_rows(named=True):
        if row["group"] in kinds:
            yield f"{row['group']}, with study {row['statistic'].removeprefix(IN_STUDY)}", Look(QUIET), row
