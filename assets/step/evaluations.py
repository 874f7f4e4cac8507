"""What Dagster was last told of a check, which is where the next step begins: it looks at some shards of many.

Several runs may look at a table at a time, each at shards of its own. Dagster keeps one row per check and run, made
when the run is planned and filled when the check is evaluated, and shows the row of the run that was planned last. So
the last evaluation is the one with the latest time, and not the one that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg

FAILED, FAILED_OF, EARLIER = "failed", "fingerprints of what failed", "failed in earlier runs"
LOOKED_AT, LAST_LOOKED_AT = "looked at", "last looked at"
RECENT_EVALUATIONS = 25
"""Evaluations among which the last one is looked for: more than runs that go on at a time."""
RECORDS_PER_QUERY = 100


@dataclass(frozen=True)
class LastEvaluation:
    """The newest evaluation of a check."""

    problems: dict[str, str] = field(default_factory=dict)  # by shard; "" for a table in one piece
    fingerprints: dict[str, str] = field(default_factory=dict)  # by shard, of the rows that had the problem
    looked_at: float | None = None  # when a step last looked at rows, in seconds since 1970; None: never
    facts: dict[str, dg.MetadataValue] = field(default_factory=dict)
    is_overtaken: bool = False  # Dagster shows another run's evaluation, which stands


def last_evaluation(instance: dg.DagsterInstance, key: dg.AssetCheckKey, run_id: str) -> LastEvaluation:
    """The newest evaluation of a check, as the run that asks is to know of it."""
    shown, found = None, []
    for record in _records(instance, key):
        evaluation = record.event.dagster_event.event_specific_data if record.event else None
        is_evaluated = isinstance(evaluation, dg.AssetCheckEvaluation)
        shown = shown or (is_evaluated, record.run_id)
        if is_evaluated:
            found.append((record.event.timestamp, record.id, evaluation))
        if len(found) == RECENT_EVALUATIONS:
            break
    if not found:
        return LastEvaluation()
    timestamp, _, newest = max(found, key=lambda each: each[:2])
    is_overtaken = shown[0] and shown[1] != run_id
    return _read(newest, timestamp, is_overtaken)


def _records(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Iterator:
    """From the run that was planned last; those that wait or never came to the check are among them.

    `instance.get_latest_asset_check_evaluation_record` would give the row of the run that asks.
    """
    cursor = None
    while True:
        page = instance.event_log_storage.get_asset_check_execution_history(key, RECORDS_PER_QUERY, cursor)
        yield from page
        if len(page) < RECORDS_PER_QUERY:
            return
        cursor = page[-1].id


def _read(evaluation: dg.AssetCheckEvaluation, timestamp: float, is_overtaken: bool) -> LastEvaluation:
    facts = dict(evaluation.metadata)
    told = {name: facts.pop(name).value for name in (FAILED, FAILED_OF, EARLIER, LOOKED_AT) if name in facts}
    looked_at = facts.pop(LAST_LOOKED_AT).value if LAST_LOOKED_AT in facts else None
    if looked_at is None and told.get(LOOKED_AT):
        looked_at = timestamp
    return LastEvaluation(told.get(FAILED, {}), told.get(FAILED_OF, {}), looked_at, facts, is_overtaken)
