"""Intervals and tests over queries: they cover the truth as often as they say, and find what is there and no more."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from assets.findings.uncertainty.bootstrap import Comparison, Interval
from assets.findings.uncertainty.chance import mean_against_chance, share_against_chance
from assets.findings.uncertainty.corrections import holm, holm_at_best
from assets.findings.uncertainty.pairs import (
    between_groups,
    within_against_between,
    within_against_within,
    within_groups,
)
from assets.findings.uncertainty.values import (
    bootstrap_interval,
    difference_of_means,
    difference_of_shares,
    mean_interval,
    share_interval,
)

NAN = math.nan
pytestmark = pytest.mark.usefixtures("no_warnings")


@pytest.fixture
def draw():
    return np.random.default_rng(7)


def coverage(intervals, truth: float) -> float:
    return float(np.mean([each.low <= truth <= each.high for each in intervals]))


def correlations(draw, sizes, *, within=0.6, between=0.2, spread=0.15) -> tuple[np.ndarray, list[str]]:
    """r of a pair is the product of what its queries have, drawn around `within` or `between`: the mean r within a
    group is within², between groups between²."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    mine, others = (mean + spread * draw.normal(size=len(codes)) for mean in (within, between))
    r = np.where(codes[:, None] == codes, np.outer(mine, mine), np.outer(others, others))
    return r, [f"g{code}" for code in codes]


def pairs_mean(r: np.ndarray, chosen) -> float:
    return np.mean([r[i, j] for i, j in itertools.combinations(range(len(r)), 2) if chosen(i, j)])


# Means


@pytest.mark.parametrize(("count", "normal", "skewed"), [(5, 0.905, 0.84), (10, 0.9, 0.87), (40, 0.9, 0.9)])
def test_intervals_of_means_cover(draw, count, normal, skewed):
    """Of 3,000 samples 95, 94 and 95 %, and 90, 92 and 95 %; the bounds allow for 400."""
    samples = [draw.normal(3, 2, count) for _ in range(400)]
    assert normal < coverage([mean_interval(each, resamples=1000, seed=i) for i, each in enumerate(samples)], 3) < 0.985
    samples = [draw.exponential(size=count) for _ in range(400)]
    assert skewed < coverage([mean_interval(each, resamples=1000, seed=i) for i, each in enumerate(samples)], 1) < 0.985


def test_intervals_are_as_long_as_students_on_normal_values():
    from scipy import stats

    values = stats.norm.ppf((np.arange(12) + 0.5) / 12)
    found = mean_interval(values, resamples=50_000)
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) / math.sqrt(12)
    assert found.low == pytest.approx(-half, rel=0.03) and found.high == pytest.approx(half, rel=0.03)


def test_intervals_lean_to_the_long_side(draw):
    found = mean_interval(draw.exponential(size=15))
    assert found.high - found.estimate > 1.2 * (found.estimate - found.low)


def test_any_statistic_has_an_interval(draw):
    def deviation(values):
        return values.std(axis=-1)

    found = [bootstrap_interval(draw.normal(0, 2, 40), deviation, resamples=500) for _ in range(300)]
    assert 0.89 < coverage(found, 2) < 0.985


def test_a_seed_gives_the_same_numbers_whatever_the_order(draw):
    values, others = draw.normal(size=12), draw.normal(size=9)
    assert mean_interval(values, seed=3) == mean_interval(values[::-1], seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)
    assert difference_of_means(values, others, seed=3) == difference_of_means(values[::-1], others[::-1], seed=3)


def test_too_few_queries_have_no_interval():
    np.testing.assert_equal(mean_interval(np.array([])), Interval(NAN, NAN, NAN))
    np.testing.assert_equal(mean_interval(np.array([2.0])), Interval(2, NAN, NAN))
    np.testing.assert_equal(mean_interval(np.array([2.0, NAN])), Interval(2, NAN, NAN))
    np.testing.assert_equal(mean_interval(np.array([2.0, math.inf])), Interval(math.inf, NAN, NAN))
    assert mean_interval(np.array([0.1] * 7))[1:] == (pytest.approx(0.1), pytest.approx(0.1))
    for few in (2, 3):  # equal by chance, as the distances of two queries from their mean always are
        np.testing.assert_equal(mean_interval(np.ones(few)), Interval(1, NAN, NAN))
        np.testing.assert_equal(mean_interval(0.1 * np.arange(3)[:few] * 0 + 0.3), Interval(0.3, NAN, NAN))
    assert mean_interval(np.array([1.0, NAN, 2.0, 3.0])) == mean_interval(np.array([1.0, 2.0, 3.0]))


