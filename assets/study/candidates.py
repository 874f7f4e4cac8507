"""study/<study>/candidates: a shard's best and worst documents per query, which is all that rankings read of it.

The top k of a corpus are among the top k of its shards, so one more shard never costs a pass over the others.
"""

from __future__ import annotations

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from assets.figures.previews import table_of
from assets.lake.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.tables import Column, Table
from assets.specs.methods import NORMED_AS_THEY_ARE, in_importance, main_method

PICTURED = 200_000
RANKING = Column(
    "ranking",
    pa.string(),
    "raw: by score; normed: by score divided by the document's gradient norm. The same for methods of unit norm.",
)
END = Column("end", pa.string(), "top: the most positive first; bottom: the most negative first.")
SCORE = Column("score", pa.float32(), "Low-rank score of the pass; positive: more of the document lowers the loss.")
NORM = Column("norm", pa.float32(), "Norm of the document's gradient over the tracked modules.")


def candidates_table(study: str) -> Table:
    return Table(
        key=("study", study, "candidates"),
        grain="one row per method, query, ranking and end of a shard's best documents",
        columns=(
            SHARD,
            METHOD,
            QUERY_ID,
            RANKING,
            END,
            Column("rank", pa.int32(), "Rank within the shard, from 1."),
            DOCUMENT_ID,
            SCORE,
            NORM,
            STAMP,
        ),
        partition_by=("shard",),
    )


def candidate_rows(
    shard: str,
    keys: list[tuple[str, str]],
    ids: list[str],
    scores_qd: np.ndarray,
    norms_d: np.ndarray,
    top_k: int,
    stamp: str,
) -> pa.Table:
    """The `top_k` documents at each end of both rankings, per method and query; ties go by document id.

    Scores that a document's norm has divided already are not divided again: both rankings of them are the same.
    """
    table = candidates_table("any")
    parts: list[dict] = []
    by_id = np.argsort(np.argsort(np.array(ids)))  # place of each document in the order of ids
    with np.errstate(divide="ignore", invalid="ignore"):
        normed_qd = np.where(norms_d > 0, scores_qd / norms_d, 0.0)
    for (method, query_id), raw, divided in zip(keys, scores_qd, normed_qd, strict=True):
        for ranking, values in (("raw", raw), ("normed", raw if method in NORMED_AS_THEY_ARE else divided)):
            for end, direction in (("top", -values), ("bottom", values)):
                for rank, index in enumerate(smallest(direction, by_id, top_k), 1):
                    parts.append(
                        {
                            "shard": shard,
                            "method": method,
                            "query_id": query_id,
                            "ranking": ranking,
                            "end": end,
                            "rank": rank,
                            "document_id": ids[index],
                            "score": float(raw[index]),
                            "norm": float(norms_d[index]),
                            "fingerprint": stamp,
                        }
                    )
    return pa.Table.from_pylist(parts, schema=table.schema)


def best_of(candidates: pa.Table) -> dg.MarkdownMetadataValue:
    """The first document of some queries, to be shown in the Dagster UI."""
    first = pl.from_arrow(candidates).filter(ranking="normed", end="top", rank=1)
    main = in_importance(first["method"].unique())[:1]
    return table_of(
        first.filter(pl.col("method").is_in(main)), columns=["query_id", "document_id", "score", "norm"], limit=6
    )


def score_sample(keys: list[tuple[str, str]], scores_qd: np.ndarray, kinds: dict[str, str | None]) -> pl.DataFrame:
    """Scores of the main method with the kind of their query: at most `PICTURED` of a shard."""
    main = main_method(method for method, _ in keys)
    rows = [index for index, (method, _) in enumerate(keys) if method == main]
    every = max(1, len(rows) * scores_qd.shape[1] // PICTURED)
    picked = scores_qd[rows][:, ::every]
    names = [kinds.get(keys[index][1]) or "no kind" for index in rows]
    return pl.DataFrame({"kind": np.repeat(names, picked.shape[1]), "score": picked.ravel()})


def smallest(values: np.ndarray, by_id: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` smallest values in order, ties by id, without sorting the whole shard."""
    if len(values) > count:
        # All that are as small as the count-th one, so that ties at the edge go by id too.
        edge = np.partition(values, count - 1)[count - 1]
        chosen = np.flatnonzero(values <= edge)
    else:
        chosen = np.arange(len(values))
    return chosen[np.lexsort((by_id[chosen], values[chosen]))][:count]
