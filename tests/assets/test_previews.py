"""Previews: what is shown fits into an event, and hostile text stays text."""

from __future__ import annotations

import base64
import itertools
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest
from markdown_it import MarkdownIt

from assets.figures.drawing import Figure
from assets.figures.previews import (
    LARGEST_EVENT,
    LARGEST_TABLE,
    bounded,
    figure_md,
    kept_figure,
    table_of,
    top_documents,
)

HOSTILE = {
    "a | b\n| --- |\n\n# <script>1</script> [x](javascript:1) ![p](http://evil/p) www.evil.com": (
        "a │ b ↵ │ --- │ ↵  ↵ # <script>1</script> [x](javascript:1) ![p](http://evil/p) www.evil.com"
    ),
    "` `` ``` \\` \\": "` `` ``` \\` \\",
    "\\": "\\",
    "\\|": "\\│",
    "`": "`",
    " `a` | `b` ": "`a` │ `b`",
    "zero\x00 escape\x1b[31m turn\u202e around": "zero· escape·[31m turn· around",
    "&lt; &#124; *b* _i_ ~~s~~ <http://evil> $x$": "&lt; &#124; *b* _i_ ~~s~~ <http://evil> $x$",
    "   ": "",
    "": "",
}
"""Text, and what is shown of it."""


def tokens_of(preview: dg.MarkdownMetadataValue) -> list:
    return MarkdownIt("commonmark").enable("table").parse(preview.md_str)


def cells(preview: dg.MarkdownMetadataValue) -> list[list]:
    """The tokens within each cell of the tables, row by row."""
    rows: list[list] = []
    tokens = tokens_of(preview)
    for before, token in itertools.pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(token.children)
    return rows


@pytest.mark.parametrize(("text", "expected"), HOSTILE.items())
def test_hostile_text_is_one_code_span_in_its_cell(text, expected):
    rows = cells(table_of(pl.DataFrame({"before": ["x"], "text": [text], "after": ["y"]}), text_chars=100))
    assert [len(row) for row in rows] == [3, 3] and [row[-1][0].content for row in rows] == ["after", "y"]
    shown = [(token.type, token.content.strip()) for token in rows[1][1] if token.content]
    assert shown == ([("code_inline", expected)] if expected else [])


def test_values_are_short():
    frame = pl.DataFrame(
        {
            "text": ["x" * 500, None],
            "score": [0.123456789, float("nan")],
            "large": [1e12, 123456.0],
            "count": [12345, None],
            "flag": [True, None],
            "ids": [list(range(1000)), [1, 2]],
            "content": [b"abc", None],
        }
    )
    shown = [
        ["".join(token.content for token in cell) for cell in row] for row in cells(table_of(frame, text_chars=100))
    ]
    ids = ", ".join(map(str, range(16)))
    assert shown[1] == ["x" * 100 + "…", "0.1235", "1e+12", "12,345", "yes", f"{ids}, … (1,000)", "3 bytes"]
    assert shown[2] == ["", "nan", "1.235e+05", "", "", "1, 2", ""]


def test_a_table_is_bounded_in_rows_and_in_size():
    frame = pl.DataFrame({"text": ["é" * 900] * 100, "other": [1] * 100})
    assert len(cells(table_of(frame, limit=7, text_chars=10))) == 8
    large = table_of(frame, limit=100, text_chars=900)
    assert 2 <= len(cells(large)) < 100 and len(large.md_str) <= LARGEST_TABLE + 1000
    assert [cell[0].content for cell in cells(table_of(frame, columns=["other"]))[0]] == ["other"]
    assert table_of(frame.clear()).md_str == "no rows"


def rankings() -> pl.DataFrame:
    rows = [
        {
            "method": method,
            "query_id": query,
            "ranking": ranking,
            "end": end,
            "rank": rank,
            "source": "prose",
            "normed_score": 10.0 / rank,
            "score": 1.0,
            "text": f"{method} {ranking} {end} {query} {rank}",
        }
        for method in ("dot", "ekfac")
        for query in ("a", "b", "c")
        for ranking in ("raw", "normed")
        for end in ("top", "bottom")
        for rank in range(5, 0, -1)
    ]
    return pl.DataFrame(rows)


def test_top_documents_are_the_best_of_each_kind_of_query():
    queries = pl.DataFrame(
        {"query_id": ["a", "b", "c"], "prompt": ["A?", "B?", "C?"], "kind": ["factual", "reasoning", "factual"]}
    )
    shown = top_documents(rankings(), queries)
    texts = [row[-1][0].content for row in cells(shown) if row[-1][0].content != "text"]
    assert texts == [f"ekfac normed top {query} {rank}" for query in "acb" for rank in (1, 2, 3)]
    assert "`a` · `factual` · `A?`" in shown.md_str
    assert len(cells(top_documents(rankings()))) == 12
    assert len(cells(top_documents(rankings(), queries.with_columns(kind=pl.lit(None, pl.String))))) == 12
    assert top_documents(rankings().clear(), queries).md_str == "no documents"


def test_top_documents_of_many_queries_are_a_few_and_bounded():
    many = pl.concat([rankings().with_columns(query_id=pl.lit(f"q{i}"), text=pl.lit("`" * 900)) for i in range(40)])
    shown = top_documents(many, text_chars=900)
    assert len(shown.md_str) < LARGEST_EVENT


def test_a_figure_is_in_the_event_itself():
    shown = figure_md(Figure("Title", b"\x89PNG picture", "<svg/>")).md_str
    address = shown.removeprefix("![Title](data:image/png;base64,").removesuffix(")")
    assert base64.b64decode(address) == b"\x89PNG picture"


def test_a_figure_is_kept_in_the_run_and_one_that_fails_is_left_out():
    kept = []
    run = SimpleNamespace(log_figure=lambda *each: kept.append(each))
    shown = kept_figure(run, "loss", lambda: Figure("Training loss", b"1", "<svg/>"))
    assert list(shown) == ["training loss"] and kept == [(b"1", "<svg/>", "loss")]
    assert kept_figure(run, "loss", lambda: 1 / 0) == {} and len(kept) == 1


def test_what_does_not_fit_into_an_event_is_left_out():
    large = figure_md(Figure("Large", bytes(30_000), ""))
    small = table_of(pl.DataFrame({"a": [1]}))
    kept = bounded({"first": large, "rows": small, "second": large, "last": small})
    assert list(kept) == ["first", "rows"] and len(large.md_str) <= LARGEST_EVENT


def test_dagster_keeps_previews_as_they_are():
    """As metadata of a real materialization in a real instance."""
    frame = pl.DataFrame({"text": list(HOSTILE), "score": [float("nan")] * len(HOSTILE)})

    @dg.asset
    def shown() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"rows": table_of(frame), "figure": figure_md(Figure("F", b"1", ""))})

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([shown], instance=instance).success
        event = instance.get_latest_materialization_event(dg.AssetKey("shown"))
    stored = event.asset_materialization.metadata
    assert stored["rows"].md_str == table_of(frame).md_str and stored["figure"].md_str.startswith("![F](data:")