# Differences


@pytest.mark.parametrize(("sizes", "spreads"), [((5, 5), (1, 1)), ((8, 30), (3, 1)), ((30, 8), (3, 1))])
def test_differences_cover_and_their_p_is_uniform(draw, sizes, spreads):
    """Also where the spreads differ, where permuting plain differences is wrong (p < 0.05 in 27 % and in none)."""
    found = [
        difference_of_means(
            *(s * draw.normal(size=n) for n, s in zip(sizes, spreads, strict=True)), resamples=400, seed=seed
        )
        for seed in range(400)
    ]
    assert 0.91 < coverage(found, 0) < 0.985
    p_values = np.array([each.p_value for each in found])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3.5 * math.sqrt(level * (1 - level) / 400) + 0.01)


def test_a_difference_is_found(draw):
    found = [difference_of_means(draw.normal(1.2, 1, 20), draw.normal(0, 1, 20), resamples=400) for _ in range(100)]
    assert np.mean([each.p_value <= 0.05 for each in found]) > 0.85  # Student's test: 0.96
    assert np.mean([each.low > 0 for each in found]) > 0.85


def test_the_p_value_of_few_queries_is_exact():
    """Of the 10 ways to choose two of five, the sums 3 and 9 are the most extreme by Welch's t."""
    found = difference_of_means(np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0]))
    values = [1.0, 2.0, 3.0, 4.0, 5.0]

    def welch(chosen) -> float:
        one, other = [v for v in values if v in chosen], [v for v in values if v not in chosen]
        spread = np.var(one, ddof=1) / len(one) + np.var(other, ddof=1) / len(other)
        return abs(np.mean(one) - np.mean(other)) / math.sqrt(spread)

    reached = [welch(each) >= welch((1.0, 2.0)) - 1e-9 for each in itertools.combinations(values, 2)]
    assert found.p_value == np.mean(reached) == 0.2
    assert found.estimate == -2.5


def test_sampled_p_values_are_never_zero(draw):
    found = difference_of_means(draw.normal(50, 1, 20), draw.normal(0, 1, 20), resamples=999)
    assert found.p_value == 1 / 1000


def test_groups_without_spread():
    same = difference_of_means(np.ones(4), np.ones(5))
    assert same == Comparison(0, 0, 0, 1, 1 / 126)
    apart = difference_of_means(np.ones(3), np.zeros(3))
    assert apart.estimate == 1 and apart.p_value == 2 / 20


def test_groups_of_one_or_none_are_not_tested():
    two = np.array([1.0, 2.0])
    np.testing.assert_equal(difference_of_means(np.array([3.0]), two), Comparison(1.5, NAN, NAN, NAN))
    np.testing.assert_equal(difference_of_means(two, np.array([])), Comparison(NAN, NAN, NAN, NAN))


def test_a_group_of_few_equal_values_has_no_interval_of_its_difference(draw):
    for few in (np.ones(2), np.ones(3)):
        found = difference_of_means(draw.normal(3, 1, 9), few)
        assert math.isnan(found.low) and math.isnan(found.high) and not math.isnan(found.p_value)
    assert not math.isnan(difference_of_means(draw.normal(3, 1, 9), np.ones(4)).low)


def test_intervals_end_where_values_do(draw):
    shares = np.array([1.0] * 5 + [0.25])
    assert mean_interval(shares).high > 1
    assert mean_interval(shares, bounds=(0, 1))[:2] == mean_interval(shares)[:2]
    assert mean_interval(shares, bounds=(0, 1)).high == 1
    rare = np.array([0.0, 0.0, 0.1, 9.0])
    assert mean_interval(rare).low < 0 == mean_interval(rare, bounds=(0, math.inf)).low
    found = difference_of_means(np.array([1.0, 1.0, 1.0, 1.0, 0.8]), np.array([0.0, 0.9, 0.0, 0.0]), bounds=(0, 1))
    assert (
        found.high == 1 < difference_of_means(np.array([1.0, 1.0, 1.0, 1.0, 0.8]), np.array([0.0, 0.9, 0.0, 0.0])).high
    )
    r = np.full((6, 6), 0.95)
    r[0] = r[:, 0] = 0.2
    assert within_groups(r, ["a"] * 6).high == 1


