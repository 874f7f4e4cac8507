"""How far a judge and the study's rules say the same of the same documents: raw, and beyond chance (Cohen's κ)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from assets.findings.document_rules import OTHER, DocumentRules
from assets.findings.judging import KINDS, UNCLEAR, UNRELATED


def kinds_of_both(rows: pl.DataFrame, tasks: Mapping[str, str | None], texts: Mapping[str, str], rules: DocumentRules):
    """Frame of query_id, document_id, judge and rules: what each takes the document for, where the judge is clear and
    the rules know the query's task. `other` and no rule at all are the judge's `unrelated`.

    `rows` are those of the table of verdicts; `tasks` has the task by query, `texts` the text by document.
    """
    asked = rows.filter(pl.col("analysis") == KINDS, pl.col("verdict") != UNCLEAR)
    told = {document: rules.classify(texts[document]) for document in asked["document_id"].unique()}
    both = [
        (query, document, verdict, _as_judged(told[document][tasks[query]]))
        for query, document, verdict in asked.select("query_id", "document_id", "verdict").iter_rows()
        if tasks.get(query) in rules.tasks
    ]
    schema = dict.fromkeys(("query_id", "document_id", "judge", "rules"), pl.String)
    return pl.DataFrame(both, schema=schema, orient="row")


def raw_agreement(pairs: Sequence[tuple[str, str]]) -> float:
    """Share of the pairs whose two sides are equal; nan where there are none."""
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else math.nan


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Agreement beyond what the two would have if each kept its own shares and chose at random (Cohen 1960); nan where
    that is certain, or there are no pairs."""
    count = len(pairs)
    ones, others = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    by_chance = sum(ones[each] * others[each] for each in ones) / count**2 if count else math.nan
    return (raw_agreement(pairs) - by_chance) / (1 - by_chance) if by_chance != 1 else math.nan


def _as_judged(found) -> str:
    return UNRELATED if found is None or found.kind == OTHER else found.kind
