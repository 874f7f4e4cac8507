"""What each page holds, read from the lake."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.findings.analysis import drawn
from assets.specs.methods import in_importance
from assets.specs.mistakes import near_matches
from compute.errors import BadInput
from orchestration.explorer.searching import Indexing
from orchestration.explorer.shown import Reading, folded, reading
from orchestration.results import Results, ranked
from orchestration.results.printing import write_rows

HITS = 50
DRAWING = threading.Lock()
"""A browser asks for all figures at once; the drawing libraries are not made for several threads."""
FIGURES = ("correlation", "magnitude", "power_law", "answers", "kinds", "sources", "verdicts", "claims")
RANKINGS, ENDS = ("normed", "raw"), ("top", "bottom")


@dataclass(frozen=True)
class StudyCard:
    """A study in the list."""

    name: str
    queries: int
    right: int
    has_rankings: bool
    problem: str = ""


@dataclass(frozen=True)
class StudyPage:
    """A study's queries, as far as they are chosen, and what can be chosen."""

    study: str
    queries: Sequence[dict[str, Any]]
    total: int
    kinds: Sequence[str]
    tasks: Sequence[str]
    state: dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One study's ranked documents for the query."""

    study: str
    query: dict[str, Any]
    groups: Sequence[tuple[dict, list[dict]]]
    method: str


@dataclass(frozen=True)
class QueryPage:
    """A query, its ranked documents, one of them read, and the same of another study beside it."""

    side: Side
    beside: Side | None
    read: Reading | None
    methods: Sequence[str]
    others: Sequence[str]
    before: str | None
    after: str | None
    sql: str
    state: dict[str, Any]


def studies(results: Results) -> list[StudyCard]:
    """All studies that have been run, also those whose tables cannot be read."""
    return [_card(results, name) for name in _names(results)]


def study(results: Results, name: str, **chosen: str | None) -> StudyPage:
    """Raises BadInput for an unknown study."""
    _refuse_unknown(results, name)
    queries = ranked.study_queries(results, name)
    kept = queries
    for column in ("kind", "task"):
        if value := chosen[column]:
            kept = kept.filter(pl.col(column) == value)
    if chosen["right"] in ("yes", "no"):
        kept = kept.filter(pl.col("is_right") == (chosen["right"] == "yes"))
    if words := chosen["words"]:
        text = pl.concat_str("query_id", "prompt", "completion", separator="\n").str.to_lowercase()
        kept = kept.filter(pl.all_horizontal(text.str.contains(word, literal=True) for word in words.lower().split()))
    return StudyPage(
        study=name,
        queries=kept.to_dicts(),
        total=len(queries),
        kinds=queries["kind"].drop_nulls().unique().sort().to_list(),
        tasks=queries["task"].drop_nulls().unique().sort().to_list(),
        state={"study": name, **chosen},
    )


def query(
    results: Results,
    name: str,
    query_id: str,
    method: str | None,
    ranking: str,
    end: str,
    document: str | None,
    beside: str | None,
) -> QueryPage:
    """Raises BadInput for what is not there."""
    _refuse_unknown(results, name)
    for value, known, what in ((ranking, RANKINGS, "ranking"), (end, ENDS, "end")):
        if value not in known:
            raise BadInput(f"there is no {what} {value}; {near_matches(value, known, what + 's')}")
    queries = ranked.study_queries(results, name)
    side, methods = _side(results, name, queries, query_id, method, ranking, end)
    listed = [row for first, more in side.groups for row in (first, *more)]
    chosen = next((row for row in listed if row["document_id"] == document), None)
    if document and chosen is None:
        raise BadInput(f"document {document} is not listed for query {query_id} of study {name} at this end")
    chosen = chosen or (listed[0] if listed else None)
    order = queries["query_id"].to_list()
    at = order.index(query_id)
    state = {"study": name, "query": query_id, "method": method, "ranking": ranking, "end": end, "beside": beside}
    return QueryPage(
        side=side,
        beside=_beside(results, beside, query_id, method, ranking, end) if beside else None,
        read=reading(chosen, side.query["answer"]) if chosen else None,
        methods=methods,
        others=[other for other in _names(results) if other != name and _has_query(results, other, query_id)],
        before=order[at - 1] if at else None,
        after=order[at + 1] if at + 1 < len(order) else None,
        sql=(
            f"SELECT rank, document_id, source, score, exact_score, text FROM rankings WHERE study = '{name}' AND "
            f"query_id = '{_quoted(query_id)}' AND method = '{side.method}' AND ranking = '{ranking}' AND "
            f"\"end\" = '{end}' ORDER BY rank"
        ),
        state=state,
    )


