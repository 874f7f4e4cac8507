"""What a view reads of each of its tables: the table itself, or what stands for it by the tables' logs.

Scores of a study are read from its clustered table where that holds them as they are now, and of a clustered table only
the live runs are shown. At another moment than now each table is read itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.lake.lake import Lake
from assets.lake.stored import stored_table
from assets.lake.tables import Table
from assets.study.clustered_reading import LiveRuns, live_version, standing_in
from assets.study.clustered_runs import influence_by_query_table
from assets.study.influence import influence_table
from orchestration.results.top_scores import TopScores
from orchestration.results.views import Moment, View

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as ds

SCORES, BY_QUERY = influence_table("any").key[-1], influence_by_query_table("any").key[-1]


@dataclass(frozen=True)
class Source:
    """One table of a view, and whose it is; `read` is the version, None for the newest."""

    owner: str
    table: Table
    lake: Lake
    version: int | None
    runs: LiveRuns | None = None

    @property
    def columns(self) -> list[str]:
        """Those of the table, whatever stands for it."""
        return self.table.schema.names

    @property
    def read(self) -> Table:
        """The table whose files are read."""
        return self.runs.table if self.runs else self.table

    def frame(self) -> pl.LazyFrame:
        if self.runs:
            return self.runs.frame().select(self.columns)
        return self.lake.scan(self.table, version=self.version, allow_empty=True)

    def dataset(self, top: TopScores | None = None) -> ds.Dataset:
        """With at least the table's columns; where only some scores are asked for, at least those."""
        if self.runs and top and top.wanted.get("study", self.owner) == self.owner:
            wanted = {name: value for name, value in top.wanted.items() if name != "study"}
            return self.runs.end_groups(wanted, top.count, bottom=top.bottom)
        return self.runs.dataset() if self.runs else self.lake.dataset(self.table, version=self.version)


def sources_of(lake: Lake, view: View, moment: Moment) -> Iterator[Source]:
    """Raises BadInput where a table was not there at that moment."""
    for owner, path in view.paths.items():
        version = moment.version(lake, path)
        yield Source(owner, stored_table(lake.place, path), lake, version, _runs(lake, view, owner, version))


def _runs(lake: Lake, view: View, owner: str, version: int | None) -> LiveRuns | None:
    if view.family != "study":
        return None
    if view.name == BY_QUERY:
        return live_version(lake, owner, version)
    return standing_in(lake, owner) if view.name == SCORES and version is None else None
