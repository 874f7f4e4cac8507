"""The SQL behind each view: the same rows from the command line or a notebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orchestration.results.listing import Listing

STUDIES = (
    "SELECT study, count(*) AS queries, count(*) FILTER (WHERE is_right) AS answered_rightly FROM completions "
    "GROUP BY study ORDER BY study"
)
NO_LETTER = r"[^\pL\pN]"


def of_study(study: str, query_set: str | None, method: str | None, chosen: Mapping[str, str | None]) -> str:
    """The chosen queries; `method` is the one whose first document says which source leads."""
    conditions = [f"study = {text(study)}"]
    conditions += [f"{column} = {text(value)}" for column in ("kind", "task") if (value := chosen[column])]
    if chosen["right"] in ("yes", "no"):
        conditions.append("is_right" if chosen["right"] == "yes" else "NOT is_right")
    words = (chosen["words"] or "").lower().split()
    found = "lower(concat_ws(chr(10), query_id, prompt, completion))"
    conditions += [f"contains({found}, {text(word)})" for word in words]
    if chosen["leading"]:
        conditions.append(
            f"query_id IN (SELECT query_id FROM rankings WHERE study = {text(study)} AND method = {text(method or '')} "
            f"AND ranking = 'normed' AND \"end\" = 'top' AND rank = 1 AND source = {text(chosen['leading'])})"
        )
    if chosen["origin"]:
        conditions.append(
            f"query_id IN (SELECT query_id FROM queries WHERE query_set = {text(query_set or '')} "
            f"AND extra ->> '$.source' = {text(chosen['origin'])})"
        )
    columns = "query_id, kind, task, is_right, nats, prompt, completion, answer"
    return f"SELECT {columns} FROM completions WHERE {' AND '.join(conditions)} ORDER BY position"


def of_query(study: str, listing: Listing, source: str | None) -> str:
    """The ranked documents."""
    return (
        f"SELECT rank, document_id, source, score, normed_score, exact_score, text FROM rankings WHERE study = "
        f"{text(study)} AND query_id = {text(listing.query_id)} AND method = {text(listing.method)} AND "
        f'ranking = {text(listing.ranking)} AND "end" = {text(listing.end)}'
        f"{f' AND source = {text(source)}' if source else ''} ORDER BY rank"
    )


def of_document(study: str, shard: str, document: str, method: str) -> str:
    """Its scores for all queries; the shard is named so that no other one is read."""
    table = "bm25" if method == "bm25" else "influence"
    return (
        f"SELECT query_id, score FROM {table} WHERE study = {text(study)} AND shard = {text(shard)} AND "
        f"document_id = {text(document)} AND method = {text(method)} ORDER BY score DESC, query_id"
    )


def of_search(corpus: str, phrases: Sequence[str]) -> str:
    """The same documents without the index: all texts are read. Each phrase is a word or words in a row."""
    conditions = [f"corpus = {text(corpus)}"]
    for phrase in phrases:
        words = re.findall(r"[^\W_]+", phrase)
        if words:
            pattern = f"(?i)(^|{NO_LETTER}){f'{NO_LETTER}+'.join(words)}({NO_LETTER}|$)"
            conditions.append(f"regexp_matches(strip_accents(text), strip_accents({text(pattern)}))")
    return f"SELECT document_id, source, text FROM documents WHERE {' AND '.join(conditions)} ORDER BY document_id"


def of_finding(study: str, name: str) -> str:
    return f"SELECT * FROM {name} WHERE study = {text(study)}"


def text(value: str) -> str:
    """As SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
