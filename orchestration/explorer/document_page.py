"""A document's own page: what its text did to each query, by the scores of all queries and by the rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.findings.report.evidence_tables import method_name
from assets.specs.methods import in_importance
from orchestration.explorer import statements
from orchestration.explorer.address import Option, address
from orchestration.explorer.known import refuse_unknown, refuse_unknown_study
from orchestration.results import Results, ranked
from orchestration.results.listing import places
from orchestration.results.scores import norm_of_document, scores_of_document

EACH_END = 10
ORDERS = {"score": "score", "per_nat": "score per nat"}
"""By what the queries are ordered; a completion of many nats has larger scores."""


@dataclass(frozen=True)
class DocumentPage:
    """`best` and `worst` queries of `scored` in all; `places` is where rankings list the document."""

    study: str
    document: dict[str, Any]
    norm: dict[str, Any] | None
    methods: Sequence[Option]
    orders: Sequence[Option]
    best: Sequence[dict[str, Any]]
    worst: Sequence[dict[str, Any]]
    scored: int
    places: Sequence[dict[str, Any]]
    sql: str
    state: dict[str, Any]


def document(
    results: Results, study: str, document_id: str, method: str | None, order: str, everything: bool
) -> DocumentPage:
    """Raises BadInput for what is not there. With `everything` all queries are among the best."""
    row, scores = scored_queries(results, study, document_id)
    refuse_unknown(order, ORDERS, "order")
    methods = in_importance(scores["method"].unique().to_list())
    chosen = ranked.chosen_method(study, methods, method)
    ordered = scores.filter(method=chosen).sort(order, "query_id", descending=[True, False], nulls_last=True)
    state = {"study": study, "document": document_id, "method": method, "order": order, "all": everything or None}
    cut = not everything and len(ordered) > 2 * EACH_END
    return DocumentPage(
        study=study,
        document=row,
        norm=norm_of_document(results, study, row["shard"], document_id),
        methods=[
            Option(method_name(each), address("document", state, method=each), each == chosen) for each in methods
        ],
        orders=[Option(told, address("document", state, order=each), each == order) for each, told in ORDERS.items()],
        best=(ordered.head(EACH_END) if cut else ordered).to_dicts(),
        worst=ordered.tail(EACH_END).reverse().to_dicts() if cut else [],
        scored=len(ordered),
        places=_places(results, study, document_id),
        sql=statements.of_document(study, row["shard"], document_id, chosen),
        state=state,
    )


def scored_queries(results: Results, study: str, document_id: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """The document's row; and per method and query its score, with what the query is. Raises BadInput for what is not
    there."""
    refuse_unknown_study(results, study)
    row = ranked.document_row(results, study, document_id)
    queries = ranked.study_queries(results, study)
    scores = scores_of_document(results, study, row["shard"], document_id).join(queries, "query_id")
    nats = pl.when(pl.col("nats") > 0).then(pl.col("nats"))
    return row, scores.with_columns(per_nat=pl.col("score") / nats)


def _places(results: Results, study: str, document_id: str) -> list[dict[str, Any]]:
    if not ranked.has_table(results, study, "rankings"):
        return []
    return places(results, study, document_id).to_dicts()
