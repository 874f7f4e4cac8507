"""The list of studies, and a study's queries with the filters over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from assets.specs.methods import main_method
from compute.errors import BadInput
from orchestration.explorer import statements
from orchestration.explorer.known import refuse_unknown_study, study_names
from orchestration.results import Results, ranked
from orchestration.results.listing import leading_sources
from orchestration.results.scores import made_from


@dataclass(frozen=True)
class Filters:
    """Which of a study's queries are shown; they stay in the address while one reads query after query.

    `right` is yes or no; `leading` the source of the first document of the query's ranking; `origin` the source that
    the query's own row names.
    """

    kind: str | None = None
    task: str | None = None
    right: str | None = None
    leading: str | None = None
    origin: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class StudyCard:
    """A study in the list."""

    name: str
    queries: int
    right: int
    models: Sequence[str]
    corpora: Sequence[str]
    has_rankings: bool
    problem: str = ""


@dataclass(frozen=True)
class StudyPage:
    """A study's queries, as far as they are chosen, and what can be chosen: per filter its values."""

    study: str
    models: Sequence[str]
    corpora: Sequence[str]
    queries: Sequence[dict[str, Any]]
    total: int
    choices: dict[str, Sequence[str]]
    has_rankings: bool
    sql: str
    state: dict[str, Any]


def studies(results: Results) -> list[StudyCard]:
    """All studies that have been run, also those whose tables cannot be read."""
    return [_card(results, name) for name in study_names(results)]


def study(results: Results, name: str, filters: Filters) -> StudyPage:
    """Raises BadInput for an unknown study, and for what `right` cannot be."""
    refuse_unknown_study(results, name)
    queries, method = _with_sources(results, name)
    columns = ("kind", "task", "leading", "origin")
    return StudyPage(
        study=name,
        models=made_from(results, name, "model"),
        corpora=made_from(results, name, "corpus"),
        queries=_kept(queries, filters).to_dicts(),
        total=len(queries),
        choices={column: queries[column].drop_nulls().unique().sort().to_list() for column in columns},
        has_rankings=ranked.has_table(results, name, "rankings"),
        sql=statements.of_study(name, _query_set(results, name), method, asdict(filters)),
        state={"study": name, **asdict(filters)},
    )


def chosen_queries(results: Results, name: str, filters: Filters) -> pl.DataFrame:
    """The queries that pass the filters, in their order. What the filters do not ask for is not read."""
    if filters.leading or filters.origin:
        return _kept(_with_sources(results, name)[0], filters)
    return _kept(ranked.study_queries(results, name), filters)


def _kept(queries: pl.DataFrame, filters: Filters) -> pl.DataFrame:
    for column in ("kind", "task", "leading", "origin"):
        if value := getattr(filters, column):
            queries = queries.filter(pl.col(column) == value)
    if filters.right:
        if filters.right not in ("yes", "no"):
            raise BadInput(f"right is {filters.right}; give yes or no, or leave it out")
        queries = queries.filter(pl.col("is_right") == (filters.right == "yes"))
    for word in (filters.words or "").lower().split():
        text = pl.concat_str("query_id", "prompt", "completion", separator="\n").str.to_lowercase()
        queries = queries.filter(text.str.contains(word, literal=True))
    return queries


def _with_sources(results: Results, name: str) -> tuple[pl.DataFrame, str | None]:
    """The queries with the source that leads their ranking and the one that they name themselves, where there are
    such; and by which method it leads."""
    queries = ranked.study_queries(results, name)
    method = main_method(ranked.methods_of(results, name)) if ranked.has_table(results, name, "rankings") else None
    nothing = pl.DataFrame(schema={"query_id": pl.String, "leading": pl.String})
    leading = leading_sources(results, name, method) if method else nothing
    own = _own_sources(results, name)
    return queries.join(leading, "query_id", "left").join(own, "query_id", "left", maintain_order="left"), method


def _own_sources(results: Results, name: str) -> pl.DataFrame:
    """query_id and origin, out of the fields that the query set has beyond those that Headwater knows."""
    rows: list[dict[str, Any]] = []
    if (query_set := _query_set(results, name)) and ranked.has_table(results, query_set, "queries"):
        rows = ranked.read_table(results, query_set, "queries").select("query_id", "extra").to_dicts()
    sources = {row["query_id"]: json.loads(row["extra"]).get("source") for row in rows}
    named = [(query, source) for query, source in sources.items() if isinstance(source, str)]
    return pl.DataFrame(named, schema={"query_id": pl.String, "origin": pl.String}, orient="row")


def _query_set(results: Results, name: str) -> str | None:
    return next(iter(made_from(results, name, "queries")), None)


def _card(results: Results, name: str) -> StudyCard:
    try:
        queries = ranked.study_queries(results, name)
        models, corpora = (made_from(results, name, family) for family in ("model", "corpus"))
    except BadInput as error:
        return StudyCard(name, 0, 0, (), (), False, str(error))
    listed = ranked.has_table(results, name, "rankings")
    return StudyCard(name, len(queries), int(queries["is_right"].sum() or 0), models, corpora, listed)
