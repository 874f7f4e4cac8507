"""A step's surroundings: what every asset does before and after its computation, in one place.

A step reads the lake at versions that it names, writes partitions with the fingerprint of what they were computed
from, checks them, tracks itself in MLflow, and reports rows, versions and links to Dagster. An asset's body is then:
read → compute → check → write.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from assets.lake.lake import Commit, Lake
from assets.lake.tables import Table
from assets.step.checks import Check, CheckFailedError
from assets.step.engine_warnings import engine_warnings
from assets.step.overlap import overlapped
from assets.step.reading import Reading
from assets.step.report import Report
from assets.step.shard_failures import ShardFailures
from assets.tracking.past_steps import BYTES_WRITTEN, HARDWARE_TAG, WRITTEN_TAG
from assets.tracking.progress import Progress, announce, note
from assets.tracking.tracking import Tracking, study_of
from compute.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

REUSE_TAG = "headwater/reuse"
"""Run tag: "true" keeps outputs whose fingerprint says that recomputing them would give the same rows."""
REFIT_TAG = "headwater/refit"
"""Run tag: "true" draws pinned samples again, which otherwise stay as they are when the corpus grows."""
KEPT_SHARDS_TOLD = 20
RECENT_COMMITS = 500
RETRY_TAGS = ("dagster/retry_number", "dagster/is_resume_retry")
"""Dagster's own tags of a run that takes up a failed one."""


Read = TypeVar("Read")


@dataclass(frozen=True)
class Written:
    """A commit that is to be told of; made `at` this time of the monotonic clock."""

    table: Table
    shard: str | None
    fingerprint: str
    commit: Commit
    at: float
    metadata: dict


