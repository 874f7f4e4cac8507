"""corpus/<corpus>/tombstones: records that a shard's source held and holds no more, or holds with another text.

When a shard is read again, the records that are gone leave the current tables (and so do their documents, scores and
places in rankings, as the shard goes through the later stages). Their tombstones stay, and name the Delta versions in
which their rows can still be read within the lake's retention.

A tombstone speaks of its shard alone. Shards are read one by one and a file that is renamed makes new ones, so a record
may live on in another shard; whether it is gone from the corpus, only `records` can tell.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from assets.lake.columns import RECORD_ID, SHARD, SOURCE
from assets.lake.tables import Column, Table

if TYPE_CHECKING:
    from assets.step.step import Step

TOMBSTONES_STORY = (
    "What a changed or removed source file took away; its rows are in earlier versions of records. A record of a file "
    "that was renamed lives on in another shard: it is gone from the corpus only where records does not hold it."
)
EXCERPT_CHARACTERS = 200


def tombstones_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "tombstones"),
        grain="one row per text of a record that its shard's source no longer holds",
        columns=(
            SHARD,
            RECORD_ID,
            SOURCE,
            Column("location", pa.string(), "File and line or row where it stood."),
            Column("reason", pa.string(), "removed: the shard lost the record; changed: it has another text now."),
            Column("text_digest", pa.string(), "Digest of the text that it had."),
            Column("excerpt", pa.string(), "The first 200 characters of that text."),
            Column("records_version", pa.int64(), "Newest Delta version of records that still has the row."),
            Column("found_at", pa.timestamp("us", tz="UTC"), "When the change was found."),
        ),
        partition_by=("shard",),
        sort_by=("record_id", "found_at"),
    )


def bury(step: Step, corpus: str, records: Table, shard: str, texts: dict[str, str]) -> None:
    """Writes a tombstone for every text of the shard's stored `records` that is not among `texts` (by record id) now.

    Called before the records are replaced, so that a step that is killed in between finds the same ones again. A text
    that has come back loses its tombstone.
    """
    table, version = tombstones_table(corpus), step.lake.version(records)
    stored = [] if version is None else _rows(step, records, shard)
    earlier = _rows(step, table, shard)
    held = {(record_id, _digest(text)) for record_id, text in texts.items()}
    rows = {(row["record_id"], row["text_digest"]): row for row in earlier}
    for row in stored:
        rows.setdefault((row["record_id"], _digest(row["text"])), _tombstone(row, version))
    gone = [row | {"reason": _reason(row, texts)} for key, row in rows.items() if key not in held]
    if gone != earlier:
        step.write(table, pa.Table.from_pylist(gone, schema=table.schema), None, shard=shard)


def _rows(step: Step, table: Table, shard: str) -> list[dict]:
    return step.lake.scan(table, where={"shard": shard}, allow_empty=True).collect().to_dicts()


def _tombstone(row: dict, version: int) -> dict:
    return {
        "shard": row["shard"],
        "record_id": row["record_id"],
        "source": row["source"],
        "location": row["location"],
        "text_digest": _digest(row["text"]),
        "excerpt": row["text"][:EXCERPT_CHARACTERS],
        "records_version": version,
        "found_at": datetime.now(UTC),
    }


def _reason(row: dict, texts: dict[str, str]) -> str:
    return "changed" if row["record_id"] in texts else "removed"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
