"""The claims as the page states them: one of each family in full, with its numbers, and all of them in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from assets.findings.claim_rules import SPECIFIC
from assets.findings.report.evidence_tables import Estimate
from assets.findings.report.subjects import SUBJECTS, in_order
from assets.specs.methods import in_importance

DEPTH = re.compile(r"top (\d+)$")
SMALLEST_DEPTH = ("sources",)
"""Analyses of whose claims that at the smallest depth is stated in full; of others the largest, as in the paper."""
EVEN = 0.5
"""A share that chance reaches so often has little left to show: in a small corpus the next smaller depth is stated."""
MOST_OF_ONE_ANALYSIS = 4


@dataclass(frozen=True)
class Claim:
    """One claim under one method. `in_controls` and `more` (than in the controls) are None where nobody knows;
    `verdict` has the words of the table."""

    name: str
    method: str
    sentence: str
    analysis: str
    unit: str
    is_difference: bool
    holds: bool
    in_controls: bool | None
    more: bool | None
    verdict: str
    estimate: Estimate
    control: Estimate | None
    depths: str = ""

    @property
    def look(self) -> str:
        return "no" if not self.holds else "yes" if self.verdict == SPECIFIC else "part"

    @property
    def controls(self) -> str:
        if self.control is None:
            return "there are no controls to compare with"
        if self.in_controls is None:
            return "the controls are too few to tell"
        if self.in_controls:
            return "the controls show it too"
        if not self.holds:
            return "the controls do not show it"
        apart = "and their effect is smaller" if self.more else "but neither is their effect shown to be smaller"
        return f"the controls do not show it, {apart}"


def all_claims(rows: pl.DataFrame) -> list[Claim]:
    """Of every method, the main one first, in the order of the page's sections."""
    order, methods = [subject.analysis for subject in SUBJECTS], in_importance(rows["method"].unique().to_list())
    found = [_claim(row) for row in rows.iter_rows(named=True)]
    return sorted(
        found,
        key=lambda claim: (
            methods.index(claim.method),
            order.index(claim.analysis) if claim.analysis in order else len(order),
            in_order(claim.name),
        ),
    )


def stated_claims(rows: pl.DataFrame, method: str) -> list[Claim]:
    """Of one method, one claim of each family (those that differ in depth only); of an analysis with many, first those
    that hold, and not in the controls."""
    families: dict[tuple, list[dict]] = {}
    for row in rows.filter(method=method).iter_rows(named=True):
        key = (row["analysis"], row["group"], row["contrast"], DEPTH.sub("top", row["statistic"]))
        families.setdefault(key, []).append(row)
    stated = pl.DataFrame(list(_one_of_each(families)), schema=rows.schema, orient="row")
    claims = [_with_depths(claim, families) for claim in all_claims(stated)] if len(stated) else []
    return [claim for subject in dict.fromkeys(each.analysis for each in claims) for claim in _first(claims, subject)]


def _one_of_each(families: dict[tuple, list[dict]]) -> Iterator[dict]:
    for (analysis, *_), rows in families.items():
        if analysis in SMALLEST_DEPTH:
            yield min(rows, key=_depth)
        else:
            telling = [row for row in rows if not (row["chance"] or 0.0) >= EVEN]  # or no number
            yield max(telling, key=_depth) if telling else min(rows, key=_depth)


def _with_depths(claim: Claim, families: dict[tuple, list[dict]]) -> Claim:
    family = next(rows for rows in families.values() if any(row["claim"] == claim.name for row in rows))
    if len(family) < 2:
        return claim
    held = [f"{_depth(row):,}" for row in sorted(family, key=_depth) if row["holds"]]
    which = f"({', '.join(held)})" if 0 < len(held) < len(family) else ""
    depths = f"holds at {len(held) or 'none'} of {len(family)} depths {which}".strip()
    return replace(claim, depths=depths)


def _first(claims: Sequence[Claim], analysis: str) -> list[Claim]:
    own = [claim for claim in claims if claim.analysis == analysis]
    if len(own) <= MOST_OF_ONE_ANALYSIS:
        return own
    return sorted(own, key=lambda claim: ("yes", "part", "no").index(claim.look))[:MOST_OF_ONE_ANALYSIS]


def _depth(row: dict) -> int:
    found = DEPTH.search(row["statistic"])
    return int(found[1]) if found else 0


def _claim(row: dict) -> Claim:
    subject = next((each for each in SUBJECTS if each.analysis == row["analysis"]), None)
    control = Estimate(
        *(_number(row[f"control_{name}"]) for name in ("estimate", "low", "high")),
        chance=math.nan,
        p=_number(row["control_p_adjusted"]),
        queries=row["control_queries"],
    )
    return Claim(
        name=row["claim"],
        **{name: row[name] for name in ("method", "sentence", "analysis", "holds", "in_controls")},
        unit=subject.unit_of(row["statistic"], is_difference=row["contrast"] is not None) if subject else "",
        is_difference=row["contrast"] is not None,
        more=row["more_than_controls"],
        verdict=row["verdict"],
        estimate=Estimate(
            *(_number(row[name]) for name in ("estimate", "low", "high", "chance", "p_adjusted")), row["queries"]
        ),
        control=control if control.queries else None,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
