"""Ranked documents, queries and single documents on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from assets.findings.report.passages import token_levels
from assets.specs.methods import NORMED_AS_THEY_ARE
from orchestration.results.printing import console, printable, shown, spurious

if TYPE_CHECKING:
    import polars as pl

RAISES = ("#fde8d8", "#fbd0b0", "#f6ae7d", "#e88a4f", "#cf6a2b")
LOWERS = ("#dcebf7", "#b9d7ee", "#8fbde0", "#5f9ccb", "#3a7ab0")
"""Behind tokens that speak against a completion, and for it: from the weakest to the strongest level."""
LISTED = 8


def print_queries(study: str, queries: pl.DataFrame) -> None:
    """One line per query."""
    grid = _grid("query", "kind", "task", "right", "nats:right", "prompt", "completion")
    for row in queries.iter_rows(named=True):
        right = {True: "yes", False: "no", None: "–"}[row["is_right"]]
        cells = (row["query_id"], row["kind"], row["task"], right, row["nats"], row["prompt"], row["completion"])
        grid.add_row(*(Text(shown(cell)) for cell in cells))
    console().print(grid)
    console().print(f"\n{len(queries)} queries; headwater top {study} QUERY lists what drives one", style="dim")


def print_ranked(query: Mapping[str, Any], rows: pl.DataFrame) -> None:
    """The query, and below it one line per document."""
    out = console()
    out.print(_asked(query))
    if rows.is_empty():
        out.print("\nno document is listed at this end")
        return
    first = rows.row(0, named=True)
    normed = first["ranking"] == "normed" and first["method"] not in NORMED_AS_THEY_ARE
    by = "score per norm of the gradient" if normed else "score"
    end = "against it" if first["end"] == "bottom" else "for it"
    out.print(f"\ndocuments that speak most {end}, by {first['method']} {by}\n", style="dim")
    grid = _grid("rank:right", "document", "source", "score:right", "exact:right", "per norm:right", "text")
    names = ("rank", "document_id", "source", "score", "exact_score", "normed_score", "text")
    for row in rows.iter_rows(named=True):
        grid.add_row(*(Text(shown(row[name])) for name in names))
    out.print(grid)


def print_document(document: Mapping[str, Any], rows: pl.DataFrame, query: Mapping[str, Any] | None) -> None:
    """A document's text, and the queries that it drives; with a `query`, its tokens in the colours of their shares."""
    out = console()
    about = f"{document['document_id']}  ·  {document['source'] or 'no source'}  ·  {document['tokens']} tokens"
    out.print(Text(printable(about), style="bold"))
    if query:
        _print_shares(rows, query)
        return
    out.print(Text(printable(document["text"])), soft_wrap=True)
    if rows.is_empty():
        out.print("\nit is not among the ranked documents of any query", style="dim")
        return
    grid = _grid("query", "method", "ranking", "end", "rank:right", "score:right", "exact:right")
    for row in rows.head(4 * LISTED).iter_rows(named=True):
        names = ("query_id", "method", "ranking", "end", "rank", "score", "exact_score")
        grid.add_row(*(Text(shown(row[name])) for name in names))
    out.print(Group("", Text("queries that it drives", style="dim"), "", grid))
    if len(rows) > 4 * LISTED:
        out.print(f"and {len(rows) - 4 * LISTED} more; --json has all", style="dim")


def _print_shares(rows: pl.DataFrame, query: Mapping[str, Any]) -> None:
    out, row = console(), rows.row(0, named=True)
    out.print(Group("", _asked(query), ""))
    out.print(_coloured(row["tokens"], row["token_scores"]), soft_wrap=True)
    ranks = ", ".join(f"{each['ranking']} {each['end']} {each['rank']}" for each in rows.iter_rows(named=True))
    out.print(
        f"\nexact {row['method']} score {row['exact_score']:.4g} (in the pass {row['score']:.4g}); ranks: {ranks}"
    )
    if row["likely_spurious"]:
        out.print(f"one token carries nearly all of it: {spurious(len(row['tokens']))}")
    out.print("")
    out.print(_shares("token", row["tokens"], row["token_scores"]))
    out.print("")
    out.print(_shares("module", row["modules"], row["module_scores"]))


def _asked(query: Mapping[str, Any]) -> Text:
    right = {True: " (right)", False: " (wrong)", None: ""}[query["is_right"]]
    return Text.assemble((printable(query["prompt"]), "dim"), (printable(query["completion"]), "bold"), (right, "dim"))


def _coloured(tokens: Sequence[str], scores: Sequence[float]) -> Text:
    text = Text()
    for token, level in zip(tokens, token_levels(scores), strict=True):
        colours = LOWERS if level > 0 else RAISES
        text.append(printable(token), f"black on {colours[abs(level) - 1]}" if level else None)
    return text


def _shares(what: str, names: Sequence[str], scores: Sequence[float]) -> Grid:
    """The largest shares of either sign."""
    total = sum(abs(score) for score in scores) or 1.0
    largest = sorted(zip(names, scores, strict=True), key=lambda pair: -abs(pair[1]))[:LISTED]
    grid = _grid(what, "share of score:right", "of all:right")
    for name, score in largest:
        grid.add_row(Text(shown(name) or "␠"), f"{score:+.4g}", f"{100 * abs(score) / total:.0f} %")
    return grid


def _grid(*headings: str) -> Grid:
    """Columns without lines; `:right` behind a heading sets it to the right."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        name, _, side = heading.partition(":")
        grid.add_column(name, justify="right" if side else "left", overflow="fold")
    return grid
