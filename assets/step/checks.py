"""Checks of assets: what must hold of a table's rows, said next to the asset and shown with it in the Dagster UI.

A step evaluates its checks on the rows that it is about to write or has just written, shard by shard. A blocking check
that fails keeps the rows of its shard out of the lake (or, where the table is one piece, fails the step), so that
nothing is computed from them.

A result is about the whole table, though a step looks at some of its shards: what was found wrong with the others stays
in it until a step has looked at them again. Such a problem of an earlier run is a warning, since it must not stop the
shards of this one. What was kept has nothing new to look at: then the last result stands.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg

from assets.lake.tables import Table
from assets.step.evaluations import EARLIER, FAILED, FAILED_OF, LAST_LOOKED_AT, LOOKED_AT, LastEvaluation

PROBLEMS_TOLD = 5


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
    """What a step found for one check, over the shards that it looked at ("" for a table in one piece)."""

    check: Check
    looks: int = 0
    looked_at: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)  # of the rows that have the problem
    metadata: dict = field(default_factory=dict)

    def add(self, shard: str, problem: str | None, fingerprint: str | None) -> None:
        self.looks += 1
        self.looked_at.add(shard)
        if problem:
            self.problems[shard] = problem
            if fingerprint is not None:
                self.fingerprints[shard] = fingerprint

    def unmended(self, last: LastEvaluation, shards: Collection[str] | None, kept: Mapping[str, str]) -> dict[str, str]:
        """Problems of earlier runs that nobody has looked at since, of `shards` that there still are.

        A shard that is `kept` with another fingerprint has the rows of other inputs than those that failed, and they
        passed before they were written.
        """
        return {
            shard: problem
            for shard, problem in last.problems.items()
            if shard not in self.looked_at
            and (not shard or shards is None or shard in shards)
            and (shard not in kept or kept[shard] == last.fingerprints.get(shard, kept[shard]))
        }

    def result(self, last: LastEvaluation, unmended: Mapping[str, str]) -> dg.AssetCheckResult:
        """The state of the whole table: what this step found, and the problems that are left of earlier runs."""
        problems = {**unmended, **self.problems}
        of = {**last.fingerprints, **self.fingerprints}
        looked_at = time.time() if self.looks else last.looked_at
        facts = {} if looked_at is None else {LAST_LOOKED_AT: dg.MetadataValue.timestamp(looked_at)}
        if problems:
            facts[FAILED] = dg.MetadataValue.json(problems)
            facts[FAILED_OF] = dg.MetadataValue.json({shard: of[shard] for shard in problems if shard in of})
        if unmended:
            facts[EARLIER] = dg.MetadataValue.json(sorted(unmended))
        return dg.AssetCheckResult(
            passed=not problems,
            asset_key=self.check.table.asset_key,
            check_name=self.check.name,
            severity=dg.AssetCheckSeverity.WARN if problems and not self.problems else dg.AssetCheckSeverity.ERROR,
            description=self._description(last, unmended),
            metadata={LOOKED_AT: self.looks, **(self.metadata if self.looks else last.facts), **facts},
        )

    def _description(self, last: LastEvaluation, unmended: Mapping[str, str]) -> str | None:
        told = [_listed(self.problems)] if self.problems else []
        if unmended:
            told.append(f"Found by an earlier run, and not looked at again by this one: {_listed(unmended)}")
        if not self.looks and last.looked_at is not None:
            told.append(f"Nothing was written, so there was nothing to look at. Last looked at {_day(last.looked_at)}.")
        elif not self.looks:
            told.append("Nothing was written: what is there passed when it was.")
        return " ".join(told) or None


def as_evaluation(check: Check, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """The same outside of a run."""
    return dg.AssetCheckEvaluation(
        asset_key=check.table.asset_key,
        check_name=check.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=check.blocking,
    )


def check_specs(checks: Iterable[Check]) -> list[dg.AssetCheckSpec]:
    return [check.spec for check in checks]


def _listed(problems: Mapping[str, str]) -> str:
    more = len(problems) - PROBLEMS_TOLD
    return "; ".join(list(problems.values())[:PROBLEMS_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _day(timestamp: float) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"
