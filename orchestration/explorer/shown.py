"""What the pages show: rows of results in the form in which the templates take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.findings.answer_span import answer_span
from assets.findings.report.passages import token_levels
from orchestration.results.printing import printable

MODULES_SHOWN = 12
RUN, ALIKE = 3, 0.8
"""Two texts are near-duplicates where they share this part of all their runs of so many words."""


@dataclass(frozen=True)
class Token:
    """A token in its colour: `level` from −5 (speaks against the completion) to 5 (for it)."""

    text: str
    level: int
    share: float
    is_answer: bool


@dataclass(frozen=True)
class ModuleShare:
    """A module's share of a score; `width` in percent of the largest."""

    name: str
    score: float
    width: float


@dataclass(frozen=True)
class Reading:
    """A ranked document with what each of its tokens and modules contributes."""

    row: Mapping[str, Any]
    tokens: Sequence[Token]
    modules: Sequence[ModuleShare]
    has_answer: bool


def reading(row: Mapping[str, Any], answer: str | None) -> Reading:
    """Of a row of the rankings. Tokens that do not fit their scores leave the text in one piece without colour."""
    texts, scores = row["tokens"] or [], row["token_scores"] or []
    if not texts or len(texts) != len(scores):
        texts, scores = [row["text"] or ""], [0.0]
    marked = answer_span("".join(texts), answer)
    tokens = list(_tokens(texts, scores, marked))
    return Reading(row, tokens, list(_modules(row)), marked is not None)


def _tokens(texts: Sequence[str], scores: Sequence[float], marked: tuple[int, int] | None) -> Iterator[Token]:
    at, (start, end) = 0, marked or (0, 0)
    for text, score, level in zip(texts, scores, token_levels(scores), strict=True):
        yield Token(printable(text), level, score, at < end and at + len(text) > start)
        at += len(text)


def _modules(row: Mapping[str, Any]) -> Iterator[ModuleShare]:
    pairs = sorted(zip(row["modules"] or [], row["module_scores"] or [], strict=False), key=lambda pair: -abs(pair[1]))
    largest = max((abs(score) for _, score in pairs), default=0.0) or 1.0
    for name, score in pairs[:MODULES_SHOWN]:
        yield ModuleShare(name, score, 100 * abs(score) / largest)


def folded(rows: pl.DataFrame) -> list[tuple[dict, list[dict]]]:
    """Ranked rows, each with the near-duplicates that follow it: texts that share most of their runs of words."""
    groups: list[tuple[dict, list[dict]]] = []
    runs: list[frozenset[tuple[str, ...]]] = []
    for row in rows.iter_rows(named=True):
        own = _runs(row["text"] or "")
        alike = next((at for at, other in enumerate(runs) if _likeness(own, other) >= ALIKE), None)
        if alike is None:
            groups.append((row, []))
            runs.append(own)
        else:
            groups[alike][1].append(row)
    return groups


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = text.lower().split()
    return frozenset(zip(*(words[at:] for at in range(RUN)), strict=False)) or frozenset([tuple(words)])


def _likeness(one: frozenset, other: frozenset) -> float:
    """Jaccard's index."""
    return len(one & other) / len(one | other)
