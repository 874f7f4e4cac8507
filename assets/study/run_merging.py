"""The rows of a sorted run, merged from other runs and from shards of influence in bounded memory.

The rows of some queries at a time are read, sorted and handed on: `HELD_ROWS` of them, or those of one query where
these are more. Readers skip what the statistics of the sources rule out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa

HELD_ROWS = 4_000_000
"""About 100 bytes each while they are sorted."""
READ = ("method", "query_id", "score", "document_id", "shard", "fingerprint")


def merged_rows(sources: list[pl.LazyFrame], run: str, held_rows: int = HELD_ROWS) -> Iterator[pa.RecordBatch]:
    """All rows of the sources by method, query and falling score, as rows of the run."""
    frame = pl.concat([source.select(READ) for source in sources])
    for method, first, last in query_ranges(frame, held_rows):
        held = frame.filter(
            pl.col("method") == method, pl.col("query_id").is_between(pl.lit(first), pl.lit(last))
        ).collect()
        by_query = held.partition_by("query_id", as_dict=True)
        del held
        for key in sorted(by_query):
            rows = by_query.pop(key).sort("score", descending=True)
            yield from rows.insert_column(0, pl.lit(run).alias("run")).to_arrow().to_batches(max_chunksize=20_000)


def query_ranges(frame: pl.LazyFrame, held_rows: int) -> Iterator[tuple[str, str, str]]:
    """(method, first query, last query) of successive parts, each of at most so many rows, or of one query."""
    counts = frame.group_by("method", "query_id").agg(rows=pl.len()).collect().sort("method", "query_id")
    part: tuple[str, str, str] | None = None
    held = 0
    for method, query, rows in counts.iter_rows():
        if part and (part[0] != method or held + rows > held_rows):
            yield part
            part, held = None, 0
        part, held = (method, part[1] if part else query, query), held + rows
    if part:
        yield part
