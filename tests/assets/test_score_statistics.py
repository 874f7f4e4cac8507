"""Statistics of shards: that they add up to those of all scores, computed at once by other means."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from assets.findings.merged import (
    merged_ends,
    merged_histograms,
    merged_method_moments,
    merged_moments,
    merged_source_histograms,
)
from assets.findings.score_histogram import ScoreHistogram, bins_of, edges, share_above
from assets.findings.score_statistics import (
    score_statistics_rows,
    score_statistics_table,
    source_statistics_rows,
    source_statistics_table,
)
from assets.lake.lake import Lake
from assets.study.moments import Moments
from compute.errors import BadInput

METHODS, QUERIES, SHARDS, DEPTH = ("dot", "ekfac"), 6, 5, 20
KEYS = [(method, f"q{number}") for method in METHODS for number in range(QUERIES)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Scores of five shards of different sizes, heavy-tailed, with ties and zeros; and the lake that has their rows."""
    draw = np.random.default_rng(1)
    lake = Lake(uri=str(tmp_path_factory.mktemp("lake")))
    study = SimpleNamespace(name="s", spec=SimpleNamespace(findings=SimpleNamespace(depth=DEPTH)))
    step = SimpleNamespace(lake=lake, version=lake.version)
    scores, ids, sources, shards = [], [], [], []
    for number in (3, 0, 4, 1, 2):  # written in another order than their names'
        documents = 40 + 30 * number
        part = (draw.standard_t(2, (len(KEYS), documents)) * 1e-3 + 5e-3).astype(np.float32)
        part[:, :4] = np.float32(0.25)  # ties across shards
        part[0, 5:8] = 0
        names = [f"d{number}-{each:03d}" for each in draw.permutation(documents)]
        of = [("books", "code", "web")[int(name[-1]) % 3] for name in names]
        shard = f"{number:05d}"
        rows = score_statistics_rows(shard, "raw", KEYS, names, part, DEPTH, "f" * 16)
        lake.overwrite(score_statistics_table("s"), rows, where={"shard": shard}, commit={})
        rows = source_statistics_rows(shard, "raw", KEYS, of, part, "f" * 16)
        lake.overwrite(source_statistics_table("s"), rows, where={"shard": shard}, commit={})
        scores.append(part)
        ids += names
        sources += of
        shards += [shard] * documents
    return SimpleNamespace(
        step=step, study=study, scores=np.concatenate(scores, 1), ids=ids, sources=np.array(sources), shards=shards
    )


def test_moments_of_shards_are_the_moments_of_all(whole):
    dot, ekfac = merged_moments(whole.step, whole.study, "raw")
    assert (dot.method, ekfac.method) == METHODS
    assert dot.query_ids == [f"q{number}" for number in range(QUERIES)]
    for of, scores in ((dot, whole.scores[:QUERIES]), (ekfac, whole.scores[QUERIES:])):
        exact = scores.astype(np.float64)
        assert of.moments.documents == exact.shape[1]
        np.testing.assert_allclose(of.moments.mean, exact.mean(1), rtol=1e-12)
        np.testing.assert_allclose(of.moments.correlations(), np.corrcoef(exact), atol=1e-13)


def test_methods_are_compared_on_the_same_query(whole):
    methods, merged = merged_method_moments(whole.step, whole.study, "raw")
    assert tuple(methods) == METHODS
    for number in range(QUERIES):
        exact = np.corrcoef(whole.scores[number].astype(np.float64), whole.scores[QUERIES + number].astype(np.float64))
        np.testing.assert_allclose(merged[f"q{number}"].correlations(), exact, atol=1e-13)


def test_a_large_mean_costs_no_digits():
    draw = np.random.default_rng(2)
    scores = draw.normal(size=(3, 900)) + 1e6
    parts = Moments.added(Moments.of(part) for part in np.split(scores, 9, axis=1))
    np.testing.assert_allclose(parts.correlations(), np.corrcoef(scores), atol=1e-9)
    with pytest.raises(ValueError, match="no documents"):
        Moments.added([])


def test_a_query_that_scores_all_documents_alike_has_no_correlation():
    correlations = Moments.of(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])).correlations()
    assert np.isnan(correlations[0]).all()
    assert correlations[1, 1] == pytest.approx(1)