class Step(Reading):
    """One execution of one asset (or multi-asset) for one or more shards."""

    def __init__(self, context: dg.AssetExecutionContext, lake: Lake, tracking_run) -> None:
        super().__init__(lake, tracking_run)
        self.context, self.report = context, Report(context)
        tags = context.run.tags
        self.reuse = tags.get(REUSE_TAG) == "true"
        self.refit = tags.get(REFIT_TAG) == "true"
        self.takes_up = context.retry_number > 0 or any(tag in tags for tag in RETRY_TAGS)
        self.kept = self.bytes_written = 0
        self._counted: dict[str, dict[str, int]] = {}
        self._started = time.monotonic()
        # Looked up here, since a commit may be made in a thread to which the context does not belong.
        self._origin = {"dagster_run_id": context.run.run_id, "mlflow_run_id": tracking_run.run_id or ""}
        self._code_versions = context.assets_def.code_versions_by_key

    # keeping what is there

    def is_current(self, table: Table, fingerprint: str | None, shard: str | None = None) -> bool:
        """Whether `table` already holds what would be computed, and the run asked to keep such results.

        A retry after a crash keeps what the same run finished before it. No
        `fingerprint` stands for no rows: what is computed from a shard without documents has none either.
        """
        self.report.expect(table, shard, fingerprint)
        version = self.lake.version(table) if self.reuse or self.takes_up else None
        if version is None or self.stored_fingerprints(table, version).get(shard or "") != fingerprint:
            return False
        if not self.reuse and (shard or "") not in self._finished_before_crash(table):
            return False
        self._report_kept(table, shard, version, fingerprint or "")
        return True

    def current_shards(self, table: Table, fingerprint: str, shards: Sequence[str]) -> set[str] | None:
        """The same of an asset that one step writes shard by shard: the shards that can be kept; None where that is
        all of the table."""
        version = self.lake.version(table) if self.reuse or self.takes_up else None
        if version is None:
            return set()
        stored = self.stored_fingerprints(table, version)
        held = {shard for shard in shards if stored.get(shard) == fingerprint}
        if not self.reuse:
            held &= self._finished_before_crash(table)
        if not held or held != set(shards) or held != stored.keys():
            return held
        self._report_kept(table, None, version, fingerprint)
        return None

    def keep(self, table: Table, fingerprint: str) -> None:
        """Reports a table that the asset found to hold what it should, by its own account of it."""
        self._report_kept(table, None, self.lake.version(table), fingerprint)

    def _finished_before_crash(self, table: Table) -> set[str]:
        """The shards ("" for a table in one piece) that this run, or the one that it takes up, has written."""
        run = self.context.run
        own = {run.run_id, run.parent_run_id, run.root_run_id}
        commits = [entry for entry in self.lake.history(table, RECENT_COMMITS) if entry.get("dagster_run_id") in own]
        return {json.loads(entry.get("partition") or "{}").get("shard", "") for entry in commits}

    def is_pinned(self, table: Table, settings: str) -> bool:
        """Whether a pinned sample was drawn under these settings: kept though its corpus grew, unless a run refits."""
        version = self.lake.version(table) if self.reuse and not self.refit else None
        if version is None or self.lake.last_commit(table).get("settings") != settings:
            return False
        self._report_kept(table, None, version, self.stored_fingerprints(table, version).get("", ""))
        return True

    def _report_kept(self, table: Table, shard: str | None, version: int, fingerprint: str) -> None:
        self.kept += 1
        rows = self._rows(table).get(shard, 0) if shard else self.lake.count(table)
        facts = {"kept": True, "dagster/row_count": rows, "Delta version": version}
        self.report.add(table, shard, fingerprint, self._told_before(table, shard) | facts)
        self.context.log.info(f"{table.path}{f'[{shard}]' if shard else ''}: nothing changed, kept as it is")

    def _told_before(self, table: Table, shard: str | None) -> dict:
        """What Dagster was told when the rows were written: the newest materialization shows it again.

        Of many shards it is not looked up, which would cost a query for each.
        """
        if shard and len(self.context.partition_keys) > KEPT_SHARDS_TOLD:
            return {}
        where = dg.AssetRecordsFilter(table.asset_key, asset_partitions=[shard] if shard else None)
        found = self.context.instance.fetch_materializations(where, limit=1).records
        return dict(found[0].asset_materialization.metadata) if found and found[0].asset_materialization else {}

    def _rows(self, table: Table) -> dict[str, int]:
        """Rows by shard, read once per step."""
        if table.path not in self._counted:
            self._counted[table.path] = self.lake.partition_rows(table)
        return self._counted[table.path]

    # working

    def each_shard(self, work: Callable[[str], None], shards: Sequence[str]) -> None:
        """Does the work of every shard; one that fails does not keep the others from being done.

        Raises the failure at the end, if there was one: a user's mistake only where all failures are.
        """
        failures = ShardFailures(len(shards), self.context.log.error)
        for shard in shards:
            with failures.of(shard):
                self._started = time.monotonic()  # each shard's seconds are its own
                work(shard)
                self.report.done.append(shard)
        failures.raise_any()

    def each_shard_overlapped(
        self,
        shards: Sequence[str],
        *,
        read: Callable[[str], Read],
        work: Callable[[str, Read, Callable[[], None]], Callable[[], Sequence[Written]]],
    ) -> None:
        """The same, with the reading of the next shard and the writing of the one before beside the work on each.

        `read`, and the function that `work` gives, are called in threads of their own. They may read tables whose
        version is known to this step, and `commit`; nothing else of it. `work` calls its third argument now and then.
        """
        failures = ShardFailures(len(shards), self.context.log.error)
        begun: dict[str, float] = {}
        last = 0.0  # of the commits of the shard before: seconds of shards are not to be counted twice

        def timed(shard: str, found: Read, look: Callable[[], None]) -> Callable[[], Sequence[Written]]:
            begun[shard] = time.monotonic()
            return work(shard, found, look)

        def told(shard: str, written: Sequence[Written]) -> None:
            nonlocal last
            since = max(begun[shard], last)
            for each in written:
                self.tell(each, since=since)
            last = max((each.at for each in written), default=last)
            self.report.done.append(shard)

        overlapped(shards, read=read, work=timed, told=told, failures=failures)
        failures.raise_any()

    @property
    def done(self) -> list[str]:
        """The shards that are finished."""
        return self.report.done

    def check(
        self, check: Check, problem: str | None, *, shard: str | None = None, metadata: dict | None = None
    ) -> None:
        """Notes that a check holds, or the `problem`. Raises CheckFailedError where a failed check blocks."""
        self.report.check(check, problem, shard=shard, metadata=metadata)

    def progress(self, label: str, total: int, unit: str) -> Progress:
        return Progress(label, total, unit, log=self.context.log.info, measure=self.tracking.log_metrics)

    # writing

    def write(
        self, table: Table, data: pa.Table | Iterable[pa.RecordBatch], fingerprint: str | None, **options
    ) -> Commit:
        """Commits the rows and tells of them; `options` as `commit` takes them."""
        written = self.commit(table, data, fingerprint, **options)
        self.tell(written, since=self._started)
        return written.commit

    def commit(
        self,
        table: Table,
        data: pa.Table | Iterable[pa.RecordBatch],
        fingerprint: str | None,
        *,
        shard: str | None = None,
        where: dict[str, str] | None = None,
        settings: str = "",
        told: Mapping[str, str] | None = None,
        metadata: dict | None = None,
    ) -> Written:
        """Replaces the table (or exactly one partition) atomically, and tells nobody: it may be called in a thread of
        its own.

        `settings` is what a pinned sample was drawn under; its fingerprint is that of its content. `told` is kept in
        the commit's metadata next to what every step says there; `metadata` is what Dagster is to be told.
        """
        where = where or ({"shard": shard} if shard else None)
        commit = self.lake.overwrite(
            table,
            data,
            where=where,
            commit={
                **self._origin,
                "code_version": self._code_versions.get(table.asset_key) or "",
                "fingerprint": fingerprint or "",
                "settings": settings,
                "inputs": json.dumps(self.versions),
                "partition": json.dumps(where or {}),
                **(told or {}),
            },
        )
        return Written(table, shard, fingerprint or "", commit, time.monotonic(), metadata or {})

    def tell(self, written: Written, *, since: float) -> None:
        """Reports what was written to Dagster and MLflow; its work began at `since`, by the monotonic clock."""
        commit, seconds = written.commit, written.at - since
        self.bytes_written += commit.bytes
        facts = {
            "dagster/row_count": commit.rows,
            "Delta version": commit.version,
            "bytes written": commit.bytes,
            "seconds": round(seconds, 2),
            "rows per second": round(commit.rows / max(seconds, 1e-3), 1),
            "inputs": dg.MetadataValue.json(dict(self.versions)),
        }
        if machine := _machine():
            facts["hardware"] = machine
        if self.tracking.url:
            facts["MLflow run"] = dg.MetadataValue.url(self.tracking.url)
        self.report.add(written.table, written.shard, written.fingerprint, facts | written.metadata)
        self.tracking.set_tags({f"{WRITTEN_TAG}{written.table.path}": str(commit.version)})


