"""How well the study's own setting, and its precision alone, agree with full rank in float32: in words, and as a check.

All of it is told of rows of the table `ablation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from assets.findings.ablation.variants import FLOAT32, REFERENCE

AGAINST = f"against {REFERENCE.name} in {FLOAT32}"


@dataclass(frozen=True)
class Agreement:
    """Pearson's correlation of a setting with the reference: the mean over queries, and the query that agrees least."""

    setting: str
    mean: float
    worst: float
    query_id: str

    @property
    def words(self) -> str:
        return f"Pearson {self.mean:.5f} on average, {self.worst:.5f} for the worst query"


def own_agreement(rows: pl.DataFrame) -> Agreement:
    return _agreement(rows.filter("is_study"))


def precision_agreements(rows: pl.DataFrame) -> list[Agreement]:
    """Of the study's own precisions below float32, each with nothing else changed, where they were compared."""
    own, found = rows.filter("is_study").row(0, named=True), []
    for changed, kept in (("dtype", "products"), ("products", "dtype")):
        if own[changed] != FLOAT32:
            alone = {"rank": REFERENCE.rank, "method": REFERENCE.method, "blocks": REFERENCE.blocks, kept: FLOAT32}
            part = rows.filter(~pl.col("is_study"), **alone, **{changed: own[changed]})
            found += [_agreement(part)] if len(part) else []
    return found


def _agreement(part: pl.DataFrame) -> Agreement:
    known = part.filter(pl.col("pearson").is_finite()).sort("pearson", "query_id")
    if known.is_empty():
        return Agreement(part["variant"][0], float("nan"), float("nan"), "")
    return Agreement(part["variant"][0], known["pearson"].mean(), known["pearson"][0], known["query_id"][0])


def own_sentence(rows: pl.DataFrame) -> str:
    """The study's own setting first, then its precision alone."""
    own = own_agreement(rows)
    if own.setting == REFERENCE.name:
        return f"The study itself is scored at {REFERENCE.name} in {FLOAT32}."
    told = [f"The study itself is scored by {own.setting}: {own.words} ({own.query_id}), {AGAINST}."]
    told += [f"Of that, {each.setting} alone: {each.words} ({each.query_id})." for each in precision_agreements(rows)]
    return " ".join(told)


def own_problem(study: str, rows: pl.DataFrame, least: float) -> str | None:
    """A sentence where the worst query agrees less than `options.min_agreement` asks for."""
    own = own_agreement(rows)
    if not own.worst < least:
        return None
    alone = "".join(f"; {each.setting} alone: {each.worst:.4f} for its worst" for each in precision_agreements(rows))
    return (
        f"study {study}: scores of query {own.query_id} as the study takes them ({own.setting}) correlate with those "
        f"at {REFERENCE.name} in {FLOAT32} at {own.worst:.4f}, below {least} (options.min_agreement){alone}; raise the "
        "rank or the precision, whichever agrees least"
    )
