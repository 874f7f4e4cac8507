"""Numbers for figures out of the rows of evidence, and how they are written."""

from __future__ import annotations

import math

import polars as pl

COLUMNS = {
    "method": pl.String,
    "statistic": pl.String,
    "group": pl.String,
    "contrast": pl.String,
    "estimate": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p_adjusted": pl.Float64,
    "queries": pl.Int64,
    "chance": pl.Float64,
}


def readable(evidence: pl.DataFrame) -> pl.DataFrame:
    """The columns that figures read, NaN as null."""
    if not evidence.width:
        return pl.DataFrame(schema=COLUMNS)
    known = evidence.select(
        (pl.col(name) if name in evidence.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in COLUMNS.items()
    )
    return known.with_columns(pl.col(pl.Float64).fill_nan(None))


def means(evidence: pl.DataFrame) -> pl.DataFrame:
    """The means of groups, without the contrasts between them."""
    return readable(evidence).filter(pl.col("contrast").is_null(), pl.col("estimate").is_not_null())


def contrast(evidence: pl.DataFrame, method: str, statistic: str, one: str, other: str) -> str:
    """`factual − reasoning: −0.031 (−0.052 to −0.010), p = 0.002`, or nothing where it was not tested."""
    found = readable(evidence).filter(method=method, statistic=statistic, group=one, contrast=other)
    if found.is_empty() or found["estimate"][0] is None:
        return ""
    row = found.row(0, named=True)
    return f"{one} − {other}: {with_interval(row)}{chance_of(row['p_adjusted'])}"


def with_interval(row: dict) -> str:
    """`0.12 (0.08 to 0.16)`, with as many places as the interval's width asks for."""
    estimate, low, high = (row[name] for name in ("estimate", "low", "high"))
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return number(estimate)
    places = places_of(high - low)
    return f"{number(estimate, places)} ({number(low, places)} to {number(high, places)})"


def chance_of(p: float | None) -> str:
    if p is None or math.isnan(p):
        return ""
    return ", p < 0.001" if p < 0.001 else f", p = {p:.2g}"


def places_of(width: float) -> int | None:
    """Decimal places that show a width with two digits; None where it shows no width."""
    return min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else None


def number(value: float | None, places: int | None = None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.3g}" if places is None else f"{value:,.{places}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.removeprefix("-")


def finite(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The rows in which those columns hold numbers."""
    return frame.filter(pl.col(name).is_not_null() & pl.col(name).is_finite() for name in columns)
