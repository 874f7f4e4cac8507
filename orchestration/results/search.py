"""Search in the text of documents: an index per corpus beside the lake, kept in step with it shard by shard.

SQLite's FTS5 in one file per corpus, under the cache: it can be removed at any time, and is made again.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assets.lake.stored import stored_table
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from orchestration.results.results import Results

SCHEMA = """
CREATE TABLE IF NOT EXISTS shards (shard TEXT PRIMARY KEY, fingerprint TEXT, first INTEGER, last INTEGER);
CREATE TABLE IF NOT EXISTS documents (rowid INTEGER PRIMARY KEY, document_id TEXT, source TEXT);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
"""
WORD = re.compile(r'"[^"]*"|\S+')


@dataclass(frozen=True)
class Hit:
    """A document that holds the words: of the `parts` of its text every second one is what was found."""

    document_id: str
    source: str | None
    parts: tuple[str, ...]


def phrases(words: str) -> list[str]:
    """The words asked for, and the rows of words in quotes."""
    return [each.strip('"') for each in WORD.findall(words) if each.strip('"')]


class SearchIndex:
    """The index of one corpus."""

    def __init__(self, results: Results, corpus: str, cache: Path) -> None:
        paths = results.views["documents"].paths if "documents" in results.views else {}
        if corpus not in paths:
            raise BadInput(f"corpus {corpus}: has no documents in {results.lake.place.root}")
        self.results, self.corpus, self.path = results, corpus, cache / "search" / f"{corpus}.sqlite"
        self.table: Table = stored_table(results.lake.place, paths[corpus])

    def behind(self) -> list[str]:
        """The shards whose text is new, changed or gone since they were indexed."""
        now = self.results.lake.fingerprints(self.table)
        with self._open() as index:
            then = dict(index.execute("SELECT shard, fingerprint FROM shards"))
        return sorted(shard for shard in now.keys() | then.keys() if now.get(shard) != then.get(shard))

    def update(self) -> Iterator[str]:
        """Indexes what is behind, one shard a transaction; yields each shard that is done."""
        now = self.results.lake.fingerprints(self.table)
        for shard in self.behind():
            with self._open() as index, index:
                self._remove(index, shard)
                if shard in now:
                    self._add(index, shard, now[shard])
            yield shard

    def find(self, words: str, most: int = 50) -> list[Hit]:
        """The documents that hold all the words (or "a row of words"), best first."""
        asked = " ".join('"' + each.replace('"', '""') + '"' for each in phrases(words))
        if not asked:
            return []
        query = (
            "SELECT documents.document_id, documents.source, snippet(texts, 0, char(1), char(2), '…', 24) FROM texts "
            "JOIN documents ON documents.rowid = texts.rowid WHERE texts MATCH ? ORDER BY rank LIMIT ?"
        )
        with self._open() as index:
            rows = index.execute(query, (asked, most)).fetchall()
        return [Hit(document, source, tuple(re.split("[\x01\x02]", text))) for document, source, text in rows]

    def _remove(self, index: sqlite3.Connection, shard: str) -> None:
        for first, last in index.execute("SELECT first, last FROM shards WHERE shard = ?", (shard,)).fetchall():
            for table in ("texts", "documents"):
                index.execute(f"DELETE FROM {table} WHERE rowid BETWEEN ? AND ?", (first, last))
        index.execute("DELETE FROM shards WHERE shard = ?", (shard,))

    def _add(self, index: sqlite3.Connection, shard: str, fingerprint: str) -> None:
        first = (index.execute("SELECT max(last) FROM shards").fetchone()[0] or 0) + 1
        row = first
        columns = ("document_id", "source", "text")
        for batch in self.results.lake.read_batches(self.table, columns=columns, where={"shard": shard}):
            for document, source, text in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                index.execute("INSERT INTO documents VALUES (?, ?, ?)", (row, document, source))
                index.execute(
                    "INSERT INTO texts (rowid, text) VALUES (?, ?)",
                    (row, text.replace("\x01", " ").replace("\x02", " ")),
                )
                row += 1
        index.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", (shard, fingerprint, first, row - 1))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=30)) as index:
                index.executescript(SCHEMA)
                yield index
        except (OSError, sqlite3.DatabaseError) as error:
            raise BadInput(f"{self.path}: the search index cannot be used ({error}); remove the file") from error
