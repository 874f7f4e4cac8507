"""A step's surroundings: what every asset does before and after its computation, in one place.

A step reads the lake at versions that it names, writes partitions with the fingerprint of what they were computed
from, tracks itself in MLflow, and reports rows, versions and links to Dagster. An asset's body is then: read →
compute → write.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from assets.lake import Lake
from assets.progress import Progress, announce, note
from assets.tables import Table
from assets.tracking import Tracking
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

REUSE_TAG = "headwater/reuse"
"""Run tag: "true" keeps outputs whose fingerprint says that recomputing them would give the same rows."""
REFIT_TAG = "headwater/refit"
"""Run tag: "true" draws pinned samples again, which otherwise stay as they are when the corpus grows."""


class Step:
    """One execution of one asset (or multi-asset) for one or more shards."""

    def __init__(self, context: dg.AssetExecutionContext, lake: Lake, tracking_run) -> None:
        self.context, self.lake, self.tracking = context, lake, tracking_run
        self.reuse = context.run.tags.get(REUSE_TAG) == "true"
        self.refit = context.run.tags.get(REFIT_TAG) == "true"
        self.versions: dict[str, int] = {}
        self.tables_read: list[Table] = []
        self.kept = 0
        self._stored: dict[str, dict[str, str]] = {}
        self._started = time.monotonic()

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
        return self._fingerprints(table, self.version(table)).get(shard or "")

    def is_current(self, table: Table, fingerprint: str | None, shard: str | None = None) -> bool:
        """Whether `table` already holds what would be computed, and the run asked to keep such results.

        No `fingerprint` stands for no rows: what is computed from a shard without documents has none either.
        """
        version = self.lake.version(table) if self.reuse else None
        if version is None or self._fingerprints(table, version).get(shard or "") != fingerprint:
            return False
        self._report_kept(table, shard, version, fingerprint or "")
        return True

    def is_pinned(self, table: Table, settings: str) -> bool:
        """Whether a pinned sample was drawn under these settings: kept though its corpus grew, unless a run refits."""
        version = self.lake.version(table) if self.reuse and not self.refit else None
        if version is None or self.lake.last_commit(table).get("settings") != settings:
            return False
        self._report_kept(table, None, version, self._fingerprints(table, version).get("", ""))
        return True

    def _report_kept(self, table: Table, shard: str | None, version: int, fingerprint: str) -> None:
        self.kept += 1
        self._report(table, shard, {"kept": True, "fingerprint": fingerprint, "delta version": version})
        self.context.log.info(f"{table.path}{f'[{shard}]' if shard else ''}: nothing changed, kept as it is")

    def write(
        self,
        table: Table,
        data: pa.Table | Iterable[pa.RecordBatch],
        fingerprint: str | None,
        *,
        shard: str | None = None,
        where: dict[str, str] | None = None,
        settings: str = "",
        metadata: dict | None = None,
    ) -> None:
        """Replaces the table (or exactly one partition) atomically and reports it to Dagster and MLflow.

        `settings` is what a pinned sample was drawn under; its fingerprint is that of its content.
        """
        where = where or ({"shard": shard} if shard else None)
        commit = self.lake.overwrite(
            table,
            data,
            where=where,
            commit={
                "dagster_run_id": self.context.run.run_id,
                "mlflow_run_id": self.tracking.run_id or "",
                "code_version": self.context.assets_def.code_versions_by_key.get(dg.AssetKey(table.key)) or "",
                "fingerprint": fingerprint or "",
                "settings": settings,
                "inputs": json.dumps(self.versions),
            },
        )
        self._report(
            table,
            shard,
            {
                "dagster/row_count": commit.rows,
                "delta version": commit.version,
                "bytes written": commit.bytes,
                "seconds": round(time.monotonic() - self._started, 2),
                "fingerprint": fingerprint or "",
                "inputs": dg.MetadataValue.json(dict(self.versions)),
                **(metadata or {}),
            },
        )
        self.tracking.set_tags({f"delta.{table.path}": str(commit.version)})
        self._started = time.monotonic()  # the next shard's time is its own

    def shard_fingerprints(self, table: Table) -> dict[str, str]:
        """The stored fingerprint of every shard of `table`."""
        return dict(self._fingerprints(table, self.version(table)))

    def _fingerprints(self, table: Table, version: int) -> dict[str, str]:
        """Stored fingerprints by shard; under "" for a table that is not cut into shards. Read once per step and table:
        another step writes other shards, and this one writes each shard once."""
        if table.path not in self._stored:
            found = self.lake.fingerprints(table, version=version)
            if "shard" not in table.partition_by:
                found = {"": next(iter(found.values()))} if len(set(found.values())) == 1 else {}
            self._stored[table.path] = found
        return self._stored[table.path]

    def progress(self, label: str, total: int, unit: str) -> Progress:
        return Progress(label, total, unit, log=self.context.log.info)

    def _report(self, table: Table, shard: str | None, metadata: dict) -> None:
        if dg.AssetKey(table.key) not in self.context.selected_asset_keys:
            return  # a table that belongs to another asset's story (rejected records)
        if self.tracking.url:
            metadata["MLflow run"] = dg.MetadataValue.url(self.tracking.url)
        self.context.add_asset_metadata(metadata, asset_key=table.key, partition_key=shard)


@contextmanager
def open_step(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[Step]:
    """The step around an asset's body. A user's mistake becomes a Failure that is not retried."""
    name = next(iter(context.assets_def.specs)).key.to_user_string()
    announce(name)
    parent = tracking.parent_run(context.run.run_id, context.run.job_name)
    try:
        with tracking.step_run(parent, name, {"asset": name}) as run:
            step = Step(context, lake, run)
            with lake.reading(step.tables_read):
                yield step
            if step.kept:
                several = f" ({step.kept} tables or shards)" if step.kept > 1 else ""
                note(f"kept, since nothing that it depends on changed{several}")
            run.log_metrics({"peak_memory_mib": _peak_memory_mib()}, 0)
    except BadInput as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def _peak_memory_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def dagster_name(name: str) -> str:
    """A name as Dagster takes it for groups, operations and jobs, which may not hold a dash."""
    return name.replace("-", "_")


def asset_arguments(table: Table, group: str, code_version: str) -> dict:
    """What the declaration of every table's asset has in common."""
    return {
        "key": list(table.key),
        "group_name": dagster_name(group),
        "description": table.grain,
        "kinds": {"deltalake"},
        "code_version": code_version,
        "metadata": {"dagster/column_schema": table.dagster_columns(), "dagster/table_name": table.path},
    }
