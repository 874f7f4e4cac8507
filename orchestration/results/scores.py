"""The scores of one document for all queries of a study, and what a study was made from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from orchestration.results.ranked import has_table
from orchestration.results.reading import table_of

if TYPE_CHECKING:
    from orchestration.results.results import Results

SCORES = ("influence", "bm25")
"""The tables with one score per method, query and document, partitioned by shard."""
SAID_BY = {
    "model": ("query_gradients", "completions"),
    "queries": ("completions",),
    "corpus": ("rankings", "influence"),
}
"""Whose newest commit says what was read; of tables with a commit per shard only where there is no other."""


def scores_of_document(results: Results, study: str, shard: str, document: str) -> pl.DataFrame:
    """Of all queries, by every method: method, query_id and score, highest first. Only the document's shard is read."""
    columns = ("method", "query_id", "score")
    parts = [
        _of_document(results, study, name, shard, document).select(columns)
        for name in SCORES
        if has_table(results, study, name)
    ]
    return pl.concat(parts).sort("score", "query_id", descending=[True, False])


def norm_of_document(results: Results, study: str, shard: str, document: str) -> dict[str, Any] | None:
    """The norm of its gradient and its loss; None where the study has not scored it."""
    if not has_table(results, study, "document_norms"):
        return None
    found = _of_document(results, study, "document_norms", shard, document)
    return found.row(0, named=True) if len(found) else None


def made_from(results: Results, study: str, family: str) -> list[str]:
    """The names of the corpora, models or query sets (`family`) that a study's results came from; none where the
    tables that say so are not there yet."""
    for name in SAID_BY[family]:
        if has_table(results, study, name):
            read = json.loads(results.lake.last_commit(table_of(results, study, name)).get("inputs") or "{}")
            if named := list(dict.fromkeys(path.split("/")[1] for path in read if path.startswith(f"{family}/"))):
                return named
    return []


def _of_document(results: Results, study: str, name: str, shard: str, document: str) -> pl.DataFrame:
    table = table_of(results, study, name)
    frame = results.lake.scan(table, where={"shard": shard}, allow_empty=True)  # made, and no shard has rows yet
    return results.lake.collect(table, frame.filter(document_id=document))
