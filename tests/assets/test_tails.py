"""Power laws: both definitions recover what generated scores have, within their own errors, and refuse other tails."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from assets.findings.tails import log_rank_slope, tail_exponent

pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.fixture
def draw():
    return np.random.default_rng(5)


def pareto(draw, alpha: float, count: int) -> np.ndarray:
    return (1 - draw.random(count)) ** (-1 / (alpha - 1))


# Slope


def test_a_straight_line_is_recovered_exactly():
    scores = 3.0 * np.arange(1, 501) ** -0.35
    found = log_rank_slope(scores)
    assert found.slope == pytest.approx(-0.35) and math.exp(found.intercept) == pytest.approx(3)
    assert found.r_squared == pytest.approx(1) and found.points == 500
    assert log_rank_slope(scores[::-1]) == found
    assert log_rank_slope(np.append(scores, [1e-9] * 100)) == found  # beyond the depth
    assert log_rank_slope(scores, depth=50).points == 50


def test_the_slope_is_the_least_squares_one(draw):
    scores = draw.lognormal(size=200)
    found = log_rank_slope(scores)
    ranks, logs = np.log(np.arange(1, 201)), np.log(np.sort(scores)[::-1])
    slope, intercept = np.polyfit(ranks, logs, 1)
    assert (found.slope, found.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert found.r_squared == pytest.approx(np.corrcoef(ranks, logs)[0, 1] ** 2)


@pytest.mark.parametrize("alpha", [2.0, 3.9])
def test_the_slopes_error_covers(draw, alpha):
    found = [log_rank_slope(pareto(draw, alpha, 500)) for _ in range(300)]
    truth = -1 / (alpha - 1)
    assert np.mean([abs(each.slope - truth) < 1.96 * each.standard_error for each in found]) > 0.90
    assert np.mean([each.slope for each in found]) == pytest.approx(truth, rel=0.04)


def test_the_slope_of_few_or_odd_scores():
    assert math.isnan(log_rank_slope(np.arange(1, 10)).slope)
    assert log_rank_slope(np.arange(1, 10)).points == 9
    assert math.isnan(log_rank_slope(np.array([])).slope)
    assert math.isnan(log_rank_slope(-np.arange(500.0)).slope)
    halves = np.concatenate([np.arange(1, 51) ** -0.5, -np.ones(50), np.zeros(5), [math.nan]])
    assert log_rank_slope(halves).slope == pytest.approx(-0.5) and log_rank_slope(halves).points == 50
    equal = log_rank_slope(np.full(20, 2.0))
    assert (equal.slope, equal.r_squared, equal.intercept) == (0, 1, pytest.approx(math.log(2)))
    assert log_rank_slope(np.array([3.0, 2.0, 1.0]), least=3).slope < 0


# Exponent


def test_the_fit_is_that_of_the_formulas(draw):
    """Every candidate for x_min, fitted by hand."""
    scores = np.concatenate([pareto(draw, 2.5, 60).round(2), [-1.0, 0.0]])
    found = tail_exponent(scores, candidates=100, smallest_tail=0.0, repetitions=0)

    def by_hand(x_min: float) -> tuple[float, float]:
        tail = np.sort(scores[scores >= x_min])
        alpha = 1 + (len(tail) - 1) / np.log(tail / x_min).sum()
        model = 1 - (tail / x_min) ** (1 - alpha)
        steps = np.arange(len(tail) + 1) / len(tail)
        return max(np.abs(steps[1:] - model).max(), np.abs(steps[:-1] - model).max()), alpha

    fits = {x: by_hand(x) for x in np.unique(scores[scores > 0]) if (scores >= x).sum() >= 10}
    best = min(fits, key=fits.get)
    assert found.x_min == pytest.approx(best) and found.tail == (scores >= best).sum() and found.points == 60
    assert (found.distance, found.alpha) == (pytest.approx(fits[best][0]), pytest.approx(fits[best][1]))
    assert found.standard_error == pytest.approx((found.alpha - 1) / math.sqrt(found.tail))
    assert math.isnan(found.p_value) and math.isnan(found.refit_error)


@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_exponents_are_recovered_within_their_errors(draw, alpha):
    """The error that takes x_min as known is somewhat too small, the one of refits is not."""
    found = [tail_exponent(pareto(draw, alpha, 500), repetitions=40, seed=seed) for seed in range(150)]
    assert np.mean([each.alpha for each in found]) == pytest.approx(alpha, rel=0.02)
    assert np.mean([abs(each.alpha - alpha) < 1.96 * each.standard_error for each in found]) > 0.83
    assert np.mean([abs(each.alpha - alpha) < 1.96 * each.refit_error for each in found]) > 0.90
    assert np.mean([each.p_value <= 0.1 for each in found]) < 0.17


def test_a_tail_that_begins_in_the_list_is_found(draw):
    """400 scores even up to 1, and above it a power law."""
    found = [tail_exponent(np.concatenate([draw.random(400), pareto(draw, 3, 400)]), repetitions=0) for _ in range(40)]
    assert 0.85 < np.median([each.x_min for each in found]) < 1.4
    assert np.median([each.alpha for each in found]) == pytest.approx(3, abs=0.2)


def test_the_top_of_a_corpus_is_enough(draw):
    """The 500 highest of 100,000, most of which follow another law."""
    found = []
    for seed in range(40):
        scores = np.concatenate([draw.normal(0, 1, 95_000), 3 * pareto(draw, 2.5, 5_000)])
        top = -np.sort(-scores)[:500]
        found.append(tail_exponent(top, total=len(scores), repetitions=40, seed=seed))
    assert np.mean([abs(each.alpha - 2.5) < 1.96 * each.refit_error for each in found]) > 0.82
    assert np.mean([each.p_value <= 0.1 for each in found]) < 0.3
    assert all(each.share == each.tail / 100_000 and each.at_floor == (each.tail == 500) for each in found)


def test_exponential_tails_are_rejected(draw):
    whole = [tail_exponent(draw.exponential(size=500), seed=seed, smallest_tail=0.5) for seed in range(20)]
    assert np.mean([each.p_value <= 0.1 for each in whole]) > 0.9
    usual = [tail_exponent(draw.exponential(size=500), seed=seed) for seed in range(40)]
    assert np.mean([each.p_value <= 0.1 for each in usual]) > 0.5


def test_high_up_an_exponential_tail_looks_like_a_steep_power_law(draw):
    """What the module says of truncated lists."""
    top = [9.2 + draw.exponential(size=500) for _ in range(20)]
    found = [tail_exponent(each, total=5_000_000, seed=seed, repetitions=40) for seed, each in enumerate(top)]
    assert np.mean([each.p_value > 0.1 for each in found]) > 0.4
    assert np.median([each.alpha for each in found]) > 8


def test_the_candidates_cost_little(draw):
    scores = [pareto(draw, 2.5, 300) for _ in range(10)]
    few, all_of_them = ([tail_exponent(each, candidates=n, repetitions=0) for each in scores] for n in (64, 300))
    assert all(one.distance >= other.distance for one, other in zip(few, all_of_them, strict=True))
    assert np.mean([one.alpha - other.alpha for one, other in zip(few, all_of_them, strict=True)]) == pytest.approx(
        0, abs=0.1
    )


def test_the_exponent_of_few_or_odd_scores(draw):
    for scores in ([], [1.0] * 9, [-1.0] * 100, [0.0, math.nan, math.inf], [5.0] * 100):
        found = tail_exponent(np.array(scores))
        assert math.isnan(found.alpha) and math.isnan(found.p_value) and found.tail == 0 and not found.at_floor
    few = tail_exponent(pareto(draw, 3, 10))
    assert few.tail == 10 and few.standard_error > 0.3 and 0 < few.p_value <= 1
    tied = np.repeat(pareto(draw, 3, 100), 5)
    assert 1 < tail_exponent(tied).alpha < 10
    assert tail_exponent(np.repeat([2.0, 1.0], [50, 50])).p_value < 0.1


def test_a_seed_gives_the_same_fit(draw):
    scores = pareto(draw, 2.5, 100)
    assert tail_exponent(scores, seed=1) == tail_exponent(scores[::-1], seed=1)
    assert tail_exponent(scores, seed=1).refit_error != tail_exponent(scores, seed=2).refit_error


def test_the_unit_of_scores_does_not_matter(draw):
    scores = pareto(draw, 2.5, 100)
    one, other = tail_exponent(scores, repetitions=20), tail_exponent(scores * 1e-12, repetitions=20)
    assert other.alpha == pytest.approx(one.alpha) and other.x_min == pytest.approx(one.x_min * 1e-12)


def test_a_hundred_queries_take_under_a_minute(draw):
    started = time.perf_counter()
    for seed in range(5):
        tail_exponent(pareto(draw, 2.5, 500), repetitions=100, seed=seed)
    assert (time.perf_counter() - started) * 20 < 60  # 1.2 s where nothing else runs
