"""How well the tracing finds what is known to have taught the model, next to chance. Pure functions on Polars frames.

`rankings` needs the columns method, query_id, document_id and rank (1 is the most influential document), one row per
method, query and listed document. `documents` needs document_id, one row per document of the corpus. `queries` needs
query_id, kind, task and fact. A document belongs to the record whose id stands before its last "#".

Chance is what a uniformly random order of all documents would give, exactly. With N documents of which m fit a query,
at least one of the top k fits with probability 1 − C(N−m, k) / C(N, k), and the expected share of the top k is m / N.
"""

from __future__ import annotations

from math import comb

import polars as pl

FACT_TOPS = (1, 5, 50)
PROCEDURE_TOPS = (10, 50)
CHANCE = "chance"


def record_id(column: str = "document_id") -> pl.Expr:
    """The record that a document is a window of."""
    return pl.col(column).str.replace(r"#[^#]*$", "")


def stating_documents(queries: pl.DataFrame, documents: pl.DataFrame, truth: dict) -> pl.DataFrame:
    """One row per factual query and document that states its fact."""
    stated = pl.DataFrame(
        [(fact, record) for fact, records in truth["facts"].items() for record in records],
        schema={"fact": pl.String, "record_id": pl.String},
        orient="row",
    )
    asked = queries.filter(pl.col("kind") == "factual").select("query_id", "fact").join(stated, on="fact")
    windows = documents.select("document_id", record_id=record_id())
    return asked.join(windows, on="record_id").select("query_id", "document_id").unique(maintain_order=True)


def same_procedure_documents(queries: pl.DataFrame, documents: pl.DataFrame, truth: dict) -> pl.DataFrame:
    """One row per reasoning query and document that works through the query's own procedure."""
    procedures = pl.DataFrame(
        list(truth["procedures"].items()), schema={"record_id": pl.String, "procedure": pl.String}, orient="row"
    )
    windows = documents.select("document_id", record_id=record_id()).join(procedures, on="record_id")
    asked = queries.filter(pl.col("kind") == "reasoning").select("query_id", procedure="task")
    return asked.join(windows, on="procedure").select("query_id", "document_id")


def fact_recall(
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    documents: pl.DataFrame,
    truth: dict,
    *,
    tops: tuple[int, ...] = FACT_TOPS,
) -> pl.DataFrame:
    """Per method and by chance: the share of factual queries with a document that states the fact among the top."""
    fitting = stating_documents(queries, documents, truth)
    found = _found(rankings, queries, fitting, kind="factual", tops=tops)
    share = {f"top {top}": (pl.col(f"found {top}") > 0).mean() for top in tops}
    table = found.group_by("method", maintain_order=True).agg(queries=pl.len(), **share)
    sizes = _fitting_per_query(queries, fitting, kind="factual")
    chance = {f"top {top}": _mean([_at_least_one(len(documents), size, top) for size in sizes]) for top in tops}
    return _with_chance(table, chance, len(sizes))


def same_procedure_share(
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    documents: pl.DataFrame,
    truth: dict,
    *,
    tops: tuple[int, ...] = PROCEDURE_TOPS,
) -> pl.DataFrame:
    """Per method and by chance: the mean share of a reasoning query's top documents that work the same procedure."""
    fitting = same_procedure_documents(queries, documents, truth)
    found = _found(rankings, queries, fitting, kind="reasoning", tops=tops)
    share = {f"top {top}": (pl.col(f"found {top}") / min(top, len(documents))).mean() for top in tops}
    table = found.group_by("method", maintain_order=True).agg(queries=pl.len(), **share)
    sizes = _fitting_per_query(queries, fitting, kind="reasoning")
    chance = {f"top {top}": _mean([size / len(documents) for size in sizes]) for top in tops}
    return _with_chance(table, chance, len(sizes))


def _found(
    rankings: pl.DataFrame, queries: pl.DataFrame, fitting: pl.DataFrame, *, kind: str, tops: tuple[int, ...]
) -> pl.DataFrame:
    """One row per method and query of the kind: how many fitting documents are among each top."""
    asked = queries.filter(pl.col("kind") == kind).select("query_id")
    methods = rankings.select("method").unique().sort("method", descending=True)
    listed = rankings.join(fitting, on=["query_id", "document_id"], how="semi")
    counts = listed.group_by("method", "query_id").agg(
        **{f"found {top}": (pl.col("rank") <= top).sum() for top in tops}
    )
    return methods.join(asked, how="cross").join(counts, on=["method", "query_id"], how="left").fill_null(0)


def _fitting_per_query(queries: pl.DataFrame, fitting: pl.DataFrame, *, kind: str) -> list[int]:
    asked = queries.filter(pl.col("kind") == kind).select("query_id")
    counts = fitting.group_by("query_id").len()
    return asked.join(counts, on="query_id", how="left")["len"].fill_null(0).to_list()


def _at_least_one(documents: int, fitting: int, top: int) -> float:
    return 1 - comb(documents - fitting, top) / comb(documents, top) if top < documents else float(fitting > 0)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _with_chance(table: pl.DataFrame, chance: dict[str, float], queries: int) -> pl.DataFrame:
    row = pl.DataFrame({"method": [CHANCE], "queries": [queries], **{name: [value] for name, value in chance.items()}})
    return pl.concat([table, row.cast(dict(table.schema))])
