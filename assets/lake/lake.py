"""The lake: reads and writes of Delta tables by explicit calls, the same for a directory and an object store.

What holds for every write: it replaces exactly one partition (or the whole table) in one commit, so a rerun
never duplicates rows and a killed or cancelled run leaves the table as it was. Its rows fit the table's
declared schema and lie inside the partition. Rows may be streamed: memory then stays bounded, whatever the
size. What holds for every read: it names a table version, and a missing or damaged table is one sentence
(`BadInput`).

**Row order is not preserved by Delta.** Order within a file mostly survives (row groups are written in the
order given, and `Table.sort_by` uses that to let readers skip), but files come back in any order: sort, or
place rows by a column.

No IO manager and no pickle. The settings here were measured; `docs/log.md` tells of what was met on the way.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from assets.lake.damage import damage_as_bad_input, damage_sentence, first_line
from assets.lake.log import TableLog
from assets.lake.place import Place
from assets.lake.tables import FINGERPRINT, Table
from assets.lake.writing import set_aside, writer_properties
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

#: With delta-rs' default of 15, 8 of 32 concurrent disjoint writers failed; with 200, none of 64.
COMMIT_RETRIES = 200
#: How often a write is tried when others take the same partition.
CONFLICT_ATTEMPTS = 5
#: A hundred years.
LOG_RETENTION = f"interval {100 * 365 * 24} hours"
#: Hive's name for null: a partition of this name (or of no name) is read back as null.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class WriteConflict(Exception):
    """Other writers committed the same partition first. Nothing of this write shows; run it again."""


@dataclass(frozen=True)
class Commit:
    """What one write left behind: the table version that it made, and the rows, bytes and files that it
    added.
    """

    version: int
    rows: int
    bytes: int
    files: int
    seconds: float


class Lake(dg.ConfigurableResource):
    """Delta tables under one root. Every method takes the `Table` that declares what it reads or writes."""

    uri: str = Field(description="Directory, or URI of an object store (s3://bucket/prefix).")
    storage_options: dict[str, str] = Field(
        {}, description="Options of the object store, as delta-rs and polars name them."
    )
    cache: str = Field(
        "", description="Local directory for files unpacked from the lake, such as a trained checkpoint's."
    )
    retention_hours: int = Field(720, description="How long earlier versions of a table stay readable.")

    _layout_is_known: bool = PrivateAttr(default=False)
    _opened: dict[tuple[str, int | None], DeltaTable] | None = PrivateAttr(default=None)

    @property
    def place(self) -> Place:
        return Place(self.uri, self.storage_options)

    # writing

    def ensure(self, table: Table) -> None:
        """Creates the table where it does not exist; an existing one must have the declared columns."""
        self._ensured(table)

    def overwrite(
        self,
        table: Table,
        data: pa.Table | Iterable[pa.RecordBatch],
        *,
        where: Mapping[str, str] | None = None,
        commit: Mapping[str, str],
    ) -> Commit:
        """Replaces the rows whose partition columns have the values in `where`; without it, all rows.

        A stream is read to its end before the write begins; an exception or an interrupt until then leaves no
        trace. `commit` is kept as the commit's metadata. After losing a race for its rows the write is done
        again a few times (the last writer wins), then raises `WriteConflict`.
        """
        where = _partition(table, where)
        started = time.monotonic()
        self._ensured(table)  # before the rows are made, which may take long
        with set_aside(table, data, where) as read_rows:
            for attempt in range(CONFLICT_ATTEMPTS):
                target = self._ensured(table)
                if self._committed(target, table, read_rows(), where, commit):
                    return self._measured(target, table, time.monotonic() - started)
                time.sleep(random.uniform(0, 0.03 * 2**attempt))
        raise WriteConflict(
            f"{table.path}: other runs keep writing {_named(where) or 'the table'} at the same time, and their rows "
            "stand; see which runs are in progress, and run this step again"
        )

    def _ensured(self, table: Table) -> DeltaTable:
        self._check_layout(mark=True)
        target = self._open(table) or self._created(table)
        _check_stored_schema(table, target)
        return target

    def _created(self, table: Table) -> DeltaTable:
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import CommitFailedError

        try:
            return DeltaTable.create(
                self._uri(table),
                schema=table.schema,
                mode="ignore",
                partition_by=list(table.partition_by) or None,
                description=table.grain,
                configuration=self._configuration(table),
                storage_options=self.place.options,
                # A retry would commit the creation again, on top of the other creator's, and upset its
                # writers.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            return self._existing(table, None)

    def retention(self) -> dict[str, str]:
        """The table properties that say what is kept how long."""
        return {
            # The log alone tells which run, which code and which versions a row came from. It is small, and a row may
            # be asked about long after the files of the versions that it was computed from are gone: so it never ends.
            "delta.logRetentionDuration": LOG_RETENTION,
            "delta.enableExpiredLogCleanup": "false",
            "delta.deletedFileRetentionDuration": f"interval {self.retention_hours} hours",
        }

    def _configuration(self, table: Table) -> dict[str, str]:
        # Named, because by default only the first 32 columns get the statistics that fingerprints and
        # look-ups live on.
        measured = [c.name for c in table.columns if c.name not in table.partition_by and not _bulky(c.type)]
        size = {"delta.targetFileSize": str(table.file_bytes)} if table.file_bytes else {}
        return {**self.retention(), **size, "delta.dataSkippingStatsColumns": ",".join(measured)}

    def _committed(self, target, table, rows: pa.RecordBatchReader, where, commit) -> bool:
        """Writes and commits; False where another writer of the same rows was first."""
        from deltalake import CommitProperties, write_deltalake
        from deltalake.exceptions import CommitFailedError

        try:
            write_deltalake(
                target,
                rows,
                mode="overwrite",
                predicate=_predicate(where),
                commit_properties=CommitProperties(custom_metadata=dict(commit), max_commit_retries=COMMIT_RETRIES),
                writer_properties=writer_properties(table.schema, table.row_group_rows),
            )
        except CommitFailedError:
            return False
        return True

    def _measured(self, target: DeltaTable, table: Table, seconds: float) -> Commit:
        """Reads the write's own commit, whose size does not grow with the table."""
        version = target.version()
        with self.place.files(table.path).open_input_file(f"_delta_log/{version:020}.json") as stream:
            actions = [json.loads(line) for line in stream.readall().splitlines()]
        added = [action["add"] for action in actions if "add" in action]
        rows = sum(json.loads(add["stats"])["numRecords"] for add in added)
        return Commit(version, rows, sum(add["size"] for add in added), len(added), seconds)

    # reading

    def scan(
        self,
        table: Table,
        *,
        version: int | None = None,
        where: Mapping[str, str] | None = None,
        allow_empty: bool = False,
    ) -> pl.LazyFrame:
        """A lazy frame over one version of the table (the newest unless named), its partitions pruned by
        `where`.

        Collect it inside of `reading`, or by `collect`, so that a damaged file gives a sentence. A table
        without any rows is refused unless `allow_empty`; a partition without rows is not (a shard may have
        none).
        """
        import polars as pl

        source = self._existing(table, version)
        if not allow_empty and not source.get_add_actions().num_rows:
            raise BadInput(f"{table.path}: has no rows; materialize the asset {table.path} first")
        frame = pl.scan_delta(source, use_pyarrow=not self.place.polars_can_scan)
        conditions = [pl.col(name) == value for name, value in _partition(table, where).items()]
        return frame.filter(*conditions) if conditions else frame

    def dataset(self, table: Table, *, version: int | None = None) -> ds.Dataset:
        """One version of the table (the newest unless named) for readers of Arrow, which skip what its statistics rule
        out. Read it inside of `reading`.
        """
        return self._existing(table, version).to_pyarrow_dataset()

    def collect(self, table: Table, frame: pl.LazyFrame) -> pl.DataFrame:
        """`frame.collect()`, for a frame that was made from a scan of the table."""
        with self.reading([table]):
            return frame.collect()

    def reading(self, tables: Sequence[Table]) -> AbstractContextManager[None]:
        """Around code that collects frames over `tables`: a damaged file becomes one sentence (`BadInput`).

        Tables may be added to the list until the damage is met.
        """
        return damage_as_bad_input(self.place, tables)

    def read_batches(
        self,
        table: Table,
        *,
        columns: Sequence[str] | None = None,
        where: Mapping[str, str] | None = None,
        version: int | None = None,
        batch_rows: int = 8192,
    ) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow batches of at most `batch_rows`; memory holds about a row group, whatever the
        table's size.
        """
        import pyarrow.dataset as ds

        source = self._existing(table, version)  # now, not when the first batch is asked for
        where = _partition(table, where)
        pruned = [(name, "=", value) for name, value in where.items()] or None
        # Reading ahead hides an object store's latency; on a disk it only costs memory (220 against 75 MB for
        # files of 100 MB).
        ahead = ds.ParquetFragmentScanOptions(pre_buffer=not self.place.is_local)
        scanner = source.to_pyarrow_dataset(file_pruning_predicate=pruned).scanner(
            columns=list(columns) if columns is not None else None,
            batch_size=batch_rows,
            batch_readahead=1,
            fragment_readahead=1,
            fragment_scan_options=ahead,
        )
        return self._guarded(table, scanner)

    def _guarded(self, table: Table, scanner: Any) -> Iterator[pa.RecordBatch]:
        batches = scanner.to_batches()
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowInvalid) as error:
                raise BadInput(damage_sentence(self.place, [table], error)) from error
            if batch is None:
                return
            if batch.num_rows:
                yield batch

    # facts, from the log alone

    def version(self, table: Table) -> int | None:
        """The newest version; None where the table does not exist."""
        self._check_layout(mark=False)
        source = self._open(table)
        return None if source is None else source.version()

    def count(self, table: Table) -> int:
        """Rows of the newest version, from the log alone."""
        return sum(pa.table(self._existing(table, None).get_add_actions(flatten=True))["num_records"].to_pylist())

    def partition_rows(
        self,
        table: Table,
        column: str | None = None,
        *,
        version: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Value of a partition column (the table's first, unless named) -> its rows, from the log alone."""
        column = column or table.partition_by[0]
        actions = pa.table(self._existing(table, version).get_add_actions(flatten=True))
        rows: dict[str, int] = {}
        if actions.num_rows:
            for name, wanted in _partition(table, where).items():
                actions = actions.filter(pc.equal(actions[f"partition.{name}"], wanted))
            values = actions[f"partition.{column}"].to_pylist()
            for value, count in zip(values, actions["num_records"].to_pylist(), strict=True):
                rows[value] = rows.get(value, 0) + count
        return dict(sorted(rows.items()))

    def history(self, table: Table, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits, newest first, as Delta describes them, with the metadata that the writer gave."""
        entries = islice(TableLog(self.place, table.path).entries(self._existing(table, None).version()), limit)
        return [{**entry.info, "version": entry.version} for entry in entries]

    def last_commit(self, table: Table) -> dict[str, Any]:
        """The metadata that the newest write gave; maintenance after it does not count. Empty where there was
        none.
        """
        written = TableLog(self.place, table.path).newest_write(self._existing(table, None).version())
        return written.metadata if written else {}

    def fingerprints(self, table: Table, column: str | None = None, *, version: int | None = None) -> dict[str, str]:
        """Value of the partition column -> fingerprint of its rows; no data file is read.

        `column` is the table's first partition column unless named; a table without partitions has the one
        entry "". A partition is missing where it has no rows, or where its rows disagree: then its state is
        not known.
        """
        actions = pa.table(self._existing(table, version).get_add_actions(flatten=True))
        if not actions.num_rows:
            return {}
        column = column or next(iter(table.partition_by), None)
        values = actions[f"partition.{column}"].to_pylist() if column else [""] * actions.num_rows
        lows, highs = (actions[f"{end}.{FINGERPRINT}"].to_pylist() for end in ("min", "max"))
        found: dict[str, set[str]] = {}
        for value, low, high in zip(values, lows, highs, strict=True):
            found.setdefault(value, set()).update((low, high))
        return {value: marks.pop() for value, marks in sorted(found.items()) if len(marks) == 1 and None not in marks}

    # opening

    @contextmanager
    def opening_once(self) -> Iterator[None]:
        """Within it each version of a table is opened once, and the newest is brought up to date rather than opened
        again: opening replays a log that grows with the table's shards. For the length of one step; the newest version
        of a table is for one of its threads.
        """
        self._opened = {}
        try:
            yield
        finally:
            self._opened = None

    def _uri(self, table: Table) -> str:
        return f"{self.place.root}/{table.path}"

    def _check_layout(self, *, mark: bool) -> None:
        self._layout_is_known = self._layout_is_known or self.place.check_layout(mark=mark)

    def _open(self, table: Table, version: int | None = None) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            if source := (self._opened or {}).get((table.path, version)):
                if version is None:
                    source.update_incremental()
                return source
            source = DeltaTable(self._uri(table), version=version, storage_options=self.place.options)
        except TableNotFoundError:
            return None
        if self._opened is not None:
            self._opened[table.path, version] = source
        return source

    def _existing(self, table: Table, version: int | None) -> DeltaTable:
        from deltalake.exceptions import DeltaError

        self._check_layout(mark=False)
        try:
            source = self._open(table, version)
        except (DeltaError, OSError, ValueError) as error:
            raise BadInput(self._unreadable(table, version, error)) from error
        if source is None:
            raise BadInput(
                f"{table.path}: is not in the lake {self.place.root}; materialize the asset {table.path} first"
            )
        return source

    def _unreadable(self, table: Table, version: int | None, error: Exception) -> str:
        if version is None:
            return (
                f"{table.path}: the table's log in {self._uri(table)} cannot be read ({first_line(error)}); restore it"
            )
        newest = self._existing(table, None).version()
        if version > newest:
            return f"{table.path}: there is no version {version}; the newest is {newest}"
        kept = f"earlier versions are kept for {self.retention_hours} hours"
        return f"{table.path}: version {version} cannot be read any more ({kept}); the newest is {newest}"


def _partition(table: Table, where: Mapping[str, str] | None) -> dict[str, str]:
    """`where`, checked: only partition columns, and values that come back as they went in."""
    for name, value in (where or {}).items():
        if name not in table.partition_by:
            raise ValueError(f"{table.path}: {name!r} is not one of the partition columns {table.partition_by}")
        if not isinstance(value, str) or value in ("", NULL_PARTITION) or "\0" in value:
            raise BadInput(f"{table.path}: {value!r} cannot name a partition ({name}); give it another name")
    return dict(where or {})


def _predicate(where: Mapping[str, str]) -> str | None:
    """SQL for delta-rs: a quote in a value is doubled, and nothing else has a meaning inside of a SQL string."""
    return " AND ".join("{} = '{}'".format(name, value.replace("'", "''")) for name, value in where.items()) or None


def _named(where: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in where.items())


def _check_stored_schema(table: Table, target: DeltaTable) -> None:
    stored = {field.name: field for field in pa.schema(target.schema().to_arrow())}
    declared = {field.name: field for field in table.schema}
    remedy = f"another version of Headwater wrote it; remove {target.table_uri} and materialize it again"
    for name in sorted(stored.keys() ^ declared.keys()):
        raise BadInput(f"{table.path}: column {name} is {'only' if name in stored else 'not'} in the lake: {remedy}")
    for name, field in declared.items():
        if (stored[name].type, stored[name].nullable) != (field.type, field.nullable):
            there, here = (f"{f.type}{'' if f.nullable else ' not null'}" for f in (stored[name], field))
            raise BadInput(f"{table.path}: column {name} is {there} in the lake, not {here}: {remedy}")
    if (partitions := tuple(target.metadata().partition_columns)) != table.partition_by:
        raise BadInput(f"{table.path}: is partitioned by {partitions}, not by {table.partition_by}: {remedy}")


def _bulky(kind: pa.DataType) -> bool:
    """Types for which Delta keeps no minimum and maximum."""
    return pa.types.is_nested(kind) or pa.types.is_binary(kind)
