"""Scores on their way into sorted runs: the planned ones are merged and committed one by one, then the dead emptied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl

from assets.study.clustered_runs import Run, holds, influence_by_query_table, live_runs, run_name, told_of
from assets.study.influence import influence_table
from assets.study.run_merging import HELD_ROWS, merged_rows
from assets.study.run_plan import Merge, planned

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.lake.lake import Commit, Lake

#: write(run, rows, what the commit's metadata says, facts for people): one commit that replaces the partition `run`.
Write = Callable[[str, "pa.Table | Iterator[pa.RecordBatch]", Mapping[str, str], dict], "Commit"]
RUN_ROWS = 20_000_000
"""Rows of a run, unless one shard has more: what one more shard can cost at most, and of a study with a single query
what a step holds in memory. On its way into the lake a run waits in TMPDIR, about 100 bytes a row."""


class Clustering:
    """The runs of a study while one step changes them. Each commit leaves a whole table, for it names the live runs.

    `anew`: of what is stored nothing is kept.
    """

    def __init__(
        self,
        lake: Lake,
        study: str,
        scores_version: int,
        write: Write,
        *,
        anew: bool = False,
        run_rows: int = RUN_ROWS,
        held_rows: int = HELD_ROWS,
    ) -> None:
        self.lake, self.write, self.run_rows, self.held_rows = lake, write, run_rows, held_rows
        self.table, self.scores, self.scores_version = (
            influence_by_query_table(study),
            influence_table(study),
            scores_version,
        )
        self.fingerprints = lake.fingerprints(self.scores, version=scores_version)
        lake.ensure(self.table)
        self.version = lake.version(self.table)
        self.live = {} if anew else live_runs(lake, self.table, self.version)

    def planned(self) -> list[Merge]:
        rows = self.lake.partition_rows(self.scores, version=self.scores_version)
        return planned(self.live.values(), self.fingerprints, rows, self.run_rows)

    def merge(self, merge: Merge) -> None:
        """Writes a run, in whose commit those that it replaces are live no more."""
        shards = {shard: self.fingerprints[shard] for shard in sorted(merge.all_shards)}
        name = run_name(shards)
        for replaced in merge.runs:
            del self.live[replaced]
        rows = merged_rows(self._sources(merge), name, self.held_rows)
        told = told_of(self.live.values(), name, shards, merge.rows)
        commit = self.write(name, rows, told, self._facts(merge.rows))
        self.live[name] = Run(name, shards, merge.rows, commit.version)

    def empty_dead(self) -> None:
        """Empties the partitions of no live run, what earlier steps that were killed have left among them."""
        self.live = {name: run for name, run in self.live.items() if run.shards.items() <= self.fingerprints.items()}
        for name in self.lake.partition_rows(self.table).keys() - self.live.keys():
            self.write(name, self.table.schema.empty_table(), told_of(self.live.values()), self._facts())

    def is_whole(self) -> bool:
        """Whether the newest version holds what it should: a step that ran beside this one may have changed it."""
        return holds(live_runs(self.lake, self.table, self.lake.version(self.table)), self.fingerprints)

    def _sources(self, merge: Merge) -> list[pl.LazyFrame]:
        stored = self.lake.scan(self.table, version=self.version, allow_empty=True)
        taken = [stored.filter(pl.col("run") == name, pl.col("shard").is_in(held)) for name, held in merge.runs.items()]
        if merge.shards:
            scores = self.lake.scan(self.scores, version=self.scores_version)
            taken.append(scores.filter(pl.col("shard").is_in(merge.shards)))
        return taken

    def _facts(self, new: int = 0) -> dict[str, int]:
        rows = sum(run.rows for run in self.live.values()) + new
        return {"runs": len(self.live) + bool(new), "dagster/row_count": rows}
