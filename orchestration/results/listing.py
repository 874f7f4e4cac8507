"""A ranking in two readings: the list without its bulk, and token and module scores of the one document that is read.

The bulk of a row is its tokens: a list of a hundred documents without them is read many times faster than with them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from assets.lake.tables import FINGERPRINT
from orchestration.results.reading import rows_of

if TYPE_CHECKING:
    from orchestration.results.results import Results

SHARES = ("tokens", "token_scores", "modules", "module_scores")
LEFT_OUT = (*SHARES, "token_ids", FINGERPRINT)
PLACE = ("method", "ranking", "end", "rank")


@dataclass(frozen=True)
class Listing:
    """One end of one ranking of a query's documents."""

    query_id: str
    method: str
    ranking: str
    end: str


def listed(results: Results, study: str, listing: Listing) -> pl.DataFrame:
    """The rows of `rankings`, best rank first, without SHARES."""
    return rows_of(
        results,
        study,
        "rankings",
        lambda frame: frame.filter(**asdict(listing)).drop(LEFT_OUT, strict=False).sort("rank"),
    )


def shares(results: Results, study: str, listing: Listing, rank: int) -> dict[str, Any]:
    """SHARES of the document at a rank that is there."""
    found = rows_of(results, study, "rankings", lambda frame: frame.filter(**asdict(listing), rank=rank).select(SHARES))
    return found.row(0, named=True)


def places(results: Results, study: str, document: str) -> pl.DataFrame:
    """Where `rankings` list a document, best rank first: PLACE, query_id, score and exact_score."""
    columns = (*PLACE, "query_id", "score", "exact_score")
    return rows_of(
        results,
        study,
        "rankings",
        lambda frame: frame.filter(document_id=document).select(columns).sort("rank", "query_id", "method", "ranking"),
    )


def leading_sources(results: Results, study: str, method: str) -> pl.DataFrame:
    """Per query the source of the first document by a method, normed and most positive: query_id, leading."""
    first = {"method": method, "ranking": "normed", "end": "top", "rank": 1}
    return rows_of(
        results, study, "rankings", lambda frame: frame.filter(**first).select("query_id", leading=pl.col("source"))
    )
