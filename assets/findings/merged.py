"""The statistics of all shards together, in memory that does not grow with their number.

Rows are read in blocks, and only the columns that are asked for. Sums of counts are exact; sums of floating numbers are
taken in the order of the blocks, so that they are the same to rounding however the table was written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from assets.findings.score_histogram import ScoreHistogram
from assets.findings.score_statistics import score_statistics_table, source_statistics_table
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.step.step import Step
from assets.study.moments import Moments
from compute.errors import BadInput

ROWS_AT_ONCE = 2_000
KEY = ["method", "query_id"]


@dataclass(frozen=True)
class MethodMoments:
    """Of one method: its queries in the order of their ids, and the moments of their scores over all documents."""

    method: str
    query_ids: list[str]
    moments: Moments


def merged_moments(step: Step, study: Study, ranking: str) -> list[MethodMoments]:
    """Means and co-moments of every method, in the order of their names."""
    means, co_moments = _added(step, study, ranking, "co_moments")
    merged = []
    for method in sorted({method for method, _ in co_moments}):
        queries = [query for name, query in sorted(co_moments) if name == method]
        of_queries = [means[method, query] for query in queries]
        _same_shards(study, of_queries)
        within = np.stack([co_moments[method, query] for query in queries])
        documents, between = _between(np.array([[n for n, _ in each] for each in of_queries]), of_queries)
        mean = np.array([sum(n * value for n, value in each) / documents for each in of_queries])
        merged.append(MethodMoments(method, queries, Moments(documents, mean, within + between)))
    return merged


def merged_method_moments(step: Step, study: Study, ranking: str) -> tuple[list[str], dict[str, Moments]]:
    """The methods in order, and of every query the moments of its scores under each of them."""
    means, co_moments = _added(step, study, ranking, "method_co_moments")
    methods = sorted({method for method, _ in co_moments})
    merged = {}
    for query in sorted({query for _, query in co_moments}):
        of_methods = [means[method, query] for method in methods]
        _same_shards(study, of_methods)
        within = np.stack([co_moments[method, query] for method in methods])
        documents, between = _between(np.array([[n for n, _ in each] for each in of_methods]), of_methods)
        mean = np.array([sum(n * value for n, value in each) / documents for each in of_methods])
        merged[query] = Moments(documents, mean, within + between)
    return methods, merged


def _added(step: Step, study: Study, ranking: str, column: str) -> tuple[dict, dict]:
    """By (method, query): the documents and mean of every shard in the order of shards, and the summed co-moments."""
    seen: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
    summed: dict[tuple[str, str], np.ndarray] = {}
    for block in _blocks(
        step, score_statistics_table(study.name), ranking, ["shard", *KEY, "documents", "mean", column]
    ):
        rows = block.select("shard", *KEY, "documents", "mean").iter_rows()
        values = block[column].explode().to_numpy().reshape(len(block), -1)
        for (shard, method, query, documents, mean), row in zip(rows, values, strict=True):
            seen.setdefault((method, query), {})[shard] = (documents, mean)
            summed[method, query] = summed[method, query] + row if (method, query) in summed else row.copy()
    return {key: [of[shard] for shard in sorted(of)] for key, of in seen.items()}, summed


def _same_shards(study: Study, parts: list[list[tuple[int, float]]]) -> None:
    if len({tuple(n for n, _ in each) for each in parts}) > 1:
        raise BadInput(
            f"study {study.name}: its shards are not summed up alike; materialize score_statistics of all shards again"
        )


def _between(documents_QS: np.ndarray, parts: list[list[tuple[int, float]]]) -> tuple[int, np.ndarray]:
    """All documents, and the co-moments of the shards' means around the mean of all."""
    counts = documents_QS[0].astype(np.float64)
    means_QS = np.array([[value for _, value in each] for each in parts])
    centred = means_QS - (means_QS @ counts / counts.sum())[:, None]
    return int(counts.sum()), (centred * counts) @ centred.T


def merged_histograms(step: Step, study: Study, ranking: str) -> dict[tuple[str, str], ScoreHistogram]:
    """Of all documents' scores, by (method, query)."""
    merged = _merged_bins(step, score_statistics_table(study.name), ranking, KEY, ["counts", "sums"])
    return {key: ScoreHistogram(bins, counts.astype(np.int64), sums) for key, (bins, counts, sums) in merged.items()}


def merged_source_histograms(step: Step, study: Study, ranking: str) -> dict[tuple[str, str, str], ScoreHistogram]:
    """Of the scores of each source's documents, by (method, query, source); without sums."""
    merged = _merged_bins(step, source_statistics_table(study.name), ranking, [*KEY, "source"], ["counts"])
    return {
        key: ScoreHistogram(bins, counts.astype(np.int64), np.zeros(len(bins)))
        for key, (bins, counts) in merged.items()
    }


