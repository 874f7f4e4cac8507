"""Intervals and tests of values, one per query; and of shares of queries."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from assets.findings.uncertainty.bootstrap import ANY, RESAMPLES, Comparison, Interval, Z, bca, cut, generators
from assets.findings.uncertainty.permutation import smallest_p, welch_p

FEWEST_EQUAL = 4
"""Equal values of fewer queries show nothing of how far queries lie apart."""


def mean_interval(
    values_Q: np.ndarray, *, bounds: tuple[float, float] = ANY, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of values, one per query (shape Q), by bootstrap over queries; `bounds` are the values' own.

    One query: the interval is nan. All values equal: it has no width, since the sample shows no spread, and is nan
    below four of them, which may be equal by chance (for shares of queries, where that would be wrong, see
    `share_interval`). An infinite value: the interval is nan.
    """
    return cut(bootstrap_interval(values_Q, _last_mean, resamples=resamples, seed=seed), bounds)


def bootstrap_interval(
    values_Q: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Any statistic of values, one per query: `statistic` takes an array whose last axis are queries, and drops it.

    Meant for smooth statistics (means, trimmed means, ratios); degenerate cases as in `mean_interval`.
    """
    values = known(values_Q)
    count = len(values)
    with np.errstate(all="ignore"):
        estimate = float(statistic(values)) if count else math.nan
    if count < 2 or not np.isfinite(values).all():
        return Interval(estimate, math.nan, math.nan)
    if is_constant(values):
        return Interval(estimate, *[estimate if count >= FEWEST_EQUAL else math.nan] * 2)
    generator = generators(seed)[0]
    with np.errstate(all="ignore"):
        resampled = statistic(values[generator.integers(0, count, (resamples, count))])
        without = statistic(_each_left_out(values))
    influence = (count - 1) / count * (without.mean() - without)
    return bca(estimate, resampled, [influence])


def difference_of_means(
    first_Q: np.ndarray,
    second_Q: np.ndarray,
    *,
    bounds: tuple[float, float] = ANY,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Mean of the first group's values minus that of the second's, groups of different queries; `bounds` are the
    values' own.

    The p-value is two-sided, of permuting the queries among the groups: exact where there are no more than `resamples`
    ways to do it, else with one added to both counts (Phipson and Smyth 2010, Permutation p-values should never be
    zero). What is compared is Welch's t, so that it also holds where the groups' spreads and sizes differ (Janssen
    1997; Chung and Romano 2013). A group of one query has no interval and no p-value, one of fewer than four equal
    values no interval.
    """
    groups = [known(first_Q), known(second_Q)]
    if not all(len(group) for group in groups):
        return Comparison(math.nan, math.nan, math.nan, math.nan)
    with np.errstate(all="ignore"):
        estimate = float(groups[0].mean() - groups[1].mean())
    if min(map(len, groups)) < 2 or not np.isfinite(np.concatenate(groups)).all():
        return Comparison(estimate, math.nan, math.nan, math.nan)
    bootstrap, permutation = generators(seed)
    means = [group[bootstrap.integers(0, len(group), (resamples, len(group)))].mean(axis=1) for group in groups]
    influences = [sign * (group - group.mean()) / len(group) for sign, group in zip((1, -1), groups, strict=True)]
    interval = cut(bca(estimate, means[0] - means[1], influences), (bounds[0] - bounds[1], bounds[1] - bounds[0]))
    if any(is_constant(group) and len(group) < FEWEST_EQUAL for group in groups):
        interval = Interval(estimate, math.nan, math.nan)
    p = welch_p(*groups, resamples, permutation)
    return Comparison(*interval, p, smallest_p([len(group) for group in groups], resamples))


# Shares of queries: the bootstrap says nothing of a share of 0 or 1


def share_interval(hits_Q: np.ndarray) -> Interval:
    """The share of queries for which something holds (shape Q; true or false, 1 or 0), with Wilson's interval (1927).

    A bootstrap of 0 of 20 queries would have an interval without width; this one ends at 0.16.
    """
    hits = known(hits_Q)
    count = len(hits)
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    share = float(hits.mean())
    middle, spread = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    low, high = ((middle + end * spread) / (1 + Z**2 / count) for end in (-1, 1))
    return Interval(share, min(max(low, 0.0), share), max(min(high, 1.0), share))


def difference_of_shares(
    first_Q: np.ndarray, second_Q: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Share of the first group's queries minus that of the second's, with Newcombe's interval (1998, method 10).

    The p-value is two-sided, of permuting the queries among the groups, as in `difference_of_means`.
    """
    first, second = share_interval(first_Q), share_interval(second_Q)
    estimate = first.estimate - second.estimate
    low = estimate - math.hypot(first.estimate - first.low, second.high - second.estimate)
    high = estimate + math.hypot(first.high - first.estimate, second.estimate - second.low)
    tested = difference_of_means(first_Q, second_Q, resamples=resamples, seed=seed)
    return Comparison(estimate, low, high, tested.p_value, tested.smallest_p)


def known(values: np.ndarray) -> np.ndarray:
    """Values without nan, rising, so that their order does not matter."""
    values = np.asarray(values, np.float64).ravel()
    return np.sort(values[~np.isnan(values)])


def is_constant(values: np.ndarray) -> bool:
    """Whether rising values differ by no more than rounding."""
    return bool(values[-1] - values[0] <= 1e-12 * max(abs(values[0]), abs(values[-1])))


def _last_mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def _each_left_out(values: np.ndarray) -> np.ndarray:
    count = len(values)
    return np.tile(values, (count, 1))[~np.eye(count, dtype=bool)].reshape(count, count - 1)
