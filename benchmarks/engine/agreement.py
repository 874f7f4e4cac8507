"""How far two tables of scores agree over all queries: means and worst queries. Q queries, D documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from compute.agreement import query_agreement

LEAST_PEARSON = 0.99
LEAST_SHARED, OF_LISTED = 45, 50


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
        # In whole numbers: no share of a shorter list is rounded.
        shares = OF_LISTED * self.overlap_worst >= LEAST_SHARED * self.listed
        return self.pearson_worst >= LEAST_PEARSON and shares

    def as_dict(self) -> dict:
        return asdict(self)


def agreement(found_QD: np.ndarray, expected_QD: np.ndarray) -> Agreement:
    of_queries = query_agreement(found_QD, expected_QD)
    return Agreement(
        pearson_mean=float(of_queries.pearson_Q.mean()),
        pearson_worst=float(of_queries.pearson_Q.min()),
        spearman_mean=float(of_queries.spearman_Q.mean()),
        spearman_worst=float(of_queries.spearman_Q.min()),
        overlap_mean=float(of_queries.overlap_Q.mean()),
        overlap_worst=int(of_queries.overlap_Q.min()),
        listed=of_queries.listed,
    )
