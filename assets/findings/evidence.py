"""study/<study>/evidence: what every analysis found, in the same words, with its uncertainty; queries are the unit.

Each analysis replaces its own partition. Intervals are of a bootstrap over queries. P-values of contrasts are of
permutations of queries, those of means are against chance. Both are corrected (Holm) within a family, by a fixed rule:
of one analysis and method all contrasts are one, all means of kinds that are tested against chance another, and those
of the kinds' controls a third. A statistic is of a group of queries (a kind, a task, or the controls of a kind) and may
be contrasted with another group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from assets.findings.groups import CONTROL
from assets.findings.uncertainty.bootstrap import Comparison, Interval
from assets.findings.uncertainty.corrections import holm, holm_at_best
from assets.lake.columns import METHOD, STAMP
from assets.lake.tables import Column, Table


def evidence_table(study: str) -> Table:
    return Table(
        key=("study", study, "evidence"),
        grain="one row per analysis, method, statistic, group of queries and contrast",
        columns=(
            Column("analysis", pa.string(), "Asset that found it: correlation, magnitude, power_law, …"),
            METHOD,
            Column("statistic", pa.string(), "What is estimated."),
            Column("group", pa.string(), "Queries that it is estimated over: a kind, a task, or a kind's controls."),
            Column("contrast", pa.string(), "Queries or chance that the group is compared with.", nullable=True),
            Column("estimate", pa.float64(), "The mean over queries, or the difference of means in a contrast."),
            Column("low", pa.float64(), "Lower end of the 95 % interval, by bootstrap over queries; NaN: unknown."),
            Column("high", pa.float64(), "Upper end of the 95 % interval; NaN: unknown."),
            Column(
                "p_value",
                pa.float64(),
                "Two-sided: of a contrast by permutation of queries, of a mean against chance; NaN: not tested.",
            ),
            Column(
                "p_adjusted",
                pa.float64(),
                "Corrected (Holm) for the contrasts of analysis and method, or for its means of kinds, or of controls.",
            ),
            Column(
                "smallest_p",
                pa.float64(),
                "The smallest corrected p-value that so many queries and resamples could have; from 0.05 on: too few.",
            ),
            Column("queries", pa.int32(), "Queries of the group."),
            Column("chance", pa.float64(), "What would be expected by chance; NaN: does not apply."),
            STAMP,
        ),
        partition_by=("analysis",),
    )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One statistic of one group of queries."""

    method: str
    statistic: str
    group: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    p_value: float = float("nan")
    smallest_p: float = float("nan")
    queries: int
    contrast: str | None = None
    chance: float = float("nan")

    @classmethod
    def of_group(cls, group: str, interval: Interval, queries: int, chance: float = float("nan"), **named) -> Evidence:
        """A group's mean; `named` are method and statistic."""
        return cls(group=group, queries=queries, chance=chance, **interval._asdict(), **named)

    @classmethod
    def of_contrast(cls, group: str, contrast: str, comparison: Comparison, queries: int, **named) -> Evidence:
        """A group less another one."""
        return cls(group=group, contrast=contrast, queries=queries, **comparison._asdict(), **named)

    @property
    def family(self) -> str:
        """The tests that this one is corrected with."""
        if self.contrast is not None:
            return "contrasts"
        return "controls" if self.group.endswith(CONTROL) else "kinds"

    @property
    def sort_key(self) -> tuple:
        return (self.statistic, self.method, self.contrast or "", self.group)


def evidence_rows(analysis: str, found: Sequence[Evidence], stamp: str) -> pa.Table:
    """The rows of one analysis, with p-values corrected for the tests of the same method and family."""
    ordered, rows = sorted(found, key=lambda each: (each.method, each.sort_key)), [None] * len(found)
    for named in {(each.method, each.family) for each in ordered}:
        places = [place for place, each in enumerate(ordered) if (each.method, each.family) == named]
        p, smallest = (
            np.array([getattr(ordered[place], name) for place in places], np.float64)
            for name in ("p_value", "smallest_p")
        )
        for place, *numbers in zip(places, holm(p), holm_at_best(p, smallest), strict=True):
            corrected = dict(zip(("p_adjusted", "smallest_p"), map(float, numbers), strict=True))
            rows[place] = asdict(ordered[place]) | corrected | {"analysis": analysis, "fingerprint": stamp}
    return pa.Table.from_pylist(rows, schema=evidence_table("any").schema)
