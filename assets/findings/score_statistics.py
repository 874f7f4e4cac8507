"""study/<study>/score_statistics and /source_statistics: what the findings need of a shard's scores, and what adds up.

Everything that the findings say of millions of documents comes from these rows: moments for correlations, histograms
for magnitudes and ranks, the ends of the ranking with the documents' ids. One more shard adds its rows; the others are
not read again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from assets.findings.score_histogram import MANTISSA_BITS, bins_of
from assets.lake.columns import METHOD, QUERY_ID, SHARD, SOURCE, STAMP
from assets.lake.tables import Column, Table
from assets.study.candidates import RANKING, smallest
from assets.study.moments import Moments

INTS, FLOATS, TEXTS = pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.string())
DOCUMENTS = Column("documents", pa.int64(), "Documents that were scored.")
BINS = Column("bins", pa.list_(pa.int32()), f"Bins of scores, rising: {2**MANTISSA_BITS} to every factor of two.")
COUNTS = Column("counts", INTS, "Documents in each of the bins.")


def score_statistics_table(study: str) -> Table:
    return Table(
        key=("study", study, "score_statistics"),
        grain="one row per shard, method, ranking and query",
        columns=(
            SHARD,
            METHOD,
            RANKING,
            QUERY_ID,
            DOCUMENTS,
            Column("mean", pa.float64(), "Mean score of the shard's documents."),
            Column("co_moments", FLOATS, "Σ (x − x̄)(y − ȳ) with every query of the method, in the order of their ids."),
            Column("method_co_moments", FLOATS, "The same with every method for this query, in the methods' order."),
            BINS,
            COUNTS,
            Column("sums", FLOATS, "Sum of the scores in each of the bins."),
            Column("top_document_ids", TEXTS, "The most positive documents, the first one first; ties by id."),
            Column("top_scores", pa.list_(pa.float32()), "Their scores."),
            Column("bottom_document_ids", TEXTS, "The most negative documents, the first one first; ties by id."),
            Column("bottom_scores", pa.list_(pa.float32()), "Their scores."),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("method", "ranking", "query_id"),
        row_group_rows=100,
    )


def source_statistics_table(study: str) -> Table:
    return Table(
        key=("study", study, "source_statistics"),
        grain="one row per shard, method, ranking, query and source",
        columns=(SHARD, METHOD, RANKING, QUERY_ID, SOURCE, DOCUMENTS, BINS, COUNTS, STAMP),
        partition_by=("shard",),
        sort_by=("method", "ranking", "query_id", "source"),
        row_group_rows=1_000,
    )


def score_statistics_rows(
    shard: str,
    ranking: str,
    keys: Sequence[tuple[str, str]],
    ids: Sequence[str],
    scores_QD: np.ndarray,
    depth: int,
    stamp: str,
) -> pa.Table:
    """Rows for the (method, query) `keys`, sorted, each with a row of finite float32 scores in the order of `ids`: what
    documents are ranked by, raw or divided by their norms."""
    table, by_id = score_statistics_table("any"), np.argsort(np.argsort(np.array(ids)))
    names = np.array(ids, object)
    methods = sorted({method for method, _ in keys})
    within = {method: Moments.of(scores_QD[[key[0] == method for key in keys]]) for method in methods}
    across = {
        query: Moments.of(scores_QD[[key[1] == query for key in keys]]).co_moments
        for query in {query for _, query in keys}
    }
    rows, place = [], dict.fromkeys(methods, 0)
    for (method, query_id), scores in zip(keys, scores_QD, strict=True):
        at, bins = place[method], bins_of(scores)
        place[method] += 1
        found, where = np.unique(bins, return_inverse=True)
        top, bottom = (smallest(direction, by_id, depth) for direction in (-scores, scores))
        rows.append(
            {
                "shard": shard,
                "method": method,
                "ranking": ranking,
                "query_id": query_id,
                "documents": len(ids),
                "mean": within[method].mean[at],
                "co_moments": within[method].co_moments[at],
                "method_co_moments": across[query_id][methods.index(method)],
                "bins": found,
                "counts": np.bincount(where, minlength=len(found)),
                "sums": np.bincount(where, weights=scores.astype(np.float64), minlength=len(found)),
                "top_document_ids": names[top],
                "top_scores": scores[top],
                "bottom_document_ids": names[bottom],
                "bottom_scores": scores[bottom],
                "fingerprint": stamp,
            }
        )
    return pa.Table.from_pylist(rows, schema=table.schema)


def source_statistics_rows(
    shard: str, ranking: str, keys: Sequence[tuple[str, str]], sources: Sequence[str], scores_QD: np.ndarray, stamp: str
) -> pa.Table:
    """Rows for the same keys and every source of the shard; `sources` in the order of the scores' documents."""
    table, (names, codes) = source_statistics_table("any"), np.unique(np.array(sources), return_inverse=True)
    rows = []
    for (method, query_id), scores in zip(keys, scores_QD, strict=True):
        # Bins and sources are counted in one pass: a source's bins are a run of the joint numbers.
        joint, counts = np.unique(
            codes.astype(np.int64) << 32 | (bins_of(scores).astype(np.int64) + 2**31), return_counts=True
        )
        of, bins = joint >> 32, ((joint & 0xFFFFFFFF) - 2**31).astype(np.int32)
        for code, source in enumerate(names):
            mine = of == code
            row = {"shard": shard, "method": method, "ranking": ranking, "query_id": query_id, "source": str(source)}
            told = {"documents": counts[mine].sum(), "bins": bins[mine], "counts": counts[mine], "fingerprint": stamp}
            rows.append(row | told)
    return pa.Table.from_pylist(rows, schema=table.schema)
