"""Rows on their way into a Delta table: checked, cut into row groups, and set aside until all are there.

Why set aside: delta-rs pulls a Python stream from the threads of its own event loop. A stream that waits for
its next batch (a GPU at work) blocks one of them, and two such streams on two cores blocked every Delta call
of the process for good; the caller, inside of Rust, saw no signal meanwhile, and after a conflict the stream
was spent. Rows that are complete have none of this: making them is ordinary Python, an interrupt ends it with
nothing written, the write itself is short, and it can be done again. Up to `MEMORY_BYTES` they wait in
memory, beyond it in an unlinked temporary file (in TMPDIR).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from assets.lake.tables import FINGERPRINT, Table, WrongRows, conform

MEMORY_BYTES = 128 * 2**20
#: Batches are joined up to a row group, or to this size.
GROUP_BYTES = 64 * 2**20
#: What the writer may take before a stream from the temporary file waits for it, but never slower than this.
WRITER_BYTES = 256 * 2**20
SLOWEST_BYTES_PER_SECOND = 32 * 2**20


@contextmanager
def set_aside(
    table: Table, data: pa.Table | Iterable[pa.RecordBatch], where: Mapping[str, str]
) -> Iterator[Callable[[], pa.RecordBatchReader]]:
    """Yields a function that reads the rows from the beginning, as often as it is called.

    They come without the columns' comments: Delta refuses rows whose comment is not the stored one, and a sentence may
    be worded better in a later version.
    """
    schema = pa.schema([field.remove_metadata() for field in table.schema])
    with tempfile.TemporaryFile(prefix="headwater-") as file:
        held, size, spilled = [], 0, None
        for batch in _checked_batches(table, data, where):
            held.append(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            size += batch.nbytes
            if size > MEMORY_BYTES and not isinstance(data, pa.Table):
                spilled = spilled or pa.ipc.new_stream(file, schema)
                _move(held, spilled)
                size = 0
        if spilled is None:
            yield lambda: pa.RecordBatchReader.from_batches(schema, held)
            return
        _move(held, spilled)
        spilled.close()

        def read_again() -> pa.RecordBatchReader:
            file.seek(0)
            return pa.RecordBatchReader.from_batches(schema, _paced(pa.ipc.open_stream(file)))

        yield read_again


def writer_properties(schema: pa.Schema, rows: int | None):
    """How delta-rs writes row groups of so many rows. Bytes are codes that never repeat: a dictionary would be tried in
    vain in every row group, and makes reading a quarter slower."""
    from deltalake import ColumnProperties, WriterProperties

    codes = {
        field.name: ColumnProperties(dictionary_enabled=False) for field in schema if pa.types.is_binary(field.type)
    }
    return WriterProperties(compression="ZSTD", max_row_group_size=rows, column_properties=codes or None)


def _paced(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Holds the stream back while delta-rs has taken more than it has written.

    It accepts rows of one partition faster than it compresses them, without a bound: 1.3 GB of memory for 1.3
    GB of rows.
    """
    at_start = _resident_bytes()
    for batch in batches:
        patience = time.monotonic() + batch.nbytes / SLOWEST_BYTES_PER_SECOND
        while _resident_bytes() - at_start > WRITER_BYTES and time.monotonic() < patience:
            time.sleep(0.01)
        yield batch


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0  # not Linux: no pacing
    return pages * os.sysconf("SC_PAGE_SIZE")


def _move(held: list[pa.RecordBatch], spilled: pa.RecordBatchStreamWriter) -> None:
    for batch in held:
        spilled.write_batch(batch)
    held.clear()


def _checked_batches(
    table: Table, data: pa.Table | Iterable[pa.RecordBatch], where: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """The rows in the table's schema, a row group at a time; `WrongRows` where they do not fit."""
    if isinstance(data, pa.Table):
        rows = conform(table, data, where)
        if table.sort_by:
            rows = rows.sort_by([(name, "ascending") for name in table.sort_by])
        batches: Iterable[pa.RecordBatch] = rows.combine_chunks().to_batches(max_chunksize=table.row_group_rows)
    else:
        batches = _grouped((conform(table, batch, where) for batch in data), table.row_group_rows)
    stamped = FINGERPRINT in table.schema.names and not table.several_fingerprints
    if stamped and set(where) == set(table.partition_by):
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
            raise WrongRows(
                f"{table.path}: the rows of one partition must have one fingerprint, not {sorted(seen)[:3]}"
            )
        yield batch
