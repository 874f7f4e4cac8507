"""SQL for people: one SELECT over the lake's views, in a DuckDB that can read nothing else.

The engine gets the tables as Arrow datasets, because it opens no file itself: then access to files, network and
extensions is switched off, its settings are locked, and Python's variables are out of its sight. A lock on statements
comes on top: only SELECT and EXPLAIN are run.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assets.lake.damage import OF_A_DATA_FILE, damage_sentence, first_line
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.mistakes import near_matches
from compute.errors import BadInput
from orchestration.results.sources import sources_of
from orchestration.results.top_scores import VIEW, TopScores, top_scores
from orchestration.results.views import Moment, View, refuse_unknown_versions

if TYPE_CHECKING:
    import duckdb
    import polars as pl

BATCH_ROWS = 10_000
UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")
_BEFORE = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",
)
_LOCK = ("SET enable_external_access = false", "SET lock_configuration = true")


@dataclass(frozen=True)
class Limits:
    """What one query may take: seconds of time, bytes of memory, rows of its result, threads."""

    seconds: float = 60.0
    memory_bytes: int = 2 << 30
    rows: int = 100_000
    threads: int = 2


@dataclass(frozen=True)
class Answer:
    """The rows of a query; `is_cut` where there were more than the limit."""

    frame: pl.DataFrame
    is_cut: bool
    seconds: float

    def refuse_cut(self) -> None:
        if self.is_cut:
            raise BadInput(
                f"the query gives more than {len(self.frame):,} rows; add a LIMIT, or raise the limit of rows"
            )


def answer(lake: Lake, views: Mapping[str, View], query: str, moment: Moment, limits: Limits) -> Answer:
    """Raises BadInput for what is no single SELECT, for unknown tables, and where a limit is reached."""
    import duckdb

    started, tables = time.monotonic(), []
    refuse_unknown_versions(views.values(), moment)
    with duckdb.connect(":memory:") as engine, _told(lake, tables, views, limits):
        for setting in (*_BEFORE, f"SET memory_limit = '{limits.memory_bytes}B'", f"SET threads = {limits.threads}"):
            engine.execute(setting)
        top = top_scores(engine, query)
        for view in _views_read(engine, query, views):
            tables += _add(engine, lake, view, moment, top if view.name == VIEW else None)
        for setting in _LOCK:
            engine.execute(setting)
        with _interrupted_after(engine, limits.seconds):
            frame = _rows(engine, query, limits.rows)
    return Answer(frame.head(limits.rows), len(frame) > limits.rows, time.monotonic() - started)


def _views_read(engine: duckdb.DuckDBPyConnection, query: str, views: Mapping[str, View]) -> list[View]:
    """The views that a query names, so that no other table is opened; all of them where it names none (SHOW TABLES)
    or cannot be asked."""
    import duckdb

    statements = engine.extract_statements(query)
    if not statements:
        raise BadInput("the query is empty; write one SELECT")
    if len(statements) != 1:
        raise BadInput(f"the query holds {len(statements)} statements; write one SELECT")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise BadInput("the query is a PIVOT that does not name its columns; write ON method IN ('ekfac', 'dot')")
    if kind not in ("SELECT", "EXPLAIN"):
        raise BadInput(f"the query is {kind}, and results can only be read; write a SELECT")
    try:
        named = {name.lower() for name in engine.get_table_names(statements[0].query)}
    except duckdb.BinderException:  # it looks for the columns of JOIN … USING, and there are no tables yet
        named = set()
    return [view for view in views.values() if not named or named & {view.name, *view.paths.values()}]


def _add(
    engine: duckdb.DuckDBPyConnection, lake: Lake, view: View, moment: Moment, top: TopScores | None
) -> list[Table]:
    """Makes a view of its tables; a column that only some of them have is null in the others.

    Each table alone can be read under its path too.
    """
    tables, parts = [], []
    for source in sources_of(lake, view, moment):
        path, files = source.table.path, f"files of {source.table.path}"
        engine.register(files, source.dataset(top))
        engine.execute(
            f"CREATE VIEW {_name(path)} AS SELECT {', '.join(map(_name, source.columns))} FROM {_name(files)}"
        )
        parts.append(f"SELECT {_text(source.owner)} AS {_name(view.owner.name)}, * FROM {_name(path)}")
        tables.append(source.read)
    engine.execute(f"CREATE VIEW {_name(view.name)} AS {' UNION ALL BY NAME '.join(parts)}")
    return tables


def _rows(engine: duckdb.DuckDBPyConnection, query: str, most: int) -> pl.DataFrame:
    """One row more than `most` where there are more."""
    import polars as pl
    import pyarrow as pa

    reader = engine.sql(query).to_arrow_reader(BATCH_ROWS)
    batches, count = [], 0
    for batch in reader:
        batches.append(batch)
        count += len(batch)
        if count > most:
            break
    table = pa.Table.from_batches(batches, reader.schema)
    return pl.from_arrow(table.rename_columns(list(_distinct(table.column_names)))).head(most + 1)


def _distinct(names: Sequence[str]) -> Iterator[str]:
    """A result's columns may have one name, a frame's may not: `score`, `score_1`, … as DuckDB's frames."""
    repeats: dict[str, int] = {}
    for name in names:
        new, number = name, repeats.get(name.lower(), 0)
        while new.lower() in repeats:  # DuckDB's names are the same in capitals
            number += 1
            new = f"{name}_{number}"
        repeats |= {name.lower(): number, new.lower(): 0} if new != name else {name.lower(): 0}
        yield new


@contextmanager
def _interrupted_after(engine: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, engine.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _told(lake: Lake, tables: Sequence[Table], views: Mapping[str, View], limits: Limits) -> Iterator[None]:
    """What DuckDB refuses, in a sentence that names what may be done instead."""
    import duckdb

    try:
        yield
    except duckdb.InterruptException as error:
        raise BadInput(
            f"the query took longer than {limits.seconds:g} seconds; narrow it down, or allow more"
        ) from error
    except duckdb.OutOfMemoryException as error:
        allowed = f"{limits.memory_bytes / 2**30:.3g} GiB"
        raise BadInput(f"the query needs more than {allowed} of memory; narrow it down, or allow more") from error
    except duckdb.PermissionException as error:
        raise BadInput(f"the query reaches beyond the tables of the lake; read one of {', '.join(views)}") from error
    except duckdb.Error as error:
        if tables and OF_A_DATA_FILE.search(str(error)):
            raise BadInput(damage_sentence(lake.place, tables, error)) from error
        raise BadInput(f"the query cannot be answered: {_cleaned(error, views)}") from error


def _cleaned(error: Exception, views: Mapping[str, View]) -> str:
    """DuckDB's first line, and what it proposes instead; for a table, what the lake has."""
    if missing := UNKNOWN_TABLE.search(str(error)):
        return f"there is no table {missing[1]} in the lake; {near_matches(missing[1], views, 'tables')}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    hints = [line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))]
    return " ".join([first_line(error), *hints])


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
