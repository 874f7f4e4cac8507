"""The demo's result as a person reads it: what the model answered, what taught it, and the truth next to it."""

from __future__ import annotations

import json

import polars as pl
from rich.console import Console
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from assets.corpus.documents import documents_table
from assets.findings.bm25 import BM25
from assets.findings.score_statistics import score_statistics_table
from assets.lake.lake import Lake
from assets.queries.queries import queries_table
from assets.specs.study import Study
from assets.study.completions import completions_table
from assets.study.rankings import rankings_table
from examples.demo.findings import (
    fact_recall,
    same_procedure_documents,
    same_procedure_share,
    stating_documents,
)
from examples.demo.generate import Demo

METHOD_NAMES = {
    "ekfac": "EK-FAC influence",
    "dot": "gradient dot product",
    "kfac": "K-FAC influence",
    "cosine": "gradient cosine",
    "trackstar": "TrackStar-style cosine",
    "astra": "ASTRA-style influence",
    BM25: "BM25",
    "chance": "chance",
}
RANKED = ("method", "query_id", "document_id", "rank")
SHOWN = 5
EXCERPT = 96


def print_report(study: Study, lake: Lake, demo: Demo, console: Console) -> None:
    """Answers, one factual and one reasoning query with their documents, and both findings next to chance."""
    completions = lake.scan(completions_table(study.name)).sort("position").collect()
    queries = completions.join(_facts(study, lake), on="query_id", how="left")
    documents = lake.scan(documents_table(study.spec.corpus.name)).select("document_id").collect()
    listed = lake.scan(rankings_table(study.name)).filter(ranking="normed", end="top").collect()
    _print_answers(queries, console)
    for kind, fitting in (
        ("factual", stating_documents(queries, documents, demo.truth)),
        ("reasoning", same_procedure_documents(queries, documents, demo.truth)),
    ):
        _print_query(kind, queries, listed, fitting, console)
    ranked = pl.concat([listed.select(RANKED), _ranked_by_words(study, lake)])
    _print_findings(queries, documents, ranked, demo.truth, console)


def _ranked_by_words(study: Study, lake: Lake) -> pl.DataFrame:
    """The top documents by BM25, which has no rankings of its own: out of what its shards hold of them."""
    shards = lake.scan(score_statistics_table(study.name)).filter(method=BM25, ranking="raw")
    tops = shards.select("method", "query_id", document_id="top_document_ids", score="top_scores").collect()
    listed = tops.explode("document_id", "score", empty_as_null=False)
    ordered = listed.sort("method", "query_id", "score", "document_id", descending=[False, False, True, False])
    rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id")
    return ordered.with_columns(rank=rank).filter(pl.col("rank") <= study.spec.options.top_k).select(RANKED)


def _facts(study: Study, lake: Lake) -> pl.DataFrame:
    extra = lake.scan(queries_table(study.spec.queries.name)).select("query_id", "extra").collect()
    facts = [json.loads(value).get("fact") for value in extra["extra"]]
    return extra.select("query_id").with_columns(fact=pl.Series(facts, dtype=pl.String))


def _print_answers(queries: pl.DataFrame, console: Console) -> None:
    grid = Grid(title="\nWhat the model answered (its own greedy completions)", title_justify="left", box=None)
    for heading, justify in (
        ("kind", "left"),
        ("task", "left"),
        ("queries", "right"),
        ("right", "right"),
        ("", "right"),
    ):
        grid.add_column(heading, justify=justify, min_width=8)
    # The paper asks for 80 % of each reasoning task; facts and controls are one group each.
    order = pl.col("kind").replace_strict({"factual": 0, "reasoning": 1}, default=2)
    task = pl.when(pl.col("kind") == "reasoning").then("task").otherwise(pl.lit("all"))
    counts = queries.group_by("kind", task=task).agg(pl.len(), pl.col("is_right").sum()).sort(order, "task")
    for row in counts.iter_rows(named=True):
        share = f"{row['is_right'] / row['len']:.0%}"
        grid.add_row(row["kind"], row["task"], str(row["len"]), str(row["is_right"]), share)
    console.print(grid)


def _print_query(
    kind: str, queries: pl.DataFrame, listed: pl.DataFrame, fitting: pl.DataFrame, console: Console
) -> None:
    """The first query of a kind that was answered rightly, with its top documents; ● marks those that fit the truth."""
    query = queries.filter(kind=kind).sort(pl.col("is_right"), descending=True, maintain_order=True).row(0, named=True)
    fits = set(fitting.filter(query_id=query["query_id"])["document_id"])
    body = Text.assemble((query["prompt"].strip(), "bold"), " ", (query["completion"].strip(), "green"))
    verdict = "right" if query["is_right"] else "wrong"
    title = f"{kind} query {query['query_id']} ({verdict}, {query['nats']:.1f} nats)"
    console.print()
    console.print(Panel(body, title=title, title_align="left", width=min(console.width, 116)))
    meaning = "states the fact" if kind == "factual" else "works the same procedure"
    grid = Grid(box=None, padding=(0, 1, 0, 0), title=f"top documents by influence ÷ gradient norm (● {meaning})")
    grid.title_justify = "left"
    for heading, justify in (("", "left"), ("rank", "right"), ("score", "right"), ("exact", "right")):
        grid.add_column(heading, justify=justify)
    grid.add_column("source")
    grid.add_column("text")
    best = listed.filter(method="ekfac", query_id=query["query_id"]).sort("rank").head(SHOWN)
    for row in best.iter_rows(named=True):
        excerpt = " ".join(row["text"].split())
        excerpt = excerpt if len(excerpt) <= EXCERPT else excerpt[: EXCERPT - 1] + "…"
        mark = Text("●", "green") if row["document_id"] in fits else Text("○", "dim")
        score, exact = f"{row['score']:.3g}", f"{row['exact_score']:.3g}"
        grid.add_row(mark, str(row["rank"]), score, exact, row["source"], Text(excerpt))
    console.print(grid)


def _print_findings(queries, documents, ranked, truth: dict, console: Console) -> None:
    right = queries.filter(pl.col("is_right") | (pl.col("kind") != "factual"))
    facts = "a document that states the fact is among the top …"
    for title, finding, asked in (
        (f"All factual queries: how often {facts}", fact_recall, queries),
        (f"Factual queries answered rightly: how often {facts}", fact_recall, right),
        ("Reasoning queries: share of the top documents that work the same procedure", same_procedure_share, queries),
    ):
        _print_finding(title, finding(ranked, asked, documents, truth), console)


def _print_finding(title: str, rows: pl.DataFrame, console: Console) -> None:
    tops = [name for name in rows.columns if name.startswith("top")]
    grid = Grid(box=None)
    grid.add_column("method", min_width=22)
    for name in tops:
        grid.add_column(name, justify="right", min_width=8)
    for row in rows.iter_rows(named=True):
        style = "bold" if row["method"] == "ekfac" else ""
        grid.add_row(METHOD_NAMES[row["method"]], *(f"{row[name]:.0%}" for name in tops), style=style)
    console.print(f"\n{title} ({rows['queries'][0]} queries)", highlight=False)
    console.print(grid)
