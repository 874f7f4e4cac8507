"""Histograms of scores whose bins are the same everywhere, so that shards add up without having seen each other.

A bin is a range of float32 with the same sign, exponent and first five bits of the mantissa: 32 bins to every factor of
two, from the smallest number to the largest, none of them chosen from data. Bins are numbered in the order of their
scores: 0 and above hold scores from zero up, −1 and below the negative ones. Counts and sums are exact; what is asked
about the inside of a bin (which of its documents are the k best) is answered by its mean, within its width of 1/32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MANTISSA_BITS = 5
SHIFT = 23 - MANTISSA_BITS
MAGNITUDE = 0x7FFFFFFF


def bins_of(scores: np.ndarray) -> np.ndarray:
    """The bin (int32) of every score; scores are finite and taken as float32."""
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
    magnitude = ((bits & MAGNITUDE) >> SHIFT).astype(np.int32)
    return np.where((bits >> 31 == 1) & (bits & MAGNITUDE > 0), -magnitude - 1, magnitude)


def edges(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest score (float32) of each bin."""
    bins = np.asarray(bins, np.int64)
    magnitude = np.where(bins < 0, -bins - 1, bins).astype(np.uint32)
    near = (magnitude << SHIFT).view(np.float32)
    far = (((magnitude + 1) << SHIFT) - 1).view(np.float32)
    return np.where(bins < 0, -far, near), np.where(bins < 0, -near, far)


@dataclass(frozen=True)
class ScoreHistogram:
    """`bins` rise; `counts` and `sums` are of the scores in each."""

    bins: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray) -> ScoreHistogram:
        bins, where = np.unique(bins_of(scores), return_inverse=True)
        counts = np.bincount(where, minlength=len(bins))
        sums = np.bincount(where, weights=np.asarray(scores, np.float64), minlength=len(bins))
        return cls(bins, counts.astype(np.int64), sums)

    @classmethod
    def added(cls, parts: Iterable[ScoreHistogram]) -> ScoreHistogram:
        """The histogram of all scores together."""
        parts = list(parts)
        if not parts:
            return cls(np.array([], np.int32), np.array([], np.int64), np.array([]))
        bins, where = np.unique(np.concatenate([part.bins for part in parts]), return_inverse=True)
        counts, sums = np.zeros(len(bins), np.int64), np.zeros(len(bins))
        np.add.at(counts, where, np.concatenate([part.counts for part in parts]))
        np.add.at(sums, where, np.concatenate([part.sums for part in parts]))
        return cls(bins, counts, sums)

    @property
    def documents(self) -> int:
        return int(self.counts.sum())

    def negated(self) -> ScoreHistogram:
        """Of the scores with their signs turned: its top is the bottom of this one."""
        return ScoreHistogram(-self.bins[::-1] - 1, self.counts[::-1], -self.sums[::-1])

    def positive(self) -> ScoreHistogram:
        """Of the scores above zero (and zeros, which add nothing)."""
        above = self.bins >= 0
        return ScoreHistogram(self.bins[above], self.counts[above], self.sums[above])

    def top_sum(self, documents: np.ndarray | float) -> np.ndarray:
        """The sum of the `documents` highest scores, which may be a fraction of one; inside of a bin, of its mean."""
        counts = np.concatenate([[0.0], np.cumsum(self.counts[::-1])])
        sums = np.concatenate([[0.0], np.cumsum(self.sums[::-1])])
        return np.interp(documents, counts, sums)

    def rank_range(self, score: float) -> tuple[int, int]:
        """The best and the worst rank that a document of this score may have, from 1; they differ inside of a bin."""
        place = int(bins_of(np.array([score]))[0])
        above = int(self.counts[self.bins > place].sum())
        within = int(self.counts[self.bins == place].sum())
        return above + 1, above + max(within, 1)


def share_above(part: ScoreHistogram, whole: ScoreHistogram, documents: float) -> tuple[float, float]:
    """How many of the `documents` highest scores of `whole` are of `part` (a subset of it, such as one source), and how
    much of that number is uncertain: the documents of the bin that the cut goes through are shared out evenly."""
    order = whole.bins[::-1]
    cumulated = np.cumsum(whole.counts[::-1])
    if not len(order) or documents >= cumulated[-1]:
        return float(part.counts.sum()), 0.0
    at = int(np.searchsorted(cumulated, documents, side="left"))
    cut, before = order[at], float(cumulated[at - 1]) if at else 0.0
    within = float(part.counts[part.bins == cut].sum())
    share = (documents - before) / float(whole.counts[whole.bins == cut].sum())
    return float(part.counts[part.bins > cut].sum()) + share * within, within * min(share, 1 - share)
