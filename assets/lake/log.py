"""Who wrote which rows when: the commits of a Delta table, as the files of its log tell them.

Read file by file, because delta-rs' `history()` numbers its entries down from the version that its handle has open: a
handle on an earlier version, or one that another writer has overtaken, gives every entry a wrong number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.fs import PyFileSystem

    from assets.lake.place import Place

#: What Delta puts into a commit itself; everything else is the writer's own metadata.
DELTA_COMMIT_KEYS = frozenset(
    {
        "timestamp",
        "operation",
        "operationParameters",
        "operationMetrics",
        "engineInfo",
        "clientVersion",
        "version",
        "readVersion",
        "isolationLevel",
        "isBlindAppend",
        "userId",
        "userName",
        "userMetadata",
        "inCommitTimestamp",
        "txnId",
    }
)
WRITE = "WRITE"
#: One condition of the predicate under which a partition was replaced: `shard = '00003'`, a quote doubled.
CONDITION = re.compile(r"(\w+) = '((?:[^']|'')*)'")
#: Commits that are read at once from an object store, whose latency would otherwise add up.
READ_AHEAD = 16


@dataclass(frozen=True)
class Entry:
    """One commit: `info` is what its log entry says, Delta's part and the writer's."""

    version: int
    info: Mapping[str, Any]

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.info.get("timestamp", 0) / 1000, UTC)

    @property
    def is_write(self) -> bool:
        """Whether it gave the table new rows: compaction, clean-up and settings do not."""
        return self.info.get("operation") == WRITE

    @property
    def metadata(self) -> dict[str, Any]:
        """What the writer said of it."""
        return {name: value for name, value in self.info.items() if name not in DELTA_COMMIT_KEYS}

    @property
    def inputs(self) -> dict[str, int]:
        """The tables that its rows were computed from, with the version that was read."""
        return json.loads(self.info.get("inputs") or "{}")

    @property
    def partition(self) -> dict[str, str]:
        """The partition that it replaced; empty for a table that was replaced as a whole."""
        if "partition" in self.info:
            return json.loads(self.info["partition"] or "{}")
        predicate = (self.info.get("operationParameters") or {}).get("predicate") or ""
        return {name: value.replace("''", "'") for name, value in CONDITION.findall(predicate)}

    def concerns(self, where: Mapping[str, str]) -> bool:
        """Whether it replaced rows of the partition (or group of partitions) `where`."""
        replaced = self.partition
        return all(replaced.get(name, value) == value for name, value in where.items())


class TableLog:
    """The log of the table at `path`, newest first; what was read is kept, for it never changes."""

    def __init__(self, place: Place, path: str) -> None:
        self.place, self.path = place, path
        self._read: dict[int, Entry | None] = {}

    def newest_version(self) -> int:
        from deltalake import DeltaTable

        return DeltaTable(f"{self.place.root}/{self.path}", storage_options=self.place.options).version()

    def entry(self, version: int) -> Entry | None:
        """The commit of one version; None where the log does not reach back so far."""
        if version not in self._read:
            self._read[version] = self._from_file(version)
        return self._read[version]

    def entries(self, newest: int) -> Iterator[Entry]:
        """The commits from `newest` back to the first that is still kept."""
        for start in range(newest, -1, -READ_AHEAD):
            block = range(start, max(start - READ_AHEAD, -1), -1)
            if not self.place.is_local:
                with ThreadPoolExecutor(READ_AHEAD) as pool:
                    list(pool.map(self.entry, block))
            for version in block:
                entry = self.entry(version)
                if entry is None:
                    return
                yield entry

    def newest_write(self, version: int, where: Mapping[str, str] | None = None) -> Entry | None:
        """The commit that wrote the rows which `version` of the table has in the partition `where`."""
        for entry in self.entries(version):
            if entry.is_write and entry.concerns(where or {}):
                return entry
        return None

    def version_at(self, moment: datetime) -> int | None:
        """The newest version that was committed by then; None where there was none yet, or none is kept."""
        return next((entry.version for entry in self.entries(self.newest_version()) if entry.time <= moment), None)

    @cached_property
    def _files(self) -> PyFileSystem:
        return self.place.files(self.path)

    def _from_file(self, version: int) -> Entry | None:
        from deltalake.exceptions import TableNotFoundError

        try:
            with self._files.open_input_file(f"_delta_log/{version:020}.json") as stream:
                lines = stream.readall().splitlines()
        except (FileNotFoundError, TableNotFoundError):  # the latter where the table's directory is gone
            return None
        infos = (json.loads(line)["commitInfo"] for line in lines if line.startswith(b'{"commitInfo"'))
        return Entry(version, next(infos, {}))
