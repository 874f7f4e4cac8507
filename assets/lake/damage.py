"""Damaged data files: one sentence instead of a traceback, or of a panic that no `except Exception` catches.

A truncated Parquet file makes polars panic with a `BaseException`; pyarrow raises an `OSError` that speaks of
byte ranges. Both become `BadInput`, naming the file that does not have the size that Delta's log gives it.
Nothing is repaired here: delta-rs' `repair()` would drop the file from the table without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import unquote

import pyarrow as pa

from assets.lake.place import Place
from assets.lake.tables import Table
from compute.errors import BadInput

#: How polars, pyarrow and delta-rs' file system speak of a file that is not what it should be.
OF_A_DATA_FILE = re.compile(r"parquet|thrift|page header|compressed data|LocalFileSystem|object store", re.IGNORECASE)


def is_damage(error: BaseException) -> bool:
    """Whether a read failed on the lake's files: a panic of polars, or an error that speaks of a data file."""
    if type(error).__name__ == "PanicException":
        return True
    from polars.exceptions import PolarsError

    return isinstance(error, OSError | PolarsError | pa.ArrowInvalid) and bool(OF_A_DATA_FILE.search(str(error)))


def damage_sentence(place: Place, tables: Sequence[Table], error: BaseException) -> str:
    """Names the data file that is not what the log says; failing that, the tables and what the reader said."""
    for table in tables:
        if found := damaged_file(place, table):
            return f"{table.path}: {found}; materialize the asset {table.path} again, or restore the file"
    names = ", ".join(table.path for table in tables) or "a table"
    return (
        f"{names}: a data file in the lake {place.root} cannot be read ({first_line(error)}); "
        "materialize that asset again, or restore the file"
    )


def damaged_file(place: Place, table: Table) -> str | None:
    """The first data file of the table's newest version that is missing or has another size than its log
    entry.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        source = DeltaTable(f"{place.root}/{table.path}", storage_options=place.options)
        actions = pa.table(source.get_add_actions(flatten=True))
        infos = place.files(table.path).get_file_info([unquote(path) for path in actions["path"].to_pylist()])
    except (DeltaError, OSError, ValueError):
        return None  # the search must not replace the error that it is to explain
    for info, size in zip(infos, actions["size_bytes"].to_pylist(), strict=True):
        if info.size != size:
            held = "is missing" if info.size is None else f"has {info.size} bytes instead of {size}"
            return f"the data file {info.path} {held}"
    return None


@contextmanager
def damage_as_bad_input(place: Place, tables: Sequence[Table]) -> Iterator[None]:
    """Around reads of `tables` (which may grow meanwhile): damage becomes `BadInput`; every other exception, an
    interrupt too, passes unchanged.
    """
    try:
        yield
    except BaseException as error:
        if not is_damage(error):
            raise
        raise BadInput(damage_sentence(place, tables, error)) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
