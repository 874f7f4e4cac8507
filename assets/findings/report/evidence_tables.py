"""The evidence of one analysis as tables: groups beside their controls, comparisons, methods side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from assets.findings.report.subjects import Subject
from assets.specs.methods import in_importance, main_method

METHOD_NAMES = {
    "ekfac": "EK-FAC influence",
    "dot": "Gradient dot product",
    "kfac": "K-FAC influence",
    "cosine": "Gradient cosine",
    "trackstar": "TrackStar-style cosine",
    "astra": "ASTRA-style influence",
    "bm25": "BM25",
}
CONTROL, PAIR = " control", " × "
MOST_ROWS = 40


@dataclass(frozen=True)
class Estimate:
    """One row of the evidence, as far as a cell shows it."""

    value: float
    low: float
    high: float
    chance: float
    p: float
    queries: int


@dataclass(frozen=True)
class GroupRow:
    """A group of queries and, beside it, its controls; `p` is that of their difference."""

    statistic: str
    unit: str
    group: str
    estimate: Estimate
    control: Estimate | None
    p: float


@dataclass(frozen=True)
class TestRow:
    """A group less another one."""

    statistic: str
    unit: str
    group: str
    contrast: str
    estimate: Estimate


@dataclass(frozen=True)
class MethodRow:
    """A group under every method."""

    statistic: str
    unit: str
    group: str
    estimates: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class EvidenceTables:
    """`groups`: the kinds of query; `parts`: tasks, right and wrong answers; rows of a statistic stand together."""

    method: str
    groups: Sequence[GroupRow]
    parts: Sequence[GroupRow]
    tests: Sequence[TestRow]
    methods: Sequence[str]
    by_method: Sequence[MethodRow]
    rows: int

    @property
    def has_controls(self) -> bool:
        return any(row.control for row in self.groups)

    @property
    def has_tests(self) -> bool:
        return any(row.p == row.p for row in self.groups)

    @property
    def has_chance(self) -> bool:
        return any(row.estimate.chance == row.estimate.chance for row in (*self.groups, *self.parts))


def method_name(method: str) -> str:
    """As people write it; two methods that are compared have both names."""
    return " and ".join(METHOD_NAMES.get(each, each) for each in method.split(", "))


def control_of(group: str) -> str:
    """What the controls of a group are called: `reasoning control, same task`; of pairs, the controls of both."""
    if PAIR in group:
        return PAIR.join(f"{each}{CONTROL}" for each in group.split(PAIR))
    kind, comma, rest = group.partition(",")
    return f"{kind}{CONTROL}{comma}{rest}"


def evidence_tables(subject: Subject, evidence: pl.DataFrame, main: str | None) -> EvidenceTables | None:
    """The tables of the analysis; None without evidence. `evidence` has the rows of all analyses."""
    rows = evidence.filter(analysis=subject.analysis)
    own = rows.filter(~pl.col("method").str.contains(", ", literal=True))
    method = main if main in own["method"].to_list() else main_method(own["method"].unique().to_list())
    if method is None:
        return None
    of_main = own.filter(method=method)
    leading = subject.leading(of_main["statistic"].unique().sort().to_list())
    groups, parts = _group_rows(subject, of_main, leading)
    return EvidenceTables(
        method=method,
        groups=groups,
        parts=parts[:MOST_ROWS],
        tests=_test_rows(subject, of_main, leading)[:MOST_ROWS],
        methods=tuple(in_importance(own["method"].unique().to_list())),
        by_method=_method_rows(own, groups),
        rows=len(rows),
    )


def _group_rows(subject: Subject, rows: pl.DataFrame, leading: list[str]) -> tuple[list[GroupRow], list[GroupRow]]:
    groups, parts = [], []
    for statistic in leading:
        all_of = _of(rows, statistic).to_dicts()
        named = {row["group"]: row for row in all_of if row["contrast"] is None}
        p_values = {(row["group"], row["contrast"]): row["p_adjusted"] for row in all_of}
        controls = {control_of(group) for group in named}
        for group, row in named.items():
            if group in controls:
                continue
            control = named.get(control_of(group))
            p = _known(p_values.get((group, control_of(group))))
            unit = subject.unit_of(statistic)
            shown = GroupRow(statistic, unit, group, _estimate(row), control and _estimate(control), p)
            (groups if _is_shown(subject, group) else parts).append(shown)
    return (groups, parts) if groups else (parts, [])


def _is_shown(subject: Subject, group: str) -> bool:
    """Kinds of query; neither tasks nor right and wrong answers, nor pairs with controls."""
    is_kind = not re.search(r": |, (?:right|wrong|same task|other task)$| × ", group)
    return is_kind or bool(re.search(subject.groups, group))


def _test_rows(subject: Subject, rows: pl.DataFrame, leading: list[str]) -> list[TestRow]:
    return [
        TestRow(statistic, unit, row["group"], row["contrast"], _estimate(row))
        for statistic, unit in ((each, subject.unit_of(each, is_difference=True)) for each in leading)
        for row in _of(rows, statistic).filter(pl.col("contrast").is_not_null()).iter_rows(named=True)
    ]


def _method_rows(rows: pl.DataFrame, groups: Sequence[GroupRow]) -> list[MethodRow]:
    """The groups that the page shows, and their controls, under every method; none where there is but one."""
    methods = in_importance(rows["method"].unique().to_list())
    plain = rows.filter(pl.col("contrast").is_null())
    found = {(row["method"], row["statistic"], row["group"]): _estimate(row) for row in plain.iter_rows(named=True)}
    asked = [
        (row, group) for row in groups for group in ([row.group, control_of(row.group)] if row.control else [row.group])
    ]
    if len(methods) < 2:
        return []
    return [
        MethodRow(
            row.statistic, row.unit, group, tuple(found.get((method, row.statistic, group)) for method in methods)
        )
        for row, group in asked
    ]


def _of(rows: pl.DataFrame, statistic: str) -> pl.DataFrame:
    return rows.filter(statistic=statistic).sort("group", "contrast", nulls_last=True)


def _estimate(row: dict) -> Estimate:
    numbers = (row[name] for name in ("estimate", "low", "high", "chance", "p_adjusted"))
    return Estimate(*map(_known, numbers), queries=row["queries"])


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
