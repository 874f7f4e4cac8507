"""How far two tables of scores agree, query by query. Q queries, D documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import rankdata

LISTED = 50
"""Documents of a top list; of a corpus of few documents, a sixth of them."""

LEAST_PEARSON, LEAST_SHARE = 0.99, 45 / 50


@dataclass(frozen=True)
class Agreement:
    """Over the queries; `listed` is the length of the top lists whose least overlap is `overlap_worst`."""

    pearson_mean: float
    pearson_worst: float
    spearman_mean: float
    spearman_worst: float
    overlap_mean: float
    overlap_worst: int
    listed: int

    @property
    def meets(self) -> bool:
        """The targets' row: every query, 45 of a top 50."""
        return self.pearson_worst >= LEAST_PEARSON and self.overlap_worst >= int(LEAST_SHARE * self.listed)

    def as_dict(self) -> dict:
        return asdict(self)


def agreement(found_QD: np.ndarray, expected_QD: np.ndarray) -> Agreement:
    found_QD, expected_QD = found_QD.astype(np.float64), expected_QD.astype(np.float64)
    pearson_Q = _correlation(found_QD, expected_QD)
    spearman_Q = _correlation(rankdata(found_QD, axis=1), rankdata(expected_QD, axis=1))
    listed = min(LISTED, found_QD.shape[1] // 6)
    tops = [np.argsort(-scores_QD, axis=1)[:, :listed] for scores_QD in (found_QD, expected_QD)]
    overlap_Q = [len(set(found) & set(expected)) for found, expected in zip(*tops, strict=True)]
    return Agreement(
        pearson_mean=float(pearson_Q.mean()),
        pearson_worst=float(pearson_Q.min()),
        spearman_mean=float(spearman_Q.mean()),
        spearman_worst=float(spearman_Q.min()),
        overlap_mean=float(np.mean(overlap_Q)),
        overlap_worst=min(overlap_Q),
        listed=listed,
    )


def _correlation(found_QD: np.ndarray, expected_QD: np.ndarray) -> np.ndarray:
    found_QD, expected_QD = (scores - scores.mean(1, keepdims=True) for scores in (found_QD, expected_QD))
    norms_Q = np.linalg.norm(found_QD, axis=1) * np.linalg.norm(expected_QD, axis=1)
    return (found_QD * expected_QD).sum(1) / norms_Q
