"""Rows of results on a terminal, and as JSON, CSV or Parquet; and the list of the tables there are."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from orchestration.results.results import Results

LONGEST = 60
"""Characters of a value on a terminal; whole values are in the other forms."""


SHORT = 64  # tokens: Grosse et al. 2023 marked documents of some hundreds


def spurious(tokens: int) -> str:
    """What it means that one token carries nearly all of a document of so many tokens."""
    return "likely spurious" if tokens >= SHORT else "usual in so short a text"


def print_rows(frame: pl.DataFrame) -> None:
    """A grid on standard output: numbers to the right, long values cut."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name, kind in frame.schema.items():
        grid.add_column(Text(name), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        grid.add_row(*(Text(shown(value)) for value in row))
    console().print(grid)


def shown(value: Any) -> str:
    """One value in one line. Control characters of a document do not reach the terminal."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        value = f"[{', '.join(shown(each) for each in value[:3])}{', …' if len(value) > 3 else ''}]"
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def printable(text: str) -> str:
    """The text with its lines, and a blank for everything else that a terminal would obey."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in text)


def print_json(frame: pl.DataFrame) -> None:
    """A list of objects."""
    print(json.dumps(plain_rows(frame), ensure_ascii=False, indent=2))


def plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: numbers that it does not know (NaN, infinity) are null."""
    return [{name: _plain(value) for name, value in row.items()} for row in frame.to_dicts()]


def print_csv(frame: pl.DataFrame) -> None:
    sys.stdout.write(flat(frame).write_csv())


def save_rows(frame: pl.DataFrame, path: Path) -> None:
    """Writes a file of the kind that its name ends in: .parquet, .csv or .jsonl. Raises BadInput for other names."""
    check_name(path)
    try:
        write_rows(frame, path, path.suffix.removeprefix("."))
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def write_rows(frame: pl.DataFrame, target: Path | BinaryIO, form: str) -> None:
    """As parquet, csv or jsonl."""
    if form == "parquet":
        frame.write_parquet(target)
    elif form == "csv":
        flat(frame).write_csv(target)
    else:
        frame.write_ndjson(target)


def check_name(path: Path) -> None:
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise BadInput(f"{path}: end the file's name in .parquet, .csv or .jsonl")


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """For CSV, which knows no lists: those are JSON there."""
    import polars as pl

    nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind == pl.Binary]
    as_json = {
        name: pl.Series(name, [None if v is None else json.dumps(_plain(v)) for v in frame[name].to_list()], pl.String)
        for name in nested
    }
    return frame.with_columns(**as_json)


def print_tables(results: Results) -> None:
    """Every view with its grain and columns, as the lake itself tells them."""
    from rich.table import Table as Grid
    from rich.text import Text

    if not results.views:
        console().print(f"The lake {results.lake.place.root} holds no tables yet; headwater run STUDY.yaml fills it")
        return
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("table", no_wrap=True)
    for heading in ("rows are", "columns"):
        grid.add_column(heading, overflow="fold")
    for name, view in results.views.items():
        table = next(iter(results.tables(name).values()))
        columns = [view.owner.name, *(column.name for column in table.columns)]
        grid.add_row(Text(name), Text(table.grain), Text(", ".join(columns), style="dim"))
    console().print(grid)


def tables_json(results: Results) -> list[Mapping[str, Any]]:
    """The same with each column's type and sentence."""
    return [
        {
            "table": name,
            "of": list(view.paths),
            "grain": table.grain,
            "columns": [
                {"name": column.name, "type": str(column.type), "description": column.description}
                for column in (view.owner, *table.columns)
            ],
        }
        for name, view in results.views.items()
        for table in [next(iter(results.tables(name).values()))]
    ]


def console() -> Console:
    """Standard output; as wide as it takes where nobody looks at it."""
    from rich.console import Console

    there = Console(highlight=False)
    return there if there.is_terminal else Console(highlight=False, width=500)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