def _merged_bins(
    step: Step, table: Table, ranking: str, key: list[str], values: list[str]
) -> dict[tuple, list[np.ndarray]]:
    """By key, in order: the bins that hold any score, and the sums of each of the `values`."""
    merged: dict[tuple, _SumsOfBins] = defaultdict(lambda: _SumsOfBins(len(values)))
    for block in _blocks(step, table, ranking, [*key, "bins", *values]):
        ends = np.cumsum(block["bins"].list.len().to_numpy())[:-1]
        columns = [block[name].explode(empty_as_null=False).to_numpy() for name in ("bins", *values)]
        parts = [np.split(column, ends) for column in columns]
        for row, bins, *added in zip(block.select(key).iter_rows(), *parts, strict=True):
            merged[row].add(bins, added)
    return {row: merged[row].held() for row in sorted(merged)}


class _SumsOfBins:
    """Sums by bin, in an array for each sign that is as long as its bins lie apart: shards add to it in place."""

    def __init__(self, values: int) -> None:
        self.starts, self.sums = [0, 0], [np.zeros((values, 0)), np.zeros((values, 0))]

    def add(self, bins: np.ndarray, values: Sequence[np.ndarray]) -> None:
        """Of one row, whose `bins` rise; the first of the `values` are counts, never 0."""
        middle = int(np.searchsorted(bins, 0))
        for sign, part in enumerate((slice(0, middle), slice(middle, len(bins)))):
            if len(mine := bins[part]):
                self._reach(sign, int(mine[0]), int(mine[-1]) + 1)
                for sums, added in zip(self.sums[sign], values, strict=True):
                    sums[mine - self.starts[sign]] += added[part]

    def _reach(self, sign: int, first: int, end: int) -> None:
        sums, start = self.sums[sign], self.starts[sign]
        if not sums.shape[1]:
            self.starts[sign], self.sums[sign] = first, np.zeros((len(sums), end - first))
        elif first < start or end > start + sums.shape[1]:
            around = (max(start - first, 0), max(end - start - sums.shape[1], 0))
            self.starts[sign], self.sums[sign] = min(start, first), np.pad(sums, ((0, 0), around))

    def held(self) -> list[np.ndarray]:
        """The bins with a count above 0, and their sums."""
        bins = np.concatenate(
            [start + np.arange(sums.shape[1]) for start, sums in zip(self.starts, self.sums, strict=True)]
        )
        sums = np.concatenate(self.sums, axis=1)
        return [bins[sums[0] > 0].astype(np.int32), *sums[:, sums[0] > 0]]


def merged_ends(step: Step, study: Study, ranking: str, end: str) -> pl.DataFrame:
    """The `findings.depth` documents at one end (top or bottom) of all shards: method, query_id, rank, document_id,
    shard, score."""
    table, depth = score_statistics_table(study.name), study.spec.findings.depth
    names = {f"{end}_document_ids": "document_id", f"{end}_scores": "score"}
    whole: pl.DataFrame | None = None
    for block in _blocks(step, table, ranking, [*KEY, "shard", *names]):
        part = block.rename(names).explode("document_id", "score", empty_as_null=False)
        whole = _best(part if whole is None else pl.concat([whole, _near(part, whole, end, depth)]), end, depth)
    if whole is None:
        raise BadInput(f"study {study.name}: no scores are summed up; materialize score_statistics first")
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(KEY)
    return whole.with_columns(rank=rank).select(*KEY, "rank", "document_id", "shard", "score")


def _near(rows: pl.DataFrame, whole: pl.DataFrame, end: str, depth: int) -> pl.DataFrame:
    """Those of the rows that are not beaten by `depth` others already: few, and only they need to be sorted."""
    score, last = pl.col("score"), pl.col("score").min() if end == "top" else pl.col("score").max()
    full = whole.group_by(KEY).agg(last=last, listed=pl.len()).filter(pl.col("listed") >= depth)
    near = score >= pl.col("last") if end == "top" else score <= pl.col("last")
    return rows.join(full.drop("listed"), on=KEY, how="left").filter(near | pl.col("last").is_null()).drop("last")


def _best(rows: pl.DataFrame, end: str, depth: int) -> pl.DataFrame:
    ordered = rows.sort(*KEY, "score", "document_id", descending=[False, False, end == "top", False])
    return ordered.filter(pl.int_range(pl.len()).over(KEY) < depth)


def _blocks(step: Step, table: Table, ranking: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """The rows of one ranking (raw or normed), some thousands at a time."""
    held, rows = [], 0
    for batch in step.lake.read_batches(table, columns=["ranking", *columns], version=step.version(table)):
        held.append(batch.filter(pc.equal(batch.column("ranking"), ranking)).drop_columns("ranking"))
        rows += held[-1].num_rows
        if rows >= ROWS_AT_ONCE:
            yield pl.from_arrow(pa.Table.from_batches(held))
            held, rows = [], 0
    if rows:
        yield pl.from_arrow(pa.Table.from_batches(held))
