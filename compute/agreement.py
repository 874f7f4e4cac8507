"""How far two tables of scores of the same documents agree, query by query: correlations, and their top lists.

Heavy tails dominate Pearson's correlation, so Spearman's (of ranks, ties at their mean rank) and the documents that two
top lists have in common stand next to it. Q queries, D documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LISTED = 50
"""Documents of a top list; of few documents, a sixth of them."""


@dataclass(frozen=True)
class QueryAgreement:
    """One number per query; `overlap_Q` counts documents that both top lists of `listed` have. A correlation is nan
    where all scores of a query are equal."""

    pearson_Q: np.ndarray
    spearman_Q: np.ndarray
    overlap_Q: np.ndarray
    listed: int


def query_agreement(found_QD: np.ndarray, expected_QD: np.ndarray) -> QueryAgreement:
    """In float64. Scores that are equal in all entries agree at exactly 1."""
    from scipy.stats import rankdata  # late: it takes longer to import than this to compute

    found_QD, expected_QD = found_QD.astype(np.float64), expected_QD.astype(np.float64)
    listed = max(1, min(LISTED, found_QD.shape[1] // 6))
    tops = [np.argsort(-scores_QD, axis=1, kind="stable")[:, :listed] for scores_QD in (found_QD, expected_QD)]
    overlap_Q = np.array([len(set(found) & set(expected)) for found, expected in zip(*tops, strict=True)], np.int64)
    spearman_Q = _correlation(rankdata(found_QD, axis=1), rankdata(expected_QD, axis=1))
    return QueryAgreement(_correlation(found_QD, expected_QD), spearman_Q, overlap_Q, listed)


def _correlation(found_QD: np.ndarray, expected_QD: np.ndarray) -> np.ndarray:
    found_QD, expected_QD = (scores - scores.mean(1, keepdims=True) for scores in (found_QD, expected_QD))
    squares_Q = np.square(found_QD).sum(1) * np.square(expected_QD).sum(1)
    with np.errstate(invalid="ignore"):
        return (found_QD * expected_QD).sum(1) / np.sqrt(squares_Q)
