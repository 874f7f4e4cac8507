"""Which of a study's shares of documents stands for the paper's 1 %, at which groups of queries are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable

PERCENT = 1.0


def tested_percentage(percentages: Iterable[float]) -> float:
    """1 where it is among them, else the one nearest to it by its logarithm; of two, the smaller."""
    return min(sorted(percentages), key=lambda each: abs(math.log(each / PERCENT)))


def cut_name(percentage: float) -> str:
    """`top 1 %`, as the tables call it."""
    return f"top {percentage:g} %"
