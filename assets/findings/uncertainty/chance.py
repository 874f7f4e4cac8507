"""Tests of one group of queries against what chance gives, two-sided.

Their p-values have no floor that a few queries could not get below, as those of flipped signs have: with ten controls
2⁻⁹, which no correction for a hundred claims would leave below 0.05.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from assets.findings.uncertainty.values import is_constant

FEWEST = 3


class ChanceTest(NamedTuple):
    """The p-value of no difference from chance, and the smallest that so many queries above chance could have had."""

    p_value: float
    smallest_p: float


UNTESTED = ChanceTest(math.nan, math.nan)


def mean_against_chance(values_Q: np.ndarray, chance_Q: np.ndarray) -> ChanceTest:
    """Whether the mean of values, one per query (shape Q), differs from that of their chances: Student's t of the
    differences (1908).

    Values that pile up near zero with a long tail above, as those of rare sources do, make the test find too little
    above chance and too much below it. Fewer than three queries are not tested. Differences that are all equal leave no
    spread for t; then it is the sign test that decides, 2¹⁻ⁿ.
    """
    from scipy.special import stdtr  # late, since definitions load without it

    differences = np.sort(np.asarray(values_Q, np.float64) - chance_Q)
    count = len(differences)
    if count < FEWEST or not np.isfinite(differences).all():
        return UNTESTED
    mean = float(differences.mean())
    if is_constant(differences):
        return ChanceTest(2.0 ** (1 - count) if mean else 1.0, 2.0 ** (1 - count))
    t = mean / (float(differences.std(ddof=1)) / math.sqrt(count))
    return ChanceTest(min(1.0, 2 * float(stdtr(count - 1, -abs(t)))), 0.0)


def share_against_chance(hits_Q: np.ndarray, chance_Q: np.ndarray) -> ChanceTest:
    """Whether something holds for more or fewer queries (shape Q; 1 or 0) than their chances of it say: exact, of the
    number of hits, twice the smaller tail (the Poisson binomial distribution, queries independent of each other)."""
    chances = np.broadcast_to(np.asarray(chance_Q, np.float64), np.shape(hits_Q))
    if not len(chances) or np.isnan(chances).any():
        return UNTESTED
    of_hits = np.ones(1)
    for chance in chances:
        of_hits = np.convolve(of_hits, [1 - chance, chance])
    hits = round(float(np.sum(hits_Q)))
    tail = min(float(of_hits[: hits + 1].sum()), float(of_hits[hits:].sum()))
    return ChanceTest(min(1.0, 2 * tail), min(1.0, 2 * float(np.prod(chances))))
