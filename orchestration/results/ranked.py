"""What a study says of a query or of a document: the ranked documents, and the queries that a document drives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from assets.specs.methods import METHODS, main_method
from assets.specs.mistakes import known_methods, near_matches
from compute.errors import BadInput
from orchestration.results.reading import rows_of, table_of

if TYPE_CHECKING:
    from orchestration.results.results import Results


def study_queries(results: Results, study: str) -> pl.DataFrame:
    """The queries of a study in their order: query_id, kind, task, is_right, nats, prompt, completion and answer."""
    columns = ("query_id", "kind", "task", "is_right", "nats", "prompt", "completion", "answer")
    return rows_of(results, study, "completions", lambda frame: frame.sort("position").select(columns))


def ranked_documents(
    results: Results, study: str, query: str, *, method: str | None, ranking: str, end: str, count: int
) -> pl.DataFrame:
    """The rows of `rankings` at one end, best first, at most `count`; none of a query that is not there.

    Raises BadInput for an unknown study or method (left out: ekfac, or the most important that is there).
    """

    def listed(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(query_id=query, ranking=ranking, end=end).sort("method", "rank")

    rows = rows_of(results, study, "rankings", listed)
    chosen = chosen_method(study, rows["method"].unique().sort().to_list(), method)
    return rows.filter(method=chosen).head(count)


def with_unranked(
    results: Results, study: str, rows: pl.DataFrame, *, query: str, end: str, count: int
) -> pl.DataFrame:
    """The first `count` documents by their scores as they are now, with source and text, and with what `rows` of the
    raw ranking say of them.

    Exact scores and shares there are of ranked documents only, and only where the score is still the one that was
    ranked; elsewhere they are null.
    """
    method = rows["method"][0] if len(rows) else None
    best = results.top(study, query, method, count, end)
    kept = rows.drop("rank").join(best.drop("shard"), on=["document_id", "score"]).select(rows.columns)
    more = best.join(kept, on="document_id", how="anti", maintain_order="left")
    documents = table_of(results, corpus_of(results, study), "documents")
    wanted = pl.col("shard").is_in(more["shard"].unique()) & pl.col("document_id").is_in(more["document_id"])
    texts = results.lake.scan(documents).filter(wanted).select("document_id", "source", "text")
    more = more.join(results.lake.collect(documents, texts), on="document_id", how="left", maintain_order="left")
    alike = {"method": method, "query_id": query, "ranking": "raw", "end": end}
    alike = {name: pl.lit(value, pl.String) for name, value in alike.items()}
    return pl.concat([kept, more], how="diagonal").sort("rank").with_columns(**alike)


def methods_of(results: Results, study: str) -> list[str]:
    """The methods by which documents are ranked."""
    rows = rows_of(results, study, "rankings", lambda frame: frame.select(pl.col("method").unique()))
    return rows["method"].sort().to_list()


def chosen_method(study: str, methods: list[str], method: str | None) -> str:
    if method is None:
        return main_method(methods or METHODS)
    if method not in methods:
        raise BadInput(f"study {study}: no document is ranked by {method}; {known_methods(method, methods)}")
    return method


def query_known(results: Results, study: str, query: str) -> dict:
    """The query's row of the study's completions. Raises BadInput where there is none."""
    return query_among(study, study_queries(results, study), query)


def query_among(study: str, queries: pl.DataFrame, query: str) -> dict:
    """The same of queries that have been read."""
    found = queries.filter(query_id=query)
    if found.is_empty():
        known = queries["query_id"].to_list()
        raise BadInput(f"study {study}: there is no query {query}; {near_matches(query, known, 'queries')}")
    return found.row(0, named=True)


def document_row(results: Results, study: str, document: str) -> dict:
    """The document of the study's corpus. Raises BadInput where the corpus has none of that id."""
    corpus = corpus_of(results, study)
    table = table_of(results, corpus, "documents")
    found = results.lake.collect(table, results.lake.scan(table).filter(document_id=document))
    if found.is_empty():
        raise BadInput(f"corpus {corpus}: there is no document {document}; its ids are in the table documents")
    return found.row(0, named=True)


def corpus_of(results: Results, study: str) -> str:
    """The corpus whose documents the study has scored, as the newest commit of its scores says."""
    read = json.loads(results.lake.last_commit(table_of(results, study, "influence")).get("inputs") or "{}")
    corpora = [path.split("/")[1] for path in read if path.startswith("corpus/") and path.endswith("/documents")]
    if not corpora:
        raise BadInput(f"study {study}: its scores do not say of which corpus they are; run the study again")
    return corpora[0]


def drives(results: Results, study: str, document: str) -> pl.DataFrame:
    """The rows of `rankings` that list a document, best rank first."""

    def listed(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(document_id=document).sort("rank", "query_id", "method", "ranking", "end")

    return rows_of(results, study, "rankings", listed)


def of_query(rows: pl.DataFrame, study: str, document: str, query: str, method: str | None) -> pl.DataFrame:
    """Of the rows that list a document, those of one query and method. Raises BadInput where it is not listed there."""
    rows = rows.filter(query_id=query)
    if rows.is_empty():
        raise BadInput(
            f"study {study}: document {document} is not among the ranked documents of query {query}, so its "
            "tokens have no scores; its score alone is in the table influence"
        )
    return rows.filter(method=chosen_method(study, rows["method"].unique().sort().to_list(), method))


def plain_document(row: dict) -> dict:
    """A document's row without what only programs of the platform read."""
    return {
        name: value for name, value in row.items() if name not in ("token_ids", "fingerprint", "tokenizer_fingerprint")
    }


def has_table(results: Results, study: str, name: str) -> bool:
    return name in results.views and study in results.views[name].paths


def read_table(results: Results, study: str, name: str) -> pl.DataFrame:
    """A whole table of a study. Raises BadInput where it is not there."""
    return rows_of(results, study, name, lambda frame: frame)