def document(results: Results, name: str, document_id: str) -> dict[str, Any]:
    """The document, and where it is listed. Raises BadInput for what is not there."""
    _refuse_unknown(results, name)
    row = ranked.document_row(results, name, document_id)
    return {"study": name, "document": row, "drives": ranked.drives(results, name, document_id).to_dicts()}


def search(results: Results, indexing: Indexing, name: str, words: str) -> dict[str, Any]:
    """Documents of the study's corpus that hold the words. Raises BadInput for an unknown study."""
    _refuse_unknown(results, name)
    corpus = ranked.corpus_of(results, name)
    index, behind = indexing.index(results, corpus)
    hits = index.find(words, HITS) if words.strip() else []
    return {"study": name, "corpus": corpus, "words": words, "hits": hits, "behind": behind, "most": HITS}


def findings(results: Results, name: str) -> dict[str, Any]:
    """Which figures there are, and whether there is a report. Raises BadInput for an unknown study."""
    _refuse_unknown(results, name)
    figures = [each for each in FIGURES if ranked.has_table(results, name, each)]
    return {"study": name, "figures": figures, "report": ranked.has_table(results, name, "report")}


def figure(results: Results, name: str, analysis: str) -> bytes:
    """The figure of an analysis, as PNG. Raises BadInput for an unknown one."""
    _refuse_unknown(results, name)
    if analysis not in FIGURES:
        raise BadInput(f"there is no figure {analysis}; {near_matches(analysis, FIGURES, 'figures')}")
    evidence = ranked.read_table(results, name, "evidence").filter(analysis=analysis)
    rows = ranked.read_table(results, name, analysis)
    with DRAWING:
        return drawn(analysis, rows, evidence).png


def report(results: Results, name: str) -> str:
    """The report's page. Raises BadInput where there is none."""
    _refuse_unknown(results, name)
    return ranked.read_table(results, name, "report")["html"].item()


def rows(
    results: Results, name: str, query_id: str, method: str | None, ranking: str, end: str, form: str
) -> tuple[bytes, str, str]:
    """The ranked documents as a file: content, kind and name. Raises BadInput for what is not there."""
    if form not in ("csv", "parquet"):
        raise BadInput(f"there is no form {form}; choose csv or parquet")
    ranked.query_known(results, name, query_id)
    found = ranked.ranked_documents(results, name, query_id, method=method, ranking=ranking, end=end, count=1_000_000)
    content = io.BytesIO()
    write_rows(found.drop("fingerprint"), content, form)
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/vnd.apache.parquet"
    return content.getvalue(), kind, f"{re.sub('[^A-Za-z0-9_-]', '-', f'{name}-{query_id}-{end}')}.{form}"


def _card(results: Results, name: str) -> StudyCard:
    try:
        queries = ranked.study_queries(results, name)
    except BadInput as error:
        return StudyCard(name, 0, 0, False, str(error))
    listed = ranked.has_table(results, name, "rankings")
    return StudyCard(name, len(queries), int(queries["is_right"].sum() or 0), listed)


def _beside(results: Results, name: str, query_id: str, method: str | None, ranking: str, end: str) -> Side:
    return _side(results, name, ranked.study_queries(results, name), query_id, method, ranking, end)[0]


def _side(
    results: Results, name: str, queries: pl.DataFrame, query_id: str, method: str | None, ranking: str, end: str
) -> tuple[Side, list[str]]:
    row = ranked.query_among(name, queries, query_id)
    methods = in_importance(ranked.methods_of(results, name))
    chosen = ranked.chosen_method(name, methods, method)
    rows = ranked.ranked_documents(results, name, query_id, method=chosen, ranking=ranking, end=end, count=1_000)
    return Side(name, row, folded(rows), chosen), methods


def _has_query(results: Results, name: str, query_id: str) -> bool:
    try:
        ranked.query_known(results, name, query_id)
    except BadInput:
        return False
    return True


def _names(results: Results) -> list[str]:
    return list(results.views["completions"].paths) if "completions" in results.views else []


def _refuse_unknown(results: Results, name: str) -> None:
    if name not in (known := _names(results)):
        raise BadInput(f"there is no study {name} in the lake; {near_matches(name, known, 'studies')}")


def _quoted(text: str) -> str:
    return text.replace("'", "''")