def test_the_smallest_p_value_is_one_that_can_be_had():
    """Of every way to split these values, the most extreme one has it: no smaller one is there to be had."""
    for sizes in ((3, 3), (3, 4), (2, 5), (4, 4)):
        values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])[: sum(sizes)]
        found = [
            difference_of_means(values[list(chosen)], np.delete(values, chosen))
            for chosen in itertools.combinations(range(len(values)), sizes[0])
        ]
        assert {each.smallest_p for each in found} == {min(each.p_value for each in found)}
    assert found[0].smallest_p == 2 / 70
    assert difference_of_means(np.arange(30.0), np.arange(30.0), resamples=99).smallest_p == 0.01
    r = np.eye(6) + np.kron(np.eye(3), np.ones((2, 2)))  # three tasks of two queries: 90 ways, six of them the same
    found = within_against_between(r, list("aabbcc"))
    assert found.p_value == found.smallest_p == 6 / 90


# Against chance


def test_means_against_chance_are_tested_by_student(draw):
    from scipy import stats

    values, chances = draw.normal(1.2, 1, 9), draw.uniform(0, 2, 9)
    assert mean_against_chance(values, chances) == (pytest.approx(stats.ttest_rel(values, chances).pvalue), 0)
    assert mean_against_chance(np.full(6, 3.0), np.float64(1)) == (2**-5, 2**-5)  # no spread: the sign test
    assert mean_against_chance(np.full(6, 3.0), np.float64(3)) == (1, 2**-5)
    np.testing.assert_equal(mean_against_chance(np.array([3.0, 4.0]), np.float64(1)), (NAN, NAN))
    np.testing.assert_equal(mean_against_chance(values, np.float64(NAN)), (NAN, NAN))


def test_shares_against_chance_are_tested_exactly():
    from scipy import stats

    for hits in range(8):
        values, upper = np.arange(7) < hits, stats.binom.sf(hits - 1, 7, 0.2)
        expected = min(1, 2 * min(upper, stats.binom.cdf(hits, 7, 0.2)))
        assert share_against_chance(values, np.float64(0.2)) == (pytest.approx(expected), pytest.approx(2 * 0.2**7))
    chances = np.array([0.1, 0.5, 0.9])
    both = 0.1 * 0.5 * 0.9 + 0.1 * 0.5 * 0.1 + 0.1 * 0.5 * 0.9 + 0.9 * 0.5 * 0.9  # two or three hits
    assert share_against_chance(np.array([1.0, 1.0, 0.0]), chances).p_value == pytest.approx(min(1, 2 * both))
    assert share_against_chance(np.ones(3), np.array([0.9, 0.9, 0.9])).smallest_p == 1  # chance alone does as much


def test_sources_at_chance_are_rarely_found_among_many(draw):
    """Of 10 sources × 2 kinds × 2 cut-offs; in 400 studies 1 to 3 %, for 5 to 40 queries, rare sources or none."""
    documents, false = np.array([60, 20, 10, 5, 2, 1, 1, 0.5, 0.3, 0.2]) * 1000, {5: 0, 20: 0}
    for queries in false:
        for _ in range(100):
            tops = [
                draw.multivariate_hypergeometric(documents.astype(int), cut, queries) / cut for cut in (50, 500) * 2
            ]
            values = np.hstack(tops) / np.tile(documents / documents.sum(), 4)
            p = holm(np.array([mean_against_chance(each, np.float64(1)).p_value for each in values.T]))
            false[queries] += bool(((p < 0.05) & (values.mean(axis=0) > 1)).any())
    assert max(false.values()) <= 7, false


# Shares


