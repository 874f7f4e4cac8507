"""What a table of the lake says of itself: key, grain and columns with their sentences, read back from its log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from assets.lake.damage import first_line
from assets.lake.tables import Column, Table
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.place import Place


def stored_table(place: Place, path: str) -> Table:
    """The declaration with which the newest version of a table was written. Raises BadInput where none can be read."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        source = DeltaTable(f"{place.root}/{path}", storage_options=place.options)
        about, schema = source.metadata(), pa.schema(source.schema().to_arrow())
        return Table(
            key=tuple(path.split("/")),
            grain=about.description or "",
            columns=tuple(_column(field) for field in schema),
            partition_by=tuple(about.partition_columns),
        )
    except (DeltaError, OSError, ValueError) as error:
        raise BadInput(
            f"{path}: is no table that Headwater wrote ({first_line(error)}); restore or remove it"
        ) from error


def _column(field: pa.Field) -> Column:
    comment = (field.metadata or {}).get(b"comment", b"")
    return Column(field.name, field.type, comment.decode(), field.nullable)
