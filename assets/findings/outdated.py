"""What is summed up of shards otherwise than their scores, documents and queries are now, told by fingerprints alone.

Steps that add shards up refuse it: they may run without the step that sums up, which is where a new, a changed or a
removed shard would otherwise be left out, or counted for ever, in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from assets.findings.answer_statistics import (
    answer_statistics_table,
    answers_stamps,
    kind_statistics_table,
    kinds_stamps,
)
from assets.findings.score_statistics import score_statistics_table, source_statistics_table
from assets.findings.shard_statistics import statistics_stamps
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from assets.specs.study import Study
    from assets.step.step import Step
    from assets.step.stored_now import StoredNow

Stamps = Callable[["Step | StoredNow", "Study"], dict[str, str]]
OF_TABLES: tuple[tuple[Callable[[str], Table], Stamps], ...] = (
    (score_statistics_table, statistics_stamps),
    (source_statistics_table, statistics_stamps),
    (answer_statistics_table, answers_stamps),
    (kind_statistics_table, kinds_stamps),
)
"""What each table's fingerprints are when it is up to date. Comparisons with other studies are not among them: they
refuse by themselves what is behind."""


def refuse_outdated(step: Step, study: Study, tables: Iterable[Table]) -> None:
    """Raises BadInput where one of the tables is not of all shards as they are now."""
    if problem := outdated_shards(step, study, tables):
        raise BadInput(problem)


def outdated_shards(stored: Step | StoredNow, study: Study, tables: Iterable[Table]) -> str | None:
    """A sentence on the first of the tables that is not; None where all are."""
    paths = {table.path for table in tables}
    named = [(table_of(study.name), stamps_of) for table_of, stamps_of in OF_TABLES]
    wanted = [(table, stamps_of) for table, stamps_of in named if table.path in paths]
    stamps = {stamps_of: stamps_of(stored, study) for stamps_of in dict.fromkeys(of for _, of in wanted)}
    for table, stamps_of in wanted:
        found, expected = stored.shard_fingerprints(table), stamps[stamps_of]
        # A table that holds nothing at all has nothing to tell of any shard: no answers are sought, no rules fit.
        behind = {shard for shard in {*found, *expected} if found and found.get(shard) != expected.get(shard)}
        if behind:
            return (
                f"study {study.name}: {table.path} is not of the scores as they are now in {len(behind)} of "
                f"{len(expected)} shards (such as {min(behind)}); materialize it of these shards first"
            )
    return None
