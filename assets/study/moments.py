"""Means and co-moments of scores that add up over shards, and the correlations they give.

Sums are of differences from the mean, in float64, so that nothing is lost where a mean is large next to its spread
(Chan, Golub and LeVeque 1983, updating formulae for the sample variance).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of `documents` columns of scores, one row per query: `mean` has shape Q, `co_moments` Q×Q (Σ (x − x̄)(y − ȳ))."""

    documents: int
    mean: np.ndarray
    co_moments: np.ndarray

    @classmethod
    def of(cls, scores_QD: np.ndarray) -> Moments:
        scores = np.asarray(scores_QD, np.float64)
        mean = scores.mean(axis=1) if scores.shape[1] else np.zeros(len(scores))
        centred = scores - mean[:, None]
        return cls(scores.shape[1], mean, centred @ centred.T)

    @classmethod
    def added(cls, parts: Iterable[Moments]) -> Moments:
        """Of all documents together. Raises ValueError where there are none."""
        whole: Moments | None = None
        for part in parts:
            if part.documents:
                whole = part if whole is None else whole._and(part)
        if whole is None:
            raise ValueError("no documents: moments of nothing")
        return whole

    def _and(self, other: Moments) -> Moments:
        documents = self.documents + other.documents
        step = other.mean - self.mean
        weight = self.documents * other.documents / documents
        mean = self.mean + step * (other.documents / documents)
        return Moments(documents, mean, self.co_moments + other.co_moments + weight * np.outer(step, step))

    def correlations(self) -> np.ndarray:
        """Pearson's R of every pair, Q×Q; nan where a query scores all documents alike."""
        spread = np.sqrt(np.diag(self.co_moments))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip(self.co_moments / np.outer(spread, spread), -1.0, 1.0)
