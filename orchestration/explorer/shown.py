"""What the pages show: rows of results in the form in which the templates take them."""

from __future__ import annotations

import math
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


WHITE = str.maketrans({" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"})
"""What stands for characters that leave nothing to see of a token that has no others."""

Row = dict[str, Any]
Run = tuple[str, ...]


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
    `module_count` modules those in `modules`, whose names begin with `above_modules`."""

    row: Mapping[str, Any]
    tokens: Sequence[Token]
    largest: Sequence[Part]
    modules: Sequence[Part]
    above_modules: str
    module_count: int
    has_answer: bool


def reading(row: Mapping[str, Any], answer: str | None) -> Reading:
    """Of a row of the rankings. Tokens that do not fit their scores leave the text in one piece without colour."""
    texts, scores = row["tokens"] or [], row["token_scores"] or []
    if not texts or len(texts) != len(scores):
        texts, scores = [row["text"] or ""], [0.0]
    spans = list(_answers("".join(texts), answer))
    tokens = list(_tokens(texts, scores, spans))
    names, shares = row["modules"] or [], row["module_scores"] or []
    above = _common(names)
    modules = _largest([name.removeprefix(above) for name in names], shares, MODULES_SHOWN)
    largest = _largest(list(map(_visible, texts)), scores, TOKENS_SHOWN)
    return Reading(row, tokens, largest, modules, above, len(names), bool(spans))


def _visible(token: str) -> str:
    return token if token.strip() else token.translate(WHITE)


def _common(names: Sequence[str]) -> str:
    """The parts that all dotted names begin with."""
    common = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(f"{parts[0]}.")
    return "".join(common) if len(names) > 1 else ""


def _answers(text: str, answer: str | None) -> Iterator[tuple[int, int]]:
    """All places at which the answer stands. What is cut off before the next search ends in a whole word, which is
    all that a place is told by."""
    at = 0
    while found := answer_span(text[at:], answer):
        yield at + found[0], at + found[1]
        at += found[1]


def _tokens(texts: Sequence[str], scores: Sequence[float], spans: Sequence[tuple[int, int]]) -> Iterator[Token]:
    at = 0
    for text, score, level in zip(texts, scores, token_levels(scores), strict=True):
        holds = any(at < end and at + len(text) > start for start, end in spans)
        yield Token(printable(text), level, score, holds)
        at += len(text)


def _largest(names: Sequence[str], scores: Sequence[float], most: int) -> list[Part]:
    """Of either sign, the largest first."""
    shares = [pair for pair in zip(names, scores, strict=False) if pair[1]]
    pairs = sorted(shares, key=lambda pair: -abs(pair[1]))[:most]
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
    runs: list[frozenset[Run]] = []
    with_run: dict[Run, list[int]] = {}
    for row in rows.iter_rows(named=True):
        own = _runs(row["text"] or "")
        likely = sorted({at for run in _telling(own) for at in with_run.get(run, ())})
        alike = next((at for at in likely if _likeness(own, runs[at]) >= ALIKE), None)
        if alike is not None:
            groups[alike][1].append(row)
            continue
        for run in _telling(own):
            with_run.setdefault(run, []).append(len(groups))
        groups.append((row, []))
        runs.append(own)
    return groups


def _telling(runs: frozenset[Run]) -> list[Run]:
    """The first runs of a set in one order of all runs: sets that are as much alike as ALIKE share one of these."""
    return sorted(runs)[: len(runs) - math.ceil(ALIKE * len(runs)) + 1]


def _runs(text: str) -> frozenset[Run]:
    words = text.lower().split()
    return frozenset(zip(*(words[at:] for at in range(RUN)), strict=False)) or frozenset([tuple(words)])


def _likeness(one: frozenset[Run], other: frozenset[Run]) -> float:
    """Jaccard's index."""
    return len(one & other) / len(one | other)