def test_shares_have_width_where_all_agree():
    assert share_interval(np.zeros(20, bool)) == (0, 0, pytest.approx(0.1611, abs=1e-4))
    assert share_interval(np.ones(20)) == (1, pytest.approx(0.8389, abs=1e-4), 1)
    np.testing.assert_equal(share_interval(np.array([])), Interval(NAN, NAN, NAN))
    found = difference_of_shares(np.ones(10), np.zeros(10))
    assert found[:3] == (1, pytest.approx(1 - 0.2775 * math.sqrt(2), abs=1e-3), 1) and found.p_value < 0.001


def test_shares_cover(draw):
    assert coverage([share_interval(draw.random(10) < 0.3) for _ in range(500)], 0.3) > 0.88  # exactly 0.924
    found = [difference_of_shares(draw.random(15) < 0.5, draw.random(10) < 0.2, resamples=200) for _ in range(300)]
    assert coverage(found, 0.3) > 0.90


# Pairs of queries


def test_means_of_pairs(draw):
    r, groups = correlations(draw, (3, 4, 1))
    same = pairs_mean(r, lambda i, j: groups[i] == groups[j])
    apart = pairs_mean(r, lambda i, j: groups[i] != groups[j])
    assert within_groups(r, groups).estimate == pytest.approx(same)
    assert within_against_between(r, groups).estimate == pytest.approx(same - apart)
    assert between_groups(r, groups, "g0", "g2").estimate == pytest.approx(r[:3, 7].mean())
    one = pairs_mean(r[:3, :3], lambda i, j: True)
    assert within_groups(r, groups, group="g0").estimate == pytest.approx(one)
    found = within_against_between(r, groups, group="g0")
    assert found.estimate == pytest.approx(one - r[:3, 3:].mean())
    other = pairs_mean(r[3:7, 3:7], lambda i, j: True)
    assert within_against_within(r, groups, "g0", "g1").estimate == pytest.approx(one - other)
    assert within_against_within(r, groups, "g1", "g0").estimate == pytest.approx(other - one)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("group", [None, "a"])
def test_few_queries_are_relabelled_in_all_ways(draw, alternative, group):
    values = draw.normal(size=(6, 6))
    r, labels = (values + values.T) / 2, ["a", "a", "b", "b", "b", "c"]

    def statistic(labels) -> float:
        if group:
            inside = pairs_mean(r, lambda i, j: labels[i] == labels[j] == group)
            return inside - pairs_mean(r, lambda i, j: (labels[i] == group) != (labels[j] == group))
        inside = pairs_mean(r, lambda i, j: labels[i] == labels[j])
        return inside - pairs_mean(r, lambda i, j: labels[i] != labels[j])

    side = {"two-sided": abs, "greater": float, "less": lambda value: -value}[alternative]
    all_ways = [side(statistic(each)) for each in set(itertools.permutations(labels))]
    expected = np.mean(np.array(all_ways) >= side(statistic(labels)) - 1e-9)
    found = within_against_between(r, labels, group=group, alternative=alternative)
    assert found.p_value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sizes", [(5, 5), (12, 8), (4,) * 8])
def test_intervals_of_pairs_cover(draw, sizes):
    found = {"within": [], "one": [], "difference": [], "two": [], "between": []}
    for seed in range(150):
        r, groups = correlations(draw, sizes)
        settings = {"resamples": 300, "seed": seed}
        found["within"].append(within_groups(r, groups, **settings))
        found["one"].append(within_groups(r, groups, group="g0", **settings))
        found["difference"].append(within_against_between(r, groups, **settings))
        found["two"].append(within_against_within(r, groups, "g0", "g1", **settings))
        found["between"].append(between_groups(r, groups, "g0", "g1", **settings))
    truth = {"within": 0.36, "one": 0.36, "difference": 0.32, "two": 0.0, "between": 0.04}
    covered = {name: coverage(each, truth[name]) for name, each in found.items()}
    # Of 600 samples 94 to 97 %, and 4 to 6 % of the p-values; the bounds allow for 150.
    assert min(covered.values()) > 0.90, covered
    assert np.mean([each.p_value <= 0.05 for each in found["two"]]) < 0.1  # permuted labels would say so in 30 %