def run_step(
    context: dg.AssetExecutionContext,
    lake: Lake,
    tracking: Tracking,
    work: Callable[[Step], None],
    *,
    checks: Sequence[Check] = (),
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization | dg.AssetCheckResult]:
    """Does an asset's work in its surroundings and yields what Dagster is to know of it.

    A user's mistake and a failed check become a Failure that is not retried. Of a step that fails, the shards that were
    done are reported all the same, so that only the others are missing.
    """
    spec = next(iter(context.assets_def.specs))
    name = spec.key.to_user_string()
    announce(name)
    tags = {"asset": name, "code_version": spec.code_version or ""}
    step = None
    try:
        parent = tracking.parent_run(context.run.run_id, study_of(context.run))
        with tracking.step_run(parent, name, tags) as run:
            step = Step(context, lake, run)
            watched = engine_warnings(context.log.warning)
            with lake.opening_once(), lake.reading(step.tables_read), watched:
                work(step)
            if step.kept:
                several = f" ({step.kept} tables or shards)" if step.kept > 1 else ""
                what = "the rest is kept" if step.done else "kept"
                note(f"{what}, since nothing that it depends on changed{several}")
            written = {BYTES_WRITTEN: step.bytes_written} if step.bytes_written else {}
            run.log_metrics({"peak_memory_mib": _peak_memory_mib()} | written, 0)
            if machine := _machine():
                run.set_tags({HARDWARE_TAG: machine})
    except (BadInput, CheckFailedError) as error:
        yield from step.report.of_failure(checks) if step else ()
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except Exception:
        yield from step.report.of_failure(checks) if step else ()
        raise
    except BaseException:  # cancelled: nothing can be yielded any more, but what was done is told
        for event in step.report.of_failure(()) if step else ():
            context.instance.report_runless_asset_event(event)
        raise
    yield from step.report.of_success(checks)


def _peak_memory_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _machine() -> str | None:
    """What the engine works on; None where the step did not need it, and has not loaded torch."""
    if "torch" not in sys.modules:
        return None
    from compute.machine import machine_used

    return machine_used()
