"""The agreement of two tables of scores, against scipy and against lists made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compute.agreement import query_agreement


@pytest.fixture
def tables():
    """Heavy-tailed scores of 4 queries for 90 documents, and others like them."""
    draw = np.random.default_rng(0)
    expected_QD = draw.standard_t(2, (4, 90)).astype(np.float32)
    return expected_QD + draw.standard_normal((4, 90)).astype(np.float32), expected_QD


def test_correlations_are_those_of_scipy(tables):
    found_QD, expected_QD = tables
    found_QD[2, :30] = found_QD[2, 0]  # ties
    agreed = query_agreement(found_QD, expected_QD)
    for query, (found_D, expected_D) in enumerate(zip(found_QD, expected_QD, strict=True)):
        found_D, expected_D = found_D.astype(np.float64), expected_D.astype(np.float64)
        assert agreed.pearson_Q[query] == pytest.approx(stats.pearsonr(found_D, expected_D)[0], abs=1e-12)
        assert agreed.spearman_Q[query] == pytest.approx(stats.spearmanr(found_D, expected_D)[0], abs=1e-12)


def test_top_lists_share_what_stands_in_both(tables):
    found_QD, expected_QD = tables
    agreed = query_agreement(found_QD, expected_QD)
    assert agreed.listed == 15  # a sixth of 90
    for query, (found_D, expected_D) in enumerate(zip(found_QD, expected_QD, strict=True)):
        least = [sorted(scores_D)[-15] for scores_D in (found_D, expected_D)]
        assert agreed.overlap_Q[query] == ((found_D >= least[0]) & (expected_D >= least[1])).sum()
    assert query_agreement(np.tile(found_QD, 5), np.tile(expected_QD, 5)).listed == 50
    assert query_agreement(found_QD[:, :4], found_QD[:, :4]).listed == 1


def test_equal_scores_agree_at_exactly_one(tables):
    for scale in (1e-20, 1.0, 1e12):
        agreed = query_agreement(scale * tables[1], scale * tables[1])
        assert (agreed.pearson_Q == 1).all() and (agreed.spearman_Q == 1).all() and (agreed.overlap_Q == 15).all()


def test_a_query_without_spread_has_no_correlation(tables):
    found_QD, expected_QD = tables
    found_QD[1] = 3.0
    agreed = query_agreement(found_QD, expected_QD)
    assert np.isnan(agreed.pearson_Q).tolist() == [False, True, False, False]
    assert np.isnan(agreed.spearman_Q).tolist() == [False, True, False, False]
