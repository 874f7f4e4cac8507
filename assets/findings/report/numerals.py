"""How numbers are written on the page: few digits, a true minus, a dash where nothing is known."""

from __future__ import annotations

import math

UNKNOWN = "–"
PERCENT, POINTS = SHARES = ("%", "points")  # of shares, and of differences between them
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MONTHS = "January February March April May June July August September October November December".split()


def number(value: float | None, unit: str = "") -> str:
    """Three digits; of shares ("%", "points") two, as a percentage; with a sign for "+"."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit in SHARES:
        return f"{_digits(100 * value, 2)} {unit}"
    if unit == "+":
        return f"{'+' if value > 0 else ''}{_digits(value)}"
    return _digits(value) + (f" {unit}" if unit else "")


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """Both ends, the unit once."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return UNKNOWN
    if unit in SHARES:
        return f"{_digits(100 * low, 2)} to {number(high, unit)}"
    return f"{number(low)} to {number(high, unit)}"


def p_value(value: float | None) -> str:
    if value is None or math.isnan(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: float | None) -> str:
    return UNKNOWN if value is None or math.isnan(value) else f"{round(value):,}"


def plural(value: int, word: str) -> str:
    many = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{value:,} {word if value == 1 else many}"


def day(date) -> str:
    """In words that no locale changes."""
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


def _digits(value: float, digits: int = 3) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4 or size >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{min(places, 6)}f}".replace("-", "−")
