"""Intervals and tests of matrices of pairs of queries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from assets.findings.uncertainty.bootstrap import RESAMPLES, Comparison, Interval, bca, cut, generators
from assets.findings.uncertainty.permutation import Alternative, arrangements, p_value, smallest_p, welch_p

CELLS = 4_000_000
"""Numbers held at once while labels are permuted."""


def within_groups(
    r_QQ: np.ndarray,
    groups: Sequence[str | None],
    *,
    group: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean r of the pairs of queries of the same group, over all groups or in `group` alone.

    `r_QQ` is symmetric, a correlation per pair of queries; its diagonal is not read. `groups` has one label per query;
    queries labelled None, and those whose correlations are all nan, are left out. The interval is of a bootstrap that
    draws queries within each group and leaves out pairs of a query with itself, as long as the jackknife over queries
    says (Arvesen 1969 for such means of pairs); errors of each pair for itself make it longer than needed. A group of
    one query adds nothing; one of two adds its pair and, as it shows no spread, no width. The interval is nan where no
    group has three, and ends at −1 and 1. Groups count by their pairs, n(n − 1).
    """
    pairs = _Pairs.of(r_QQ, groups, group)
    return pairs.interval(pairs.chosen(group), None, resamples, seed)


def between_groups(
    r_QQ: np.ndarray,
    groups: Sequence[str | None],
    first: str,
    second: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean r of the pairs with one query in each of two groups; matrix, labels and interval as in `within_groups`."""
    pairs = _Pairs.of(r_QQ, [label if label in (first, second) else None for label in groups])
    return pairs.interval(~pairs.same, None, resamples, seed)


def within_against_between(
    r_QQ: np.ndarray,
    groups: Sequence[str | None],
    *,
    group: str | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Mean r of pairs within groups minus that of pairs between groups; matrix, labels, interval as in `within_groups`.

    With `group`, the pairs within that group against the pairs of it with all other queries. The p-value is Mantel's
    (1967): queries change labels, so rows and columns of the matrix move together. It tells whether labels matter; with
    `alternative` "greater", whether r within exceeds r between. Exact where there are no more than `resamples` ways to
    label the queries, else with one added to both counts.
    """
    pairs = _Pairs.of(r_QQ, groups, group, others=True)
    against = ~pairs.same if group is None else ~np.eye(2, dtype=bool)
    return pairs.comparison(pairs.chosen(group), against, alternative, resamples, seed)


def within_against_within(
    r_QQ: np.ndarray,
    groups: Sequence[str | None],
    first: str,
    second: str,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Mean r of pairs within `first` minus that of pairs within `second`; matrix, labels, interval as in
    `within_groups`.

    Permuted labels would mix both groups and tell whether labels matter, not whether the two means differ. So the
    two-sided p-value is that of `difference_of_means` for the queries' jackknife pseudo-values (Tukey 1958), whose
    means over the groups are the two means of r. Groups of fewer than three queries have none.
    """
    names = (first, second)
    pairs = _Pairs.of(r_QQ, [label if label in names else None for label in groups], order=names)
    interval = pairs.interval(np.diag([True, False]), np.diag([False, True]), resamples, seed)
    values = [pairs.pseudo_values(code) for code in (0, 1)]
    if math.isnan(interval.low) or min(map(len, values)) < 3:
        return Comparison(*interval, math.nan)
    p = welch_p(*values, resamples, generators(seed)[1])
    return Comparison(*interval, p, smallest_p([len(each) for each in values], resamples))


class _Pairs:
    """Pairs of labelled queries: `r` with zeros on its diagonal, `codes` (the number of each query's group), and
    `same`, the pairs of groups whose pairs of queries stand within a group."""

    def __init__(self, r: np.ndarray, codes: np.ndarray, count: int) -> None:
        self.r, self.codes, self.same = r, codes, np.eye(count, dtype=bool)
        self.apart = 1.0 - np.eye(len(codes))

    @classmethod
    def of(
        cls,
        r_QQ: np.ndarray,
        groups: Sequence[str | None],
        group: str | None = None,
        *,
        others: bool = False,
        order: Sequence[str] | None = None,
    ) -> _Pairs:
        """With `group`, that group is number 0, and all others together number 1, or left out."""
        r, labels = np.array(r_QQ, np.float64), list(groups)
        if r.shape != (len(labels), len(labels)):
            raise ValueError(f"{len(labels)} queries have labels, and the matrix has the shape {r.shape}")
        np.fill_diagonal(r, math.nan)
        if group is not None:
            rest = "others" if others else None
            labels = [None if label is None else "group" if label == group else rest for label in labels]
            order = ("group", "others")
        kept = np.flatnonzero(np.array([label is not None for label in labels], bool) & ~np.isnan(r).all(axis=1))
        names = list(order or sorted({labels[each] for each in kept}))
        r = r[np.ix_(kept, kept)]
        np.fill_diagonal(r, 0.0)
        if not np.allclose(r, r.T, atol=1e-6):
            raise ValueError("the correlations of pairs must be symmetric, and known unless all of a query are unknown")
        return cls((r + r.T) / 2, np.array([names.index(labels[each]) for each in kept], np.int64), len(names))

    def chosen(self, group: str | None) -> np.ndarray:
        """Pairs of groups that are within: of all groups, or of the one, which is number 0."""
        return self.same if group is None else np.diag([True, False])

    def interval(self, chosen: np.ndarray, against: np.ndarray | None, resamples: int, seed: int) -> Interval:
        count = len(self.codes)
        estimate = float(self._difference(np.ones((1, count)), chosen, against)[0])
        diagonal = np.diag(chosen if against is None else chosen | against)
        if math.isnan(estimate) or (
            diagonal.any() and np.bincount(self.codes, minlength=len(chosen))[diagonal].max() < 3
        ):
            return Interval(estimate, math.nan, math.nan)
        without = self._difference(self.apart, chosen, against)
        members = [np.flatnonzero(self.codes == code) for code in range(len(chosen))]
        used = [each for each in members if len(each)]
        influences = [(len(each) - 1) / len(each) * (without[each].mean() - without[each]) for each in used]
        generator = generators(seed)[0]
        drawn = np.zeros((resamples, count))
        for each in used:
            drawn[:, each] = generator.multinomial(len(each), np.full(len(each), 1 / len(each)), resamples)
        found = bca(estimate, self._difference(drawn, chosen, against), influences, by_jackknife=True)
        return cut(found, (-1, 1) if against is None else (-2, 2))

    def comparison(
        self, chosen: np.ndarray, against: np.ndarray, alternative: Alternative, resamples: int, seed: int
    ) -> Comparison:
        interval = self.interval(chosen, against, resamples, seed)
        if math.isnan(interval.estimate):
            return Comparison(*interval, math.nan)
        weights = self._weights(chosen) - self._weights(against)
        ways, exact = arrangements(self.codes, resamples, generators(seed)[1])
        statistics = self._weighted(ways, weights)
        observed = self._weighted(self.codes[None], weights)[0]
        p = p_value(observed, statistics, alternative, exact, float(np.abs(self.r).max()))
        # The names of groups of one size matter where one of them is compared with the rest.
        alike = bool((chosen == self.same).all())
        return Comparison(*interval, p, smallest_p(np.bincount(self.codes).tolist(), resamples, alike=alike))

    def pseudo_values(self, code: int) -> np.ndarray:
        """n · mean − (n − 1) · (mean without the query) for each query of a group, its pairs' mean r meant; rising."""
        members = np.flatnonzero(self.codes == code)
        count = len(members)
        if count < 3:
            return np.full(count, math.nan)
        sums = self.r[np.ix_(members, members)].sum(axis=1)
        without = (sums.sum() - 2 * sums) / ((count - 1) * (count - 2))
        return np.sort(sums.sum() / (count - 1) - (count - 1) * without)

    def _difference(self, counts_RQ: np.ndarray, chosen: np.ndarray, against: np.ndarray | None) -> np.ndarray:
        """Of queries that stand in the sample as often as `counts_RQ` says, for each row of it."""
        mean = self._mean(counts_RQ, chosen)
        return mean if against is None else mean - self._mean(counts_RQ, against)

    def _mean(self, counts_RQ: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Mean of the chosen pairs of groups, each counted as often as it has pairs in the whole sample: a query that
        is drawn twice or left out changes the mean of its group's pairs, and not how much its group counts."""
        members = np.eye(len(chosen))[self.codes]
        sizes, own = counts_RQ @ members, counts_RQ**2 @ members
        sums, weights = np.zeros(len(counts_RQ)), np.zeros(len(counts_RQ))
        for code, row in enumerate(self._pair_counts() * chosen):
            with_code = ((counts_RQ * members[:, code]) @ self.r * counts_RQ) @ members
            pairs = sizes[:, [code]] * sizes
            pairs[:, code] -= own[:, code]
            held = pairs > 0
            means = np.divide(with_code, pairs, out=np.zeros_like(pairs), where=held)
            sums += means @ row
            weights += held @ row
        return np.divide(sums, weights, out=np.full(len(sums), math.nan), where=weights > 0)

    def _pair_counts(self) -> np.ndarray:
        sizes = np.bincount(self.codes, minlength=len(self.same)).astype(np.float64)
        return np.outer(sizes, sizes) - np.diag(sizes)

    def _weights(self, chosen: np.ndarray) -> np.ndarray:
        """What a pair counts by its groups: their numbers of pairs stay as they are under a permutation."""
        return chosen / (self._pair_counts() * chosen).sum()

    def _weighted(self, codes_RQ: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Σ r_ij · weight of (group of i, group of j), for each row of labels."""
        count, kinds = len(self.codes), len(weights)
        rows = max(1, CELLS // (count * kinds))
        found = np.empty(len(codes_RQ))
        for start in range(0, len(codes_RQ), rows):
            codes_QR = codes_RQ[start : start + rows].T
            members = np.eye(kinds)[codes_QR]
            sums = (self.r @ members.reshape(count, -1)).reshape(members.shape)  # r of each query with each group
            found[start : start + rows] = (sums * weights[codes_QR]).sum(axis=(0, 2))
        return found
