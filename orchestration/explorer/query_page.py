"""A query's page: its ranked documents, one of them read token by token, and another ranking of the query beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.findings.report.evidence_tables import method_name
from assets.specs.methods import in_importance
from compute.errors import BadInput
from orchestration.explorer import statements
from orchestration.explorer.address import Option, address
from orchestration.explorer.known import refuse_unknown, refuse_unknown_study, study_names
from orchestration.explorer.shown import Reading, Row, folded, marked, reading
from orchestration.explorer.study_page import Filters, chosen_queries
from orchestration.results import Results, ranked
from orchestration.results.listing import Listing, listed, shares
from orchestration.results.scores import made_from

RANKINGS, ENDS = ("normed", "raw"), ("top", "bottom")


@dataclass(frozen=True)
class Asked:
    """What an address asks for: `source` alone of the ranked documents, `beside` another study or the same with
    another method."""

    study: str
    query: str
    method: str | None = None
    ranking: str = "normed"
    end: str = "top"
    source: str | None = None
    document: str | None = None
    beside: str | None = None
    beside_method: str | None = None


@dataclass(frozen=True)
class Side:
    """One study's ranked documents for the query by one method, near-duplicates folded; `rows` counts them all."""

    study: str
    models: Sequence[str]
    query: dict[str, Any]
    listing: Listing
    methods: Sequence[str]
    groups: Sequence[tuple[Row, Sequence[Row]]]
    sources: Mapping[str, int]
    rows: pl.DataFrame

    @property
    def ranks(self) -> dict[str, int]:
        """Document -> its rank."""
        return dict(zip(self.rows["document_id"], self.rows["rank"], strict=True))


@dataclass(frozen=True)
class QueryPage:
    """`before` and `after` are the query's neighbours among those that pass the filters."""

    side: Side
    beside: Side | None
    in_both: int
    read: Reading | None
    has_rankings: bool
    choices: Mapping[str, Sequence[Option]]
    before: str | None
    after: str | None
    place: tuple[int, int] | None
    sql: str
    state: dict[str, Any]
    filters: dict[str, Any]


def query(results: Results, asked: Asked, filters: Filters) -> QueryPage:
    """Raises BadInput for what is not there."""
    refuse_unknown_study(results, asked.study)
    refuse_unknown_order(asked)
    side = _side(results, asked, asked.study, asked.method)
    beside = _beside(results, asked, side)
    state = {**vars(asked), "document": None, **vars(filters)}
    order = chosen_queries(results, asked.study, filters)["query_id"].to_list()
    at = order.index(asked.query) if asked.query in order else None
    return QueryPage(
        side=side,
        beside=beside,
        in_both=len(side.ranks.keys() & beside.ranks.keys()) if beside else 0,
        read=_read(results, asked, side),
        has_rankings=ranked.has_table(results, asked.study, "rankings"),
        choices=_choices(results, asked, side, beside, state),
        before=order[at - 1] if at else None,
        after=order[at + 1] if at is not None and at + 1 < len(order) else None,
        place=None if at is None else (at + 1, len(order)),
        sql=statements.of_query(asked.study, side.listing, asked.source),
        state=state,
        filters={"study": asked.study, **vars(filters)},
    )


def refuse_unknown_order(asked: Asked) -> None:
    """Raises BadInput for a ranking or an end that no table has."""
    refuse_unknown(asked.ranking, RANKINGS, "ranking")
    refuse_unknown(asked.end, ENDS, "end")


def _side(results: Results, asked: Asked, study: str, method: str | None) -> Side:
    row = ranked.query_known(results, study, asked.query)
    methods = in_importance(ranked.methods_of(results, study)) if ranked.has_table(results, study, "rankings") else []
    listing = Listing(asked.query, ranked.chosen_method(study, methods, method), asked.ranking, asked.end)
    rows = (
        listed(results, study, listing)
        if methods
        else pl.DataFrame(schema={"source": pl.String, "rank": pl.Int32, "document_id": pl.String})
    )
    counts = rows["source"].drop_nulls().value_counts(sort=True)
    kept = rows.filter(pl.col("source") == asked.source) if asked.source else rows
    groups = folded(marked(kept, row["answer"]))
    models = made_from(results, study, "model")
    return Side(study, models, row, listing, methods, groups, dict(counts.iter_rows()), kept)


def _beside(results: Results, asked: Asked, side: Side) -> Side | None:
    if not (asked.beside or asked.beside_method):
        return None
    study = asked.beside or asked.study
    method = asked.beside_method
    if method is None:
        there = ranked.methods_of(results, study) if ranked.has_table(results, study, "rankings") else []
        same = side.listing.method
        method = same if same in there and study != side.study else None
    return _side(results, asked, study, method)


def _read(results: Results, asked: Asked, side: Side) -> Reading | None:
    """The document asked for, or the first."""
    rows = [row for first, more in side.groups for row in (first, *more)]
    chosen = next((row for row in rows if row["document_id"] == asked.document), None)
    if asked.document and chosen is None:
        raise BadInput(
            f"document {asked.document} is not listed for query {asked.query} of study {asked.study} at this end"
        )
    chosen = chosen or (rows[0] if rows else None)
    if chosen is None:
        return None
    return reading({**chosen, **shares(results, side.study, side.listing, chosen["rank"])}, side.query["answer"])


def _choices(
    results: Results, asked: Asked, side: Side, beside: Side | None, state: Mapping[str, Any]
) -> dict[str, list[Option]]:
    def option(told: str, is_chosen: bool, **changes: str | None) -> Option:
        return Option(told, address("query", state, **changes), is_chosen)

    ends = (("top", "most positive"), ("bottom", "most negative"))
    sources = [option(f"{name} ({count})", asked.source == name, source=name) for name, count in side.sources.items()]
    return {
        "end": [option(told, asked.end == end, end=end) for end, told in ends],
        "ranking": [option(each, asked.ranking == each, ranking=each) for each in RANKINGS],
        "method": [option(method_name(each), side.listing.method == each, method=each) for each in side.methods],
        "source": [option("all sources", not asked.source, source=None), *sources],
        "beside": _besides(results, asked, side, beside, option),
        "method beside": []
        if beside is None or beside.study == side.study
        else [option(method_name(each), beside.listing.method == each, beside_method=each) for each in beside.methods],
    }


def _besides(results: Results, asked: Asked, side: Side, beside: Side | None, option) -> list[Option]:
    """Nothing, another method of the study, or another study that has the query."""
    own = [each for each in side.methods if each != side.listing.method]
    there = None if beside is None else (beside.study, beside.listing.method)
    others = [each for each in study_names(results) if each != side.study and _has_query(results, each, asked.query)]
    return [
        option("alone", beside is None, beside=None, beside_method=None),
        *(
            option(method_name(each), there == (side.study, each), beside=side.study, beside_method=each)
            for each in own
        ),
        *(
            option(f"study {each}", bool(there) and there[0] == each, beside=each, beside_method=None)
            for each in others
        ),
    ]


def _has_query(results: Results, name: str, query_id: str) -> bool:
    try:
        ranked.query_known(results, name, query_id)
    except BadInput:
        return False
    return True
