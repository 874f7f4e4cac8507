"""Rows on their way into a Delta table: checked, joined into row groups, and handed to the writer's thread.

Why a thread: delta-rs pulls a Python stream from threads of its own while the caller is blocked inside of Rust, where no
signal is seen: a step cancelled in Dagster's UI would go on to its last batch, and commit. Here the batches are made in the
caller's thread, where an interrupt ends them at once, and the writer takes them from a queue; abandoned, it commits nothing.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from assets.tables import FINGERPRINT, Table, WrongRows, conform

#: Streamed batches are joined up to a row group, or to this size: row groups then keep the order of the stream.
GROUP_BYTES = 64 * 2**20


def checked_batches(
    table: Table, data: pa.Table | Iterable[pa.RecordBatch], where: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """The rows in the table's schema, about one row group at a time; `WrongRows` where they do not fit."""
    if isinstance(data, pa.Table):
        rows = conform(table, data, where)
        if table.sort_by:
            rows = rows.sort_by([(name, "ascending") for name in table.sort_by])
        batches: Iterable[pa.RecordBatch] = rows.combine_chunks().to_batches(max_chunksize=table.row_group_rows)
    else:
        batches = _grouped((conform(table, batch, where) for batch in data), table.row_group_rows)
    if FINGERPRINT in table.schema.names and set(where) == set(table.partition_by):
        return _of_one_fingerprint(table, batches)
    return iter(batches)


def _grouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cuts the stream anew, into batches of one row group (or of `GROUP_BYTES`).

    delta-rs interleaves what it receives batch by batch, but keeps the order inside of each.
    """
    held: list[pa.RecordBatch] = []
    count = size = 0
    for batch in batches:
        held, count, size = [*held, batch], count + batch.num_rows, size + batch.nbytes
        if count >= rows or size >= GROUP_BYTES:
            joined = pa.concat_batches(held)
            whole = count // rows * rows or count
            yield from (joined.slice(start, rows) for start in range(0, whole, rows))
            rest = joined.slice(whole)
            held, count, size = [rest] if rest.num_rows else [], rest.num_rows, rest.nbytes
    if count:
        yield pa.concat_batches(held)


def _of_one_fingerprint(table: Table, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    seen: set[str] = set()
    for batch in batches:
        seen.update(batch.column(FINGERPRINT).unique().to_pylist())
        if len(seen) > 1:
            raise WrongRows(f"{table.path}: the rows of one partition must have one fingerprint, not {sorted(seen)[:3]}")
        yield batch


class _Abandoned(Exception):
    """Ends the writer's stream in an error, so that it does not commit."""


def hand_over(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], write: Callable[[pa.RecordBatchReader], None]
) -> None:
    """Calls `write(reader)` in a thread and feeds the reader with batches that are made in this one.

    Raises what making the batches raised, or what `write` raised. Once the last batch is handed over, the commit is
    waited for even if an interrupt arrives: it stands or falls as a whole.
    """
    queued: queue.Queue = queue.Queue(maxsize=1)

    def arriving() -> Iterator[pa.RecordBatch]:
        while (batch := queued.get()) is not None:
            if isinstance(batch, _Abandoned):
                raise batch
            yield batch

    with ThreadPoolExecutor(1, "delta-writer") as pool:
        writing = pool.submit(write, pa.RecordBatchReader.from_batches(schema, arriving()))
        try:
            for batch in batches:
                if not _put(queued, batch, writing):
                    break
            else:
                _put(queued, None, writing)
        except BaseException:
            _put(queued, _Abandoned(), writing)
            raise
        writing.result()


def _put(queued: queue.Queue, item: object, writing: Future) -> bool:
    """Waits for room in the queue; False where the writer has ended, and nothing will make room."""
    while not writing.done():
        try:
            queued.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False
