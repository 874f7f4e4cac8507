"""The pages of search and findings, read from the lake."""

from __future__ import annotations

from typing import Any

from orchestration.explorer import statements
from orchestration.explorer.drawing import FIGURES
from orchestration.explorer.known import refuse_unknown_study
from orchestration.explorer.searching import Indexing
from orchestration.results import Results, ranked
from orchestration.results.search import phrases

HITS = 50


def search(results: Results, indexing: Indexing, name: str, words: str) -> dict[str, Any]:
    """Documents of the study's corpus that hold the words. Raises BadInput for an unknown study."""
    refuse_unknown_study(results, name)
    corpus = ranked.corpus_of(results, name)
    index, behind = indexing.index(results, corpus)
    hits = index.find(words, HITS) if words.strip() else []
    sql = statements.of_search(corpus, phrases(words))
    return {"study": name, "corpus": corpus, "words": words, "hits": hits, "behind": behind, "most": HITS, "sql": sql}


def findings(results: Results, name: str) -> dict[str, Any]:
    """Which figures there are with their SQL, and whether there is a report. Raises BadInput for an unknown study."""
    refuse_unknown_study(results, name)
    there = [each for each in FIGURES if ranked.has_table(results, name, each)]
    figures = {each: statements.of_finding(name, each) for each in there}
    return {"study": name, "figures": figures, "report": ranked.has_table(results, name, "report")}


def report(results: Results, name: str) -> str:
    """The report's page. Raises BadInput where there is none."""
    refuse_unknown_study(results, name)
    return ranked.read_table(results, name, "report")["html"].item()
