"""What a step reads: tables at versions that it names, the same from its first look to its last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.tracking.tracked_run import StepRun
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


class Reading:
    """The lake as one step sees it, or whoever else reads it without a run."""

    def __init__(self, lake: Lake, tracking_run: StepRun | None = None) -> None:
        self.lake, self.tracking = lake, tracking_run or StepRun(None, None, None, "")
        self.versions: dict[str, int] = {}
        self.tables_read: list[Table] = []
        self._stored: dict[str, dict[str, str]] = {}

    def version(self, table: Table) -> int:
        """The version of `table` that this step reads, the same for the whole step."""
        if table.path not in self.versions:
            version = self.lake.version(table)
            if version is None:
                raise BadInput(f"{table.path}: is not in the lake yet; materialize that asset first")
            self.pin(table, version)
        return self.versions[table.path]

    def pin(self, table: Table, version: int) -> None:
        """Reads `table` at this version, as a pinned sample asks."""
        self.versions[table.path] = version
        self.tables_read.append(table)
        self.tracking.log_input(table.path, version)

    def scan(self, table: Table, **where: str) -> pl.LazyFrame:
        """The rows of `table` (of one partition) at this step's version; a table without rows is an empty frame."""
        return self.lake.scan(table, version=self.version(table), where=where or None, allow_empty=True)

    def batches(self, table: Table, **where: str) -> Iterator[pa.RecordBatch]:
        return self.lake.read_batches(table, version=self.version(table), where=where or None)

    def fingerprint(self, table: Table, shard: str | None = None) -> str | None:
        """The stored fingerprint of a table (or one shard of it); None where it holds no rows."""
        return self.stored_fingerprints(table, self.version(table)).get(shard or "")

    def shard_fingerprints(self, table: Table) -> dict[str, str]:
        """The stored fingerprint of every shard of `table`."""
        return dict(self.stored_fingerprints(table, self.version(table)))

    def stored_fingerprints(self, table: Table, version: int) -> dict[str, str]:
        """Stored fingerprints by shard; under "" for a table that is not cut into shards. Read once per step and table:
        another step writes other shards, and this one writes each shard once."""
        if table.path not in self._stored:
            found = self.lake.fingerprints(table, version=version)
            if "shard" not in table.partition_by:
                found = {"": next(iter(found.values()))} if len(set(found.values())) == 1 else {}
            self._stored[table.path] = found
        return self._stored[table.path]
