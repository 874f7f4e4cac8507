"""The newest fingerprints of the lake, asked for in the same words as of a step, where no step is running."""

from __future__ import annotations

from dataclasses import dataclass

from assets.lake.lake import Lake
from assets.lake.tables import Table


@dataclass(frozen=True)
class StoredNow:
    """A table that does not exist has no fingerprints."""

    lake: Lake

    def shard_fingerprints(self, table: Table) -> dict[str, str]:
        return {} if self.lake.version(table) is None else self.lake.fingerprints(table)

    def fingerprint(self, table: Table) -> str | None:
        """Of a table in one piece; None where it holds no rows, or its parts disagree."""
        found = set(self.shard_fingerprints(table).values())
        return found.pop() if len(found) == 1 else None
