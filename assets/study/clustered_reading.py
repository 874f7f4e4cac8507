"""Scores read from the clustered table in place of influence, where the logs say that it holds the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

import pyarrow as pa

from assets.lake.tables import Table
from assets.study.clustered_runs import holds, influence_by_query_table, live_runs
from assets.study.influence import influence_table
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as ds

    from assets.lake.lake import Lake

END_COLUMNS = ("document_id", "shard", "score")


@dataclass(frozen=True)
class LiveRuns:
    """The live runs of one version of a study's clustered table."""

    lake: Lake
    table: Table
    version: int
    runs: tuple[str, ...]

    def frame(self) -> pl.LazyFrame:
        """All their rows, with the column that names the run."""
        import polars as pl

        frame = self.lake.scan(self.table, version=self.version, allow_empty=True)
        return frame.filter(pl.col("run").is_in(self.runs))

    def dataset(self) -> ds.Dataset:
        """The same for readers of Arrow, which skip by the files' statistics."""
        import pyarrow.dataset as ds

        whole = self.lake.dataset(self.table, version=self.version)
        live = list(whole.get_fragments(filter=ds.field("run").isin(pa.array(self.runs, pa.string()))))
        return ds.FileSystemDataset(live, whole.schema, whole.format, whole.filesystem)

    def end_groups(self, wanted: Mapping[str, str], count: int, *, bottom: bool = False) -> ds.Dataset:
        """The row groups that can hold the `count` highest (lowest) scores of rows with these values, ties included.

        Told by statistics alone: groups that hold nothing but wanted rows, with `count` rows together, bound the last
        of them; what is wholly beyond that is left out.
        """
        import pyarrow.dataset as ds

        whole = self.dataset()
        groups = list(_wanted_groups(whole, wanted, bottom))
        rows, bound = 0, None
        for group in sorted((each for each in groups if each.is_whole), key=lambda each: each.worst):
            rows += group.rows
            if rows >= count:
                bound = group.worst
                break
        kept = [each.fragment for each in groups if bound is None or each.best <= bound]
        return ds.FileSystemDataset(kept, whole.schema, whole.format, whole.filesystem)

    def end_of_query(self, method: str, query_id: str, count: int, *, bottom: bool = False) -> pl.DataFrame:
        """document_id, shard and score of the `count` highest (lowest) scores, best first, ties by document id.

        Of each run the row groups are read in the order of their best scores, until none that is left can hold a
        better one than those found.
        """
        import polars as pl
        import pyarrow.dataset as ds

        wanted = (ds.field("method") == method) & (ds.field("query_id") == query_id)
        with self.lake.reading([self.table]):
            found = pl.DataFrame(schema={"document_id": pl.String, "shard": pl.String, "score": pl.Float32})
            for best, group in _row_groups(self.dataset(), wanted, bottom):
                if len(found) == count and _is_worse(best, found["score"][-1], bottom):
                    break
                rows = pl.from_arrow(group.to_table(columns=list(END_COLUMNS), filter=wanted))
                found = (
                    pl.concat([found, rows]).sort("score", "document_id", descending=[not bottom, False]).head(count)
                )
        return found


def live_version(lake: Lake, study: str, version: int | None = None) -> LiveRuns:
    """The live runs of a version of the table (the newest unless named)."""
    table = influence_by_query_table(study)
    version = lake.version(table) if version is None else version
    return LiveRuns(lake, table, version, tuple(live_runs(lake, table, version)))


def standing_in(lake: Lake, study: str) -> LiveRuns | None:
    """The live runs where they hold exactly the scores that influence has now; else None.

    A clustered table that cannot be read is none: influence has all that it holds.
    """
    table = influence_by_query_table(study)
    try:
        version = lake.version(table)
        if version is None:
            return None
        runs = live_runs(lake, table, version)
    except BadInput:
        return None
    if not holds(runs, lake.fingerprints(influence_table(study))):
        return None
    return LiveRuns(lake, table, version, tuple(runs))


@dataclass(frozen=True)
class _Group:
    """A row group that holds wanted rows, and nothing else if it `is_whole`; scores from the best on, so that less is
    better."""

    fragment: ds.ParquetFileFragment
    rows: int
    is_whole: bool
    best: float
    worst: float


def _wanted_groups(dataset: ds.Dataset, wanted: Mapping[str, str], bottom: bool) -> Iterator[_Group]:
    import pyarrow.dataset as ds

    condition = reduce(and_, (ds.field(name) == value for name, value in wanted.items()))
    for fragment in dataset.get_fragments(filter=condition):
        for group in fragment.subset(filter=condition).row_groups:
            told = group.statistics
            is_whole = all(told[name]["min"] == value == told[name]["max"] for name, value in wanted.items())
            low, high = told["score"]["min"], told["score"]["max"]
            best, worst = (low, high) if bottom else (-high, -low)
            yield _Group(fragment.subset(row_group_ids=[group.id]), group.num_rows, is_whole, best, worst)


def _row_groups(dataset: ds.Dataset, wanted: ds.Expression, bottom: bool) -> list[tuple[float, ds.ParquetFileFragment]]:
    """(best score, row group) of all that can hold wanted rows, the best first."""
    groups = []
    for fragment in dataset.get_fragments(filter=wanted):
        for group in fragment.subset(filter=wanted).row_groups:
            best = group.statistics["score"]["min" if bottom else "max"]
            groups.append((best, fragment.subset(row_group_ids=[group.id])))
    return sorted(groups, key=lambda pair: pair[0] if bottom else -pair[0])


def _is_worse(best: float, than: float, bottom: bool) -> bool:
    return best > than if bottom else best < than
