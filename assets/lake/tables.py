"""What a Delta table of the lake looks like: key, grain and columns, and the check that rows really fit.

A table's key is its asset's key, and its path in the lake (`design.md`: *a Delta table has the same path as
its asset*). Columns are declared once, here as data, and serve four readers: Delta (schema and column
comments), the check before every write, Dagster's column view, and people. The check is ours because Delta's
own is lossy: its merge mode took floats into an integer column, and a null in a required
column fails there without naming the column's rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import dagster as dg

NAME = re.compile(r"^[a-z0-9][a-z0-9_-]*$")
COLUMN_NAME = re.compile(r"^[a-z_][a-z0-9_]*$")

#: The column by which downstream work knows whether a partition changed: 16 hexadecimal characters (Delta's
#: file statistics keep at most 64 bytes of a string), the same in every row of a partition. See
#: `Lake.fingerprints`.
FINGERPRINT = "fingerprint"


class WrongRows(ValueError):
    """Rows that do not fit their table: a mistake in the step that wrote them, not in the user's input."""


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, and a sentence on what a value means (unit and sign included)."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False

    def __post_init__(self) -> None:
        if not COLUMN_NAME.match(self.name):
            raise ValueError(f"column {self.name!r}: a name is lower-case letters, digits and underscores")
        if not self.description.strip():
            raise ValueError(f"column {self.name}: say in a sentence what a value means")
        if reason := _unstorable(self.type):
            raise ValueError(f"column {self.name}: {reason}")

    @property
    def field(self) -> pa.Field:
        # "comment" is where Delta readers (Spark, Databricks, delta-rs) look for a column's description.
        return pa.field(self.name, self.type, nullable=self.nullable, metadata={"comment": self.description})


@dataclass(frozen=True)
class Table:
    """A Delta table: `key` is its path, `grain` its meaning in one sentence ("one row per …").

    `sort_by` orders the rows of a `pa.Table` before it is written, so that row groups cover narrow ranges and
    readers skip most of them; streamed rows must come in that order already. Delta does not promise row order
    to readers: place rows by a column, never by position. `row_group_rows` is what a point look-up has to
    decompress: small for look-ups by id, large for scans; rows that hold whole vectors want fewer, because a
    writer holds a row group in memory. `file_bytes` is about what a file grows to where readers should skip whole
    files, by the statistics that stand in the log. `several_fingerprints`: its partitions gather rows of several
    inputs, and their commits tell what they hold.
    """

    key: tuple[str, ...]
    grain: str
    columns: tuple[Column, ...]
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    row_group_rows: int = 50_000
    file_bytes: int | None = None
    several_fingerprints: bool = False

    def __post_init__(self) -> None:
        if not self.key or not all(NAME.match(part) for part in self.key):
            raise ValueError(f"table key {self.key}: each part is lower-case letters, digits, '-' and '_'")
        if not self.grain.startswith("one row per "):
            raise ValueError(f"table {self.path}: the grain reads 'one row per …', not {self.grain!r}")
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"table {self.path}: a column is declared twice in {names}")
        if unknown := [name for name in (*self.partition_by, *self.sort_by) if name not in names]:
            raise ValueError(f"table {self.path}: {unknown} are not among its columns {names}")
        for column in self.columns:
            if column.name in self.partition_by and (column.type != pa.string() or column.nullable):
                raise ValueError(f"table {self.path}: partition column {column.name} must be a required string")

    @property
    def path(self) -> str:
        return "/".join(self.key)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([column.field for column in self.columns])

    @property
    def asset_key(self) -> dg.AssetKey:
        import dagster as dg

        return dg.AssetKey(list(self.key))

    def dagster_columns(self) -> dg.TableSchema:
        """The same columns for Dagster's UI, with the sentence of each."""
        import dagster as dg

        columns = [
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in self.columns
        ]
        return dg.TableSchema(columns=columns)


def conform(table: Table, batch: pa.RecordBatch | pa.Table, where: Mapping[str, str]) -> pa.RecordBatch | pa.Table:
    """The same rows in exactly the table's schema, or `WrongRows` naming the column that does not fit.

    Columns may come in any order, and text, bytes and lists in any of Arrow's layouts (polars hands over
    large ones); nothing else is converted. Floats may be NaN. Rows outside of `where` (partition column ->
    value) are refused.
    """
    _same_columns(table, batch.schema.names)
    columns = [_conform_column(table, column, batch.column(column.name)) for column in table.columns]
    for name, value in where.items():
        _only_value(table, name, value, batch.column(name))
    return type(batch).from_arrays(columns, schema=table.schema)


def _same_columns(table: Table, names: list[str]) -> None:
    declared = [column.name for column in table.columns]
    if missing := [name for name in declared if name not in names]:
        raise WrongRows(f"{table.path}: the rows lack the column {', '.join(missing)}")
    if extra := [name for name in names if name not in declared]:
        raise WrongRows(f"{table.path}: the rows have a column {', '.join(extra)} that the table does not declare")
    if len(names) > len(declared):
        raise WrongRows(f"{table.path}: a column comes twice in {names}")


def _conform_column(table: Table, column: Column, values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not column.nullable and values.null_count:
        raise WrongRows(
            f"{table.path}: column {column.name} is required, but {values.null_count} of {len(values)} rows are null"
        )
    if values.type == column.type:
        return values
    if _layout_free(values.type) != _layout_free(column.type):
        raise WrongRows(f"{table.path}: column {column.name} should be {column.type}, but the rows have {values.type}")
    return values.cast(column.type)


def _only_value(table: Table, name: str, value: str, values: pa.Array | pa.ChunkedArray) -> None:
    outside = pc.filter(values, pc.not_equal(values, value))
    if len(outside):
        raise WrongRows(
            f"{table.path}: {len(outside)} rows have {name} = {outside[0].as_py()!r}, outside of the partition "
            f"{name} = {value!r} that is being written"
        )


def _layout_free(kind: pa.DataType) -> pa.DataType:
    """The type with Arrow's layouts folded: large or view text, bytes and lists hold the same values."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_layout_free(kind.value_type))
    return kind


def _unstorable(kind: pa.DataType) -> str | None:
    """Why Delta or polars cannot keep this type unchanged, or None."""
    for part in _nested(kind):
        if pa.types.is_unsigned_integer(part) or pa.types.is_float16(part):
            return f"Delta does not keep {part}; use a signed integer, float32 or float64"
        if pa.types.is_fixed_size_list(part):
            return "polars cannot read a fixed-size list back from Delta; use list_(…) or binary()"
        if pa.types.is_timestamp(part) and (part.unit != "us" or part.tz != "UTC"):
            return "Delta keeps time in microseconds; use timestamp('us', tz='UTC')"
        if _layout_free(part) != part:
            return f"declare {_layout_free(part)} rather than {part}; other layouts are converted on the way in"
    return None


def _nested(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    for index in range(kind.num_fields):
        yield from _nested(kind.field(index).type)
