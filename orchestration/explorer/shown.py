"""What the pages show: rows of results in the form in which the templates take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assets.findings.answer_span import answer_span
from assets.findings.report.passages import token_levels
from orchestration.results.printing import printable

MODULES_SHOWN = TOKENS_SHOWN = 12
RUN, ALIKE = 3, 0.8
"""Two texts are near-duplicates where they share this part of all their runs of so many words."""


Row = dict[str, Any]


@dataclass(frozen=True)
class Token:
    """A token in its colour: `level` from −5 (speaks against the completion) to 5 (for it)."""

    text: str
    level: int
    share: float
    is_answer: bool


@dataclass(frozen=True)
class Part:
    """A module's or a token's share of a score; `width` in percent of the largest."""

    name: str
    score: float
    width: float


@dataclass(frozen=True)
class Reading:
    """A ranked document with what each of its tokens and modules contributes; `largest` of the tokens, and of the
    `module_count` modules those in `modules`."""

    row: Mapping[str, Any]
    tokens: Sequence[Token]
    largest: Sequence[Part]
    modules: Sequence[Part]
    module_count: int
    has_answer: bool


def reading(row: Mapping[str, Any], answer: str | None) -> Reading:
    """Of a row of the rankings. Tokens that do not fit their scores leave the text in one piece without colour."""
    texts, scores = row["tokens"] or [], row["token_scores"] or []
    if not texts or len(texts) != len(scores):
        texts, scores = [row["text"] or ""], [0.0]
    span = answer_span("".join(texts), answer)
    tokens = list(_tokens(texts, scores, span))
    largest = _largest(texts, scores, TOKENS_SHOWN) if any(scores) else []
    modules = _largest(row["modules"] or [], row["module_scores"] or [], MODULES_SHOWN)
    return Reading(row, tokens, largest, modules, len(row["modules"] or []), span is not None)


def _tokens(texts: Sequence[str], scores: Sequence[float], span: tuple[int, int] | None) -> Iterator[Token]:
    at, (start, end) = 0, span or (0, 0)
    for text, score, level in zip(texts, scores, token_levels(scores), strict=True):
        yield Token(printable(text), level, score, at < end and at + len(text) > start)
        at += len(text)


def _largest(names: Sequence[str], scores: Sequence[float], most: int) -> list[Part]:
    """Of either sign, the largest first."""
    pairs = sorted(zip(names, scores, strict=False), key=lambda pair: -abs(pair[1]))[:most]
    largest = max((abs(score) for _, score in pairs), default=0.0) or 1.0
    return [Part(name, score, 100 * abs(score) / largest) for name, score in pairs]


def marked(rows: pl.DataFrame, answer: str | None) -> pl.DataFrame:
    """Ranked rows with `holds_answer`."""
    texts = rows["text"] if "text" in rows.columns else []
    holds = [answer_span(text or "", answer) is not None for text in texts]
    return rows.with_columns(holds_answer=pl.Series(holds, dtype=pl.Boolean))


def folded(rows: pl.DataFrame) -> list[tuple[Row, list[Row]]]:
    """Ranked rows, each with the near-duplicates that follow it: texts that share most of their runs of words."""
    groups: list[tuple[Row, list[Row]]] = []
    sizes: list[int] = []
    of_run: dict[tuple[str, ...], list[int]] = {}
    for row in rows.iter_rows(named=True):
        own = _runs(row["text"] or "")
        shared = Counter(at for run in own for at in of_run.get(run, ()))
        alike = [at for at, count in shared.items() if count >= ALIKE * (len(own) + sizes[at] - count)]
        if alike:
            groups[min(alike)][1].append(row)
            continue
        for run in own:
            of_run.setdefault(run, []).append(len(groups))
        groups.append((row, []))
        sizes.append(len(own))
    return groups


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = text.lower().split()
    return frozenset(zip(*(words[at:] for at in range(RUN)), strict=False)) or frozenset([tuple(words)])
