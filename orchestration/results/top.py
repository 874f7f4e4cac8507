"""The documents with a query's highest or lowest scores, as deep as one likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.specs.methods import METHODS, main_method
from assets.specs.mistakes import near_matches
from assets.study.clustered_reading import standing_in
from compute.errors import BadInput
from orchestration.results import ranked
from orchestration.results.reading import table_of

if TYPE_CHECKING:
    import polars as pl

    from orchestration.results.results import Results

ENDS = ("top", "bottom")


def end_of_query(results: Results, study: str, query_id: str, method: str | None, count: int, end: str) -> pl.DataFrame:
    """rank, document_id, shard and score; see `Results.top`."""
    import polars as pl

    if end not in ENDS:
        raise BadInput(f"there is no end {end}; {near_matches(end, ENDS, 'ends')}")
    if count < 1:
        raise BadInput(f"count is {count}: ask for one document at least")
    rows = _rows(results, study, query_id, method or main_method(METHODS), count, end)
    if rows.is_empty():
        chosen = ranked.chosen_method(study, _methods(results, study, query_id), method)
        rows = _rows(results, study, query_id, chosen, count, end)
    return rows.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("rank"), "document_id", "shard", "score")


def _rows(results: Results, study: str, query_id: str, method: str, count: int, end: str) -> pl.DataFrame:
    bottom = end == "bottom"
    if ranked.has_table(results, study, "influence") and (runs := standing_in(results.lake, study)):
        return runs.end_of_query(method, query_id, count, bottom=bottom)
    scores = table_of(results, study, "influence")
    frame = results.lake.scan(scores).filter(method=method, query_id=query_id).select("document_id", "shard", "score")
    best = frame.sort("score", "document_id", descending=[not bottom, False]).head(count)
    return results.lake.collect(scores, best)


def _methods(results: Results, study: str, query_id: str) -> list[str]:
    """Those by which the query's documents are scored. Raises BadInput where there is no such query."""
    import polars as pl

    ranked.query_known(results, study, query_id)
    frame = results.table("influence").filter(study=study, query_id=query_id)
    with results.lake.reading([table_of(results, study, "influence")]):
        return frame.select(pl.col("method").unique().sort()).collect()["method"].to_list()
