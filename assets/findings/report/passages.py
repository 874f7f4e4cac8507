"""The documents that the page shows: a few queries of every kind, and what taught them, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import polars as pl

from assets.findings.report.numerals import number

QUERIES_SHOWN = 8
TOP_SHOWN, BOTTOM_SHOWN = 3, 1
TOKENS_SHOWN = 240
CHARACTERS_SHOWN = 6_000
EXCERPT = 140
LEVELS = (0.04, 0.12, 0.25, 0.45, 0.7)
"""Of a document's largest share: from each on, a token gets the next deeper colour."""


@dataclass(frozen=True)
class Span:
    """Text with one colour: `level` from −5 (raises the loss) to 5 (lowers it), 0 without."""

    text: str
    level: int = 0
    share: str = ""


@dataclass(frozen=True)
class Passage:
    """A document, or the part of it that carries most of its score: `before` and `after` tokens are left out."""

    rank: int
    score: float
    exact_score: float
    document_id: str
    source: str
    spans: Sequence[Span]
    before: int
    after: int
    excerpt: str
    is_negative: bool
    is_spurious: bool


@dataclass(frozen=True)
class ShownQuery:
    """A query with the documents at both ends of its ranking."""

    query_id: str
    group: str
    task: str | None
    prompt: str
    completion: str
    answer: str | None
    is_right: bool | None
    nats: float
    passages: Sequence[Passage]


def chosen_queries(completions: pl.DataFrame, ranked: Sequence[str]) -> list[str]:
    """A few ids, spread over kinds, right and wrong answers and tasks: the first of each, then the second, …"""
    known = completions.filter(pl.col("query_id").is_in(list(ranked))).with_columns(
        order=pl.col("is_right").cast(pl.Int8).fill_null(-1)
    )
    cells = known.sort("group", "order", "task", "query_id", descending=[False, True, False, False], nulls_last=True)
    of_task = pl.int_range(pl.len()).over("group", "order", "task", order_by="query_id")
    turns = cells.with_columns(of_task=of_task).sort("of_task", maintain_order=True)
    turns = turns.with_columns(turn=pl.int_range(pl.len()).over("group", "order"))
    first = turns.sort("turn", "is_control", "order", "group", descending=[False, False, True, False]).head(
        QUERIES_SHOWN
    )
    return first.sort("is_control", "group", "order", "turn", descending=[False, False, True, False])[
        "query_id"
    ].to_list()


def shown_queries(completions: pl.DataFrame, rankings: pl.DataFrame) -> list[ShownQuery]:
    """`rankings`: rows of one method and ranking, of the queries to show; `completions`: with their groups."""
    of = {row["query_id"]: row for row in completions.iter_rows(named=True)}
    shown = []
    for query in chosen_queries(completions, rankings["query_id"].unique().to_list()):
        row, listed = of[query], rankings.filter(query_id=query)
        shown.append(
            ShownQuery(
                query_id=query,
                group=row["group"],
                task=row["task"],
                prompt=row["prompt"],
                completion=row["completion"],
                answer=row["answer"],
                is_right=row["is_right"],
                nats=_known(row["nats"]),
                passages=[*_passages(listed, "top", TOP_SHOWN), *_passages(listed, "bottom", BOTTOM_SHOWN)],
            )
        )
    return shown


def _passages(listed: pl.DataFrame, end: str, most: int) -> Iterator[Passage]:
    for row in listed.filter(end=end).sort("rank").head(most).iter_rows(named=True):
        if _known(row["score"]) > 0 if end == "bottom" else _known(row["score"]) < 0:
            continue  # an end of the ranking need not have this sign
        yield passage(row)


def passage(row: dict) -> Passage:
    """Of a row of the rankings. Tokens that do not fit their scores leave the text without colours."""
    text, tokens, scores = row["text"] or "", row["tokens"] or [], row["token_scores"] or []
    if len(tokens) != len(scores) or not tokens:
        cut = text[:CHARACTERS_SHOWN]
        spans, before, after = [Span(cut)], 0, 0
    else:
        start, end = window(scores, TOKENS_SHOWN)
        spans = list(_spans(tokens[start:end], scores[start:end], _total(scores), _largest(scores)))
        before, after = start, len(tokens) - end
    excerpt = " ".join(text[: 4 * EXCERPT].split())
    return Passage(
        rank=row["rank"],
        score=_known(row["score"]),
        exact_score=_known(row["exact_score"]),
        document_id=row["document_id"],
        source=row["source"] or "",
        spans=_bounded(spans),
        before=before,
        after=after,
        excerpt=excerpt if len(excerpt) <= EXCERPT else f"{excerpt[: EXCERPT - 1]}…",
        is_negative=row["end"] == "bottom",
        is_spurious=bool(row["likely_spurious"]),
    )


def window(scores: Sequence[float], length: int) -> tuple[int, int]:
    """The first of the stretches of `length` tokens whose shares are largest together, without their signs."""
    if len(scores) <= length:
        return 0, len(scores)
    sums = [0.0, *accumulate(abs(_finite(score)) for score in scores)]
    start = max(range(len(scores) - length + 1), key=lambda at: (sums[at + length] - sums[at], -at))
    return start, start + length


def _spans(tokens: Sequence[str], scores: Sequence[float], total: float, largest: float) -> Iterator[Span]:
    """Tokens of little weight are joined, which keeps the page small."""
    plain = ""
    for token, score in zip(tokens, scores, strict=True):
        level = _level(score, largest)
        if not level:
            plain += token
            continue
        if plain:
            yield Span(plain)
            plain = ""
        yield Span(token, level, f"{number(score, '+')} · {100 * abs(score) / total:.0f} %")
    if plain:
        yield Span(plain)


def token_levels(scores: Sequence[float]) -> list[int]:
    """The colour of each token: from −5 (raises the loss) to 5 (lowers it)."""
    largest = _largest(scores)
    return [_level(score, largest) for score in scores]


def _level(score: float | None, largest: float) -> int:
    weight = _finite(score)
    level = sum(abs(weight) >= threshold * largest for threshold in LEVELS) if largest else 0
    return level if weight > 0 else -level


def _bounded(spans: Sequence[Span]) -> list[Span]:
    """A tokenizer may have tokens of any length."""
    kept, left = [], CHARACTERS_SHOWN
    for span in spans:
        if len(span.text) > left:
            kept.append(Span(f"{span.text[:left]}…", span.level, span.share))
            break
        kept.append(span)
        left -= len(span.text)
    return kept


def _total(scores: Sequence[float]) -> float:
    return math.fsum(abs(_finite(score)) for score in scores) or 1.0


def _largest(scores: Sequence[float]) -> float:
    return max((abs(_finite(score)) for score in scores), default=0.0)


def _finite(score: float | None) -> float:
    return score if score is not None and math.isfinite(score) else 0.0


def _known(value: float | None) -> float:
    return math.nan if value is None else value
