"""Checks of assets: what must hold of a table's rows, said next to the asset and shown with it in the Dagster UI.

A step evaluates its checks on the rows that it is about to write or has just written, shard by shard. A blocking check
that fails keeps the rows of its shard out of the lake (or, where the table is one piece, fails the step), so that
nothing is computed from them. A check of results that were kept has nothing new to look at: they passed when they were
written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import dagster as dg

from assets.lake.tables import Table


class CheckFailedError(Exception):
    """A blocking check that failed: running the step again would give the same rows."""


@dataclass(frozen=True)
class Check:
    """One statement about a table; `description` reads as a sentence."""

    table: Table
    name: str
    description: str
    blocking: bool = True

    @property
    def key(self) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(self.table.asset_key, self.name)

    @property
    def spec(self) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(
            self.name, asset=self.table.asset_key, description=self.description, blocking=self.blocking
        )


@dataclass
class Verdict:
    """What a step found for one check, over all of its shards."""

    check: Check
    looked_at: int = 0
    problems: dict[str, str] = field(default_factory=dict)  # by shard; "" for a table in one piece
    metadata: dict = field(default_factory=dict)

    def result(self) -> dg.AssetCheckResult:
        description = "; ".join(list(self.problems.values())[:5]) or (
            None if self.looked_at else "Nothing was written: what is there passed when it was."
        )
        listed = {"failed": dg.MetadataValue.json(self.problems)} if self.problems else {}
        return dg.AssetCheckResult(
            passed=not self.problems,
            asset_key=self.check.table.asset_key,
            check_name=self.check.name,
            severity=dg.AssetCheckSeverity.ERROR,
            description=description,
            metadata={"looked at": self.looked_at, **self.metadata, **listed},
        )


def check_specs(checks: Iterable[Check]) -> list[dg.AssetCheckSpec]:
    return [check.spec for check in checks]
