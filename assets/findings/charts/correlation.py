"""The figure of analysis 1: which queries draw on the same documents, as a matrix of all queries ordered by task."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import INK, QUIET, Figure, clipped, drawn, in_words, spread
from assets.findings.charts.correlation_means import means_panel
from assets.findings.charts.looks import is_control, looks_of, method_name, ordered_groups, ordered_methods
from assets.findings.charts.matrices import LIMITS, color_bar, picture
from assets.findings.charts.panels import Stroke, Word, grid, layered
from assets.findings.charts.reading import finite

if TYPE_CHECKING:
    import altair as alt
    import numpy as np

TITLE = "Queries that draw on the same documents"
SIDE, LABEL_GAP, FRAME = 420, 12, "#c3c9d0"
MOST_TASKS = 12
"""A group of more tasks is one block, as are controls."""


def correlation_figure(rows: pl.DataFrame, evidence: pl.DataFrame) -> Figure:
    """Rows of the table `correlation`: the matrix of the main method, blocks of tasks told at its side, and beside it
    the means of evidence, and how far the methods agree on the same query."""
    # Of one method, a query beside itself is one that another study has too.
    is_pair = (pl.col("method") == pl.col("other_method")) & (pl.col("query_id") != pl.col("other_query_id"))
    within = rows.filter(is_pair) if rows.width else rows
    if rows.is_empty() or within.is_empty():
        return in_words(TITLE, "A correlation takes two queries; the study has fewer.")
    method = ordered_methods(within)[0]
    within = within.filter(method=method)
    queries = _queries(within)
    r = _matrix(within, queries["query_id"].to_list())
    limit = _limit(within)
    panels = [_matrix_panel(r, queries, limit)]
    if (beside := means_panel(evidence, method, looks_of(queries["group"]))) is not None:
        panels.append(beside)
    documents = f"{within['documents'].max():,} documents"
    pairs = f"{len(within):,} {'pair' if len(within) == 1 else 'pairs'} of {len(queries)} queries"
    subtitle = f"Pearson's r of {method_name(method)} scores over {documents}; {pairs}, ordered by kind and task"
    return drawn(TITLE, grid([panels], across=24), subtitle=subtitle)


def _queries(within: pl.DataFrame) -> pl.DataFrame:
    """query_id, group, task and block (what its block is called), in the order of the figure."""
    columns = ("query_id", "group", "task")
    queries = pl.concat(
        [
            within.select(columns),
            within.select(f"other_{name}" for name in columns).rename({f"other_{name}": name for name in columns}),
        ]
    ).unique()
    order = {group: place for place, group in enumerate(ordered_groups(queries["group"]))}
    controls = pl.col("group").is_in([group for group in order if is_control(group)])
    whole = controls | (pl.col("task").n_unique().over("group") > MOST_TASKS)
    block = pl.when(whole).then("group").otherwise(pl.col("task").fill_null("no task"))
    turn = pl.col("group").replace_strict(order, return_dtype=pl.Int64)
    return queries.with_columns(block=block).sort(turn, "block", "task", "query_id", nulls_last=True)


def _matrix(within: pl.DataFrame, ids: list[str]) -> np.ndarray:
    """All r, Q×Q, with ones in the diagonal; NaN: not known."""
    import numpy as np

    place = {query_id: at for at, query_id in enumerate(ids)}
    r = np.full((len(ids), len(ids)), np.nan)
    np.fill_diagonal(r, 1.0)
    at = [
        within[name].replace_strict(place, return_dtype=pl.Int64).to_numpy() for name in ("query_id", "other_query_id")
    ]
    r[at[0], at[1]] = r[at[1], at[0]] = within["r"].to_numpy()
    return r


def _limit(within: pl.DataFrame) -> float:
    """Where colors end: the smallest of a few round numbers that no pair is beyond."""
    largest = finite(within, "r")["r"].abs().max() or 0.0
    return next((limit for limit in LIMITS if largest <= limit), LIMITS[-1])


def _matrix_panel(r: np.ndarray, queries: pl.DataFrame, limit: float) -> alt.LayerChart:
    cell = SIDE / len(queries)
    parts = [picture(r, SIDE, limit), *_rules(queries, cell), *_labels(queries, cell), *color_bar(SIDE, limit)]
    return layered(parts, SIDE, SIDE)


def _blocks(queries: pl.DataFrame) -> Iterator[tuple[str, str, int, int]]:
    """Group, name, first and last place (exclusive) of each block."""
    runs = queries.select("group", "block").with_row_index("at").group_by("group", "block", maintain_order=True)
    for group, name, first, count in runs.agg(first=pl.col("at").first(), count=pl.len()).iter_rows():
        yield group, name, first, first + count


def _rules(queries: pl.DataFrame, cell: float) -> list[Stroke]:
    """Thin rules between tasks, stronger ones between groups, and a frame."""
    rules = [(0.0, FRAME, 0.7), (float(SIDE), FRAME, 0.7)]
    for (group, _, _, end), (other, *_) in pairwise(_blocks(queries)):
        rules.append((end * cell, *((INK, 1.0) if group != other else ("#9aa3ad", 0.5))))
    across = [Stroke(0, at, SIDE, at, color, width) for at, color, width in rules]
    return across + [Stroke(at, 0, at, SIDE, color, width) for at, color, width in rules]


def _labels(queries: pl.DataFrame, cell: float) -> list[Word | Stroke]:
    """The blocks' names at the left, in their groups' colors, moved apart where blocks are small."""
    blocks, looks = list(_blocks(queries)), looks_of(queries["group"])
    middles = [(first + end) / 2 * cell for _, _, first, end in blocks]
    parts: list[Word | Stroke] = []
    for (group, name, _, _), middle, at in zip(blocks, middles, spread(middles, LABEL_GAP, 0, SIDE), strict=True):
        color = QUIET if is_control(group) else looks[group].color
        parts += [Stroke(-2, middle, -10, at, FRAME), Word(clipped(name, 26), -13, at, color, align="right")]
    at = 0.0
    for group, look in looks.items():
        if not is_control(group):
            text = f"■ {clipped(group, 24)}, {len(queries.filter(group=group))}"
            parts.append(Word(text, at, -9, look.color, 11))
            at += 6.4 * len(text) + 18
    return parts
