"""What each page shows, as a file."""

from __future__ import annotations

import polars as pl

from assets.lake.tables import FINGERPRINT
from orchestration.explorer import document_page, pages, study_page
from orchestration.explorer.drawing import FIGURES
from orchestration.explorer.files import File, as_file
from orchestration.explorer.known import refuse_unknown, refuse_unknown_study
from orchestration.explorer.query_page import Asked, refuse_unknown_order
from orchestration.explorer.searching import Indexing
from orchestration.explorer.study_page import Filters
from orchestration.results import Results, ranked


def studies(results: Results, form: str) -> File:
    """One row per study."""
    cards = [vars(card) for card in study_page.studies(results)]
    return as_file(pl.DataFrame(cards, infer_schema_length=None), form, "studies")


def queries(results: Results, study: str, filters: Filters, form: str) -> File:
    """The queries that pass the filters."""
    refuse_unknown_study(results, study)
    return as_file(study_page.chosen_queries(results, study, filters), form, study, "queries")


def ranking(results: Results, asked: Asked, form: str) -> File:
    """The ranked documents of a query, near-duplicates included, with their tokens and modules."""
    refuse_unknown_study(results, asked.study)
    refuse_unknown_order(asked)
    ranked.query_known(results, asked.study, asked.query)
    found = ranked.ranked_documents(
        results,
        asked.study,
        asked.query,
        method=asked.method,
        ranking=asked.ranking,
        end=asked.end,
        count=1_000_000,
    )
    if asked.source:
        found = found.filter(source=asked.source)
    return as_file(found.drop(FINGERPRINT), form, asked.study, asked.query, asked.end)


def document(results: Results, study: str, document_id: str, form: str) -> File:
    """A document's scores for all queries, by every method."""
    _, scores = document_page.scored_queries(results, study, document_id)
    return as_file(scores, form, study, document_id)


def search(results: Results, indexing: Indexing, study: str, words: str, form: str) -> File:
    """The documents that were found, best first."""
    hits = pages.search(results, indexing, study, words)["hits"]
    rows = [(hit.document_id, hit.source, "".join(hit.parts)) for hit in hits]
    schema = {"document_id": pl.String, "source": pl.String, "excerpt": pl.String}
    return as_file(pl.DataFrame(rows, schema=schema, orient="row"), form, study, "search")


def finding(results: Results, study: str, name: str, form: str) -> File:
    """The rows behind a figure."""
    refuse_unknown_study(results, study)
    refuse_unknown(name, FIGURES, "figure")
    return as_file(ranked.read_table(results, study, name).drop(FINGERPRINT), form, study, name)