def test_bins_are_in_the_order_of_scores_and_hold_their_edges():
    draw = np.random.default_rng(3)
    scores = np.sort(np.concatenate([draw.normal(size=500) * 10.0 ** draw.integers(-30, 30, 500), [0.0, -0.0, 1e-45]]))
    scores = np.sort(scores.astype(np.float32))
    bins = bins_of(scores)
    assert (np.diff(bins) >= 0).all()
    low, high = edges(bins)
    assert ((low <= scores) & (scores <= high)).all()
    normal = np.abs(scores) > 1e-37
    assert ((high - low)[normal] <= np.abs(scores[normal]) / 31).all()


def test_histograms_of_shards_are_the_histogram_of_all(whole):
    merged = merged_histograms(whole.step, whole.study, "raw")
    for key, scores in zip(KEYS, whole.scores, strict=True):
        exact = ScoreHistogram.of(scores)
        np.testing.assert_array_equal(merged[key].bins, exact.bins)
        np.testing.assert_array_equal(merged[key].counts, exact.counts)
        np.testing.assert_allclose(merged[key].sums, exact.sums, rtol=1e-12)


@pytest.mark.parametrize("documents", [1, 7, 50, 200.5, 10_000])
def test_sums_at_the_top_are_right_to_the_width_of_a_bin(whole, documents):
    scores = whole.scores[3].astype(np.float64)
    positive = np.sort(scores[scores > 0])[::-1]
    exact = positive[: int(documents)].sum() + (documents % 1) * (positive[int(documents)] if documents % 1 else 0)
    histogram = merged_histograms(whole.step, whole.study, "raw")[KEYS[3]].positive()
    assert histogram.top_sum(documents) == pytest.approx(exact, rel=1 / 32)
    assert histogram.top_sum(len(positive)) == pytest.approx(positive.sum(), rel=1e-12)
    negative = np.sort(-scores[scores < 0])[::-1]
    turned = merged_histograms(whole.step, whole.study, "raw")[KEYS[3]].negated().positive()
    assert turned.top_sum(len(negative)) == pytest.approx(negative.sum(), rel=1e-12)


def test_ranks_lie_within_their_bins(whole):
    histogram = merged_histograms(whole.step, whole.study, "raw")[KEYS[4]]
    for score in whole.scores[4][::17]:
        best, worst = histogram.rank_range(float(score))
        assert best <= (whole.scores[4] > score).sum() + 1 <= worst


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_the_ends_of_all_shards_are_the_ends_of_all(whole, end):
    found = merged_ends(whole.step, whole.study, "raw", end)
    exact = pl.DataFrame(
        {
            "method": np.repeat([method for method, _ in KEYS], len(whole.ids)),
            "query_id": np.repeat([query for _, query in KEYS], len(whole.ids)),
            "document_id": whole.ids * len(KEYS),
            "shard": whole.shards * len(KEYS),
            "score": whole.scores.ravel(),
        }
    ).sort("method", "query_id", "score", "document_id", descending=[False, False, end == "top", False])
    exact = exact.filter(pl.int_range(pl.len()).over("method", "query_id") < DEPTH)
    assert found.drop("rank").equals(exact)
    assert found["rank"].to_list() == list(range(1, DEPTH + 1)) * len(KEYS)


@pytest.mark.parametrize("documents", [1, 20, 150, 10_000])
def test_sources_at_the_top_are_counted_to_a_bin(whole, documents):
    histograms, sources = (
        merged_histograms(whole.step, whole.study, "raw"),
        merged_source_histograms(whole.step, whole.study, "raw"),
    )
    for key, scores in list(zip(KEYS, whole.scores, strict=True))[:4]:
        order = np.argsort(-scores, kind="stable")[:documents]
        total = 0.0
        for source in ("books", "code", "web"):
            count, uncertain = share_above(sources[*key, source], histograms[key], documents)
            at_cut = bins_of(scores) == bins_of(scores)[order[-1]]
            assert abs(count - (whole.sources[order] == source).sum()) <= at_cut.sum()
            assert uncertain <= at_cut.sum() / 2
            total += count
        assert total == pytest.approx(min(documents, len(scores)))


def test_nothing_summed_up_is_a_sentence(tmp_path):
    lake = Lake(uri=str(tmp_path))
    lake.ensure(score_statistics_table("s"))
    step = SimpleNamespace(lake=lake, version=lake.version)
    study = SimpleNamespace(name="s", spec=SimpleNamespace(findings=SimpleNamespace(depth=DEPTH)))
    with pytest.raises(BadInput, match="no scores are summed up"):
        merged_ends(step, study, "raw", "top")
    assert merged_moments(step, study, "raw") == []
    assert merged_histograms(step, study, "raw") == {}
