"""study/<study>/evidence: what every analysis found, in the same words, with its uncertainty; queries are the unit.

Each analysis replaces its own partition. Intervals are of a bootstrap over queries, p-values of permutations of
queries, corrected for the tests of the same analysis and method (Holm). A statistic is of a group of queries (a kind, a
task, or the controls of a kind) and may be contrasted with another group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from assets.findings.uncertainty.bootstrap import Comparison, Interval
from assets.findings.uncertainty.corrections import holm
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
            Column("p_value", pa.float64(), "Two-sided, by permutation of queries; NaN: not tested."),
            Column("p_adjusted", pa.float64(), "Corrected for the tests of analysis and method (Holm); NaN: none."),
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
    def sort_key(self) -> tuple:
        return (self.statistic, self.method, self.contrast or "", self.group)


def evidence_rows(analysis: str, found: Iterable[Evidence], stamp: str) -> pa.Table:
    """The rows of one analysis, with p-values corrected for all of its tests of the same method."""
    ordered, rows = sorted(found, key=lambda each: each.sort_key), []
    for method in sorted({each.method for each in ordered}):
        of_method = [each for each in ordered if each.method == method]
        adjusted = holm(np.array([each.p_value for each in of_method], np.float64))
        rows += [
            asdict(each) | {"analysis": analysis, "p_adjusted": float(p), "fingerprint": stamp}
            for each, p in zip(of_method, adjusted, strict=True)
        ]
    return pa.Table.from_pylist(rows, schema=evidence_table("any").schema)
