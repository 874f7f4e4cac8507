"""One table of one study (or corpus), read; what is missing or damaged is a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import polars as pl

from assets.lake.stored import stored_table
from assets.specs.mistakes import near_matches
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from orchestration.results.results import Results


def rows_of(results: Results, study: str, name: str, wanted: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
    """What `wanted` makes of a study's table. Raises BadInput where the table or a column of it is not there."""
    table = table_of(results, study, name)
    try:
        return results.lake.collect(table, wanted(results.lake.scan(table)))
    except pl.exceptions.ColumnNotFoundError as error:
        said = str(error).splitlines()[0]
        raise BadInput(
            f"{table.path}: another version of Headwater wrote it ({said}); run study {study} again"
        ) from error


def table_of(results: Results, owner: str, name: str) -> Table:
    """The table of one study (or corpus); what is not there is told by its name."""
    view = results.views.get(name)
    paths = view.paths if view else {}
    if owner not in paths:
        family = view.family if view else "study"
        if family == "study":
            _refuse_undeclared(results, owner)
        hint = near_matches(owner, paths, "studies" if family == "study" else f"names of a {family}")
        raise BadInput(f"{family} {owner}: there is no table {name} of it in {results.lake.place.root}; {hint}")
    return stored_table(results.lake.place, paths[owner])


def _refuse_undeclared(results: Results, study: str) -> None:
    """A study of which there is nothing, neither tables nor a file, is told as the commands that need the file do."""
    from orchestration.studies import registered_study

    has_tables = any(study in view.paths for view in results.views.values() if view.family == "study")
    if results.studies is not None and not has_tables:
        registered_study(study, results.studies)
