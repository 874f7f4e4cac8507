"""Matrices as rows of Delta tables: streamed out a row at a time, placed by their row number on the way back.

Of a matrix in diagonal blocks a row holds what lies in its block alone. A block has as many rows as its rows have
entries, so the rows tell the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

ELEMENTS_AT_ONCE = 2**22  # 16 MiB of float32 per Arrow batch
VECTOR = pa.list_(pa.float32())


def matrix_batches(
    matrix: np.ndarray,
    schema: pa.Schema,
    *,
    index: str,
    values: str,
    constants: dict,
    by_row: dict | None = None,
    first: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Rows of `matrix`, many at a time: row number from `first` on in `index`, the row in `values`, constants, and one
    value a row."""
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), rows_at_once):
        block = matrix[start : start + rows_at_once]
        columns = {name: pa.array([value] * len(block), schema.field(name).type) for name, value in constants.items()}
        numbers = range(first + start, first + start + len(block))
        columns[index] = pa.array(numbers, schema.field(index).type)
        columns[values] = vectors(block)
        for name, per_row in (by_row or {}).items():
            columns[name] = pa.array(per_row[start : start + len(block)], schema.field(name).type)
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def vectors(block: np.ndarray) -> pa.ListArray:
    """A two-dimensional block as one list of float32 per row, without a Python object per number."""
    import numpy as np

    offsets = np.arange(0, block.size + 1, block.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(block, dtype=np.float32).reshape(-1))


def stacked(rows: pl.DataFrame, *, index: str, values: str) -> np.ndarray:
    """The matrix whose row `index` is `values`, whatever the order of the rows."""
    import numpy as np

    flat = rows[values].explode().to_numpy().reshape(len(rows), -1)
    matrix = np.empty_like(flat)
    matrix[rows[index].to_numpy()] = flat
    return matrix


def diagonal_blocks(rows: pl.DataFrame, *, index: str, values: str) -> list[np.ndarray]:
    """The diagonal blocks of the matrix whose rows these are, whatever their order; one where it was whole."""
    import polars as pl

    rows = rows.sort(index)
    found, start = [], 0
    while start < len(rows):
        part = rows.slice(start, len(rows[values][start]))
        found.append(stacked(part.with_columns(pl.col(index) - start), index=index, values=values))
        start += len(part)
    return found