def test_labels_that_do_not_matter_have_a_uniform_p(draw):
    labels = ["a"] * 8 + ["b"] * 12
    found = [
        within_against_between(np.corrcoef(draw.normal(size=(20, 50))), labels, resamples=200, seed=seed)
        for seed in range(300)
    ]
    p_values = np.array([each.p_value for each in found])
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p_values <= level).mean() == pytest.approx(level, abs=3.5 * math.sqrt(level * (1 - level) / 300) + 0.01)


def test_correlations_that_are_all_equal():
    found = within_against_between(np.full((6, 6), 0.3), list("aaabbb"))
    assert found == Comparison(0, 0, 0, 1, 2 / 20)
    assert within_groups(np.ones((5, 5)), list("aaabb")) == (1, 1, 1)


def test_groups_that_correlate_are_found(draw):
    r, groups = correlations(draw, (6, 6, 6))
    found = within_against_between(r, groups, alternative="greater", resamples=999)
    assert found.p_value == 0.001 and found.low > 0.1
    assert within_against_between(r, groups, alternative="less", resamples=999).p_value > 0.9
    r[:6, :6] /= 4
    assert within_against_within(r, groups, "g0", "g1").p_value < 0.05


def test_degenerate_groups_of_pairs(draw):
    r, _ = correlations(draw, (4,))
    nothing = Interval(NAN, NAN, NAN)
    np.testing.assert_equal(within_groups(r, [None] * 4), nothing)
    np.testing.assert_equal(within_groups(r, ["a", "b", "c", "d"]), nothing)
    np.testing.assert_equal(within_groups(np.empty((0, 0)), []), nothing)
    np.testing.assert_equal(within_groups(r, ["a", "a", None, None]), Interval(r[0, 1], NAN, NAN))
    np.testing.assert_equal(within_groups(r, list("aaaa"), group="z"), nothing)
    np.testing.assert_equal(within_against_between(r, ["a"] * 4), Comparison(NAN, NAN, NAN, NAN))
    np.testing.assert_equal(within_against_within(r, list("aaab"), "a", "b"), Comparison(NAN, NAN, NAN, NAN))
    found = within_against_between(r, list("aabb"))
    assert math.isnan(found.low) and found.p_value in (1 / 3, 2 / 3, 1.0)
    with pytest.raises(ValueError, match="4 queries have labels"):
        within_groups(np.zeros((3, 3)), list("aabb"))
    with pytest.raises(ValueError, match="symmetric"):
        within_groups(draw.normal(size=(4, 4)), list("aabb"))


def test_queries_without_correlations_are_left_out(draw):
    r, groups = correlations(draw, (5, 5))
    expected = within_against_between(r, groups, seed=2)
    with_one_more = np.full((11, 11), NAN)
    with_one_more[:10, :10] = r
    assert within_against_between(with_one_more, [*groups, "g1"], seed=2) == expected
    assert within_against_between(with_one_more, [*groups, "constant"], seed=2) == expected


def test_a_hundred_queries_take_seconds(draw):
    r, groups = correlations(draw, (10,) * 10)
    started = time.perf_counter()
    within_against_between(r, groups, resamples=10_000)
    assert time.perf_counter() - started < 10  # 0.6 s where nothing else runs


# Many comparisons


def test_corrections_leave_out_what_is_not_known():
    p_values = np.array([0.01, NAN, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p_values), [0.03, NAN, 0.06, 0.06, 0.02])
    np.testing.assert_equal(holm(np.array([])), np.array([]))
    np.testing.assert_equal(holm(np.array([NAN])), np.array([NAN]))
    assert holm(np.array([0.6, 0.7])).max() == 1


def test_the_smallest_corrected_p_value_leaves_the_other_tests_as_they_are():
    p_values, smallest = np.array([0.2, NAN, 0.01, 0.5]), np.array([0.1, NAN, 0.001, 0.002])
    np.testing.assert_allclose(holm_at_best(p_values, smallest), [0.2, NAN, 0.003, 0.006])


def test_holm_keeps_false_findings_rare(draw):
    errors = [(holm(draw.random(20)) <= 0.05).any() for _ in range(1000)]
    assert 0.02 < np.mean(errors) < 0.08
