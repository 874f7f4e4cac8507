"""Parquet files, by row group and batch; with pyarrow, as a truncated file makes polars panic past `except`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.corpus.files import content_digest, filesystem, readable, split_suffixes
from assets.corpus.reader import Extent, RawRecord, SourceFile, even_extents
from compute.errors import BadInput

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Parquet:
    """Reader of Parquet files; with `fields`, only the columns that hold them are decoded."""

    owner: str
    fields: frozenset[str] | None = None

    def probe(self, file: SourceFile) -> None:
        with self._opened(file):
            pass

    def field_names(self, file: SourceFile) -> list[str]:
        with self._opened(file) as table:
            return table.schema_arrow.names

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        with self._opened(file) as table:
            total = table.metadata.num_rows
        yield from even_extents(total, stops, content_digest(self.owner, file))

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        with self._opened(file) as table:
            stop = table.metadata.num_rows if stop is None else stop
            groups, position = _row_groups(table, start, stop)
            for batch in table.iter_batches(BATCH_ROWS, row_groups=groups, columns=self._columns(table)):
                first = max(start - position, 0)
                wanted = batch.slice(first, max(stop - position - first, 0))
                yield from _rows(file, position + first, wanted)
                position += batch.num_rows

    def source_name(self, file: SourceFile) -> str:
        return split_suffixes(file.path)[0]

    def _columns(self, table: ParquetFile) -> list[str] | None:
        if self.fields is None:
            return None
        tops = self.fields | {field.split(".")[0] for field in self.fields}
        return [name for name in table.schema_arrow.names if name in tops] or None

    @contextmanager
    def _opened(self, file: SourceFile) -> Iterator[ParquetFile]:
        import pyarrow
        import pyarrow.parquet

        fs, root = filesystem(file.uri)
        with readable(self.owner, file.path), fs.open(root, "rb") as stream:
            try:
                yield pyarrow.parquet.ParquetFile(stream, pre_buffer=False)
            except (pyarrow.ArrowException, OSError) as error:
                raise BadInput(
                    f"{self.owner}: {file.path} is no readable Parquet file (truncated or damaged); copy it again"
                ) from error


def _row_groups(table: ParquetFile, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that hold rows `start` to `stop`, and the row at which the first of them begins."""
    groups, begin, position = [], 0, 0
    for group in range(table.metadata.num_row_groups):
        end = position + table.metadata.row_group(group).num_rows
        if position < stop and end > start:
            begin = begin if groups else position
            groups.append(group)
        position = end
    return groups, begin


def _rows(file: SourceFile, position: int, batch: RecordBatch) -> Iterator[RawRecord]:
    for row, record in enumerate(_records(batch), position):
        problem = None if record is not None else "The row holds a string that is not valid UTF-8."
        yield RawRecord(row, f"{file.path} row {row + 1}", f"{file.key}:{row + 1}", record, problem)


def _records(batch: RecordBatch) -> list[dict[str, Any] | None]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # find the rows to blame, so that the others are kept
        return [_record(batch.slice(row, 1)) for row in range(batch.num_rows)]


def _record(row: RecordBatch) -> dict[str, Any] | None:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return None
