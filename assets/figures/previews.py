"""What a person sees of an asset in the Dagster UI without opening the lake: a few of its rows, a figure.

Both are Markdown, which the UI shows in place up to a thousand characters and behind "[Show Markdown]" beyond. Text of
documents stands in code spans: whatever it holds (pipes, HTML, links, pictures) is shown and never obeyed.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from assets.specs.methods import in_importance

if TYPE_CHECKING:
    from assets.figures.drawing import Figure
    from assets.tracking.tracked_run import StepRun

LARGEST_TABLE = 12_000
LARGEST_EVENT = 60_000
"""Characters of a table, and of all that one event shows; each event is a row of Dagster's database."""
DIGITS = 4
BEST_SHOWN = 3
QUERIES_SHOWN = 6
BEST_COLUMNS = {"rank": "rank", "score ÷ norm": "normed_score", "score": "score", "source": "source", "text": "text"}


def table_of(
    frame: pl.DataFrame, limit: int = 3, columns: Sequence[str] | None = None, text_chars: int = 60
) -> dg.MarkdownMetadataValue:
    """The first `limit` rows (of some columns), fewer where they would not fit; long values are cut."""
    return dg.MetadataValue.md(_table(frame.select(columns or frame.columns).head(limit), text_chars))


def top_documents(
    rankings: pl.DataFrame, queries: pl.DataFrame | None = None, text_chars: int = 160
) -> dg.MarkdownMetadataValue:
    """The best documents of a few queries, by score ÷ gradient norm, of every kind of query where `queries` tell it.

    `rankings` and `queries` have the columns of the tables study/<study>/rankings and completions.
    """
    main = in_importance(rankings["method"].unique())[:1]
    best = rankings.filter(pl.col("method").is_in(main), ranking="normed", end="top")
    best = best.filter(pl.col("rank") <= BEST_SHOWN)
    parts, size = [], 0
    for query in _spread_over_kinds(best, queries).iter_rows(named=True):
        rows = best.filter(query_id=query["query_id"]).sort("rank")
        shown = rows.select(**{title: pl.col(name) for title, name in BEST_COLUMNS.items()})
        facts = [_cell(query[name], text_chars) for name in ("query_id", "kind", "prompt") if query.get(name)]
        parts.append(f"#### {' · '.join(facts)}\n\n{_table(shown, text_chars)}")
        size += len(parts[-1])
        if size > LARGEST_TABLE:
            break
    return dg.MetadataValue.md("\n\n".join(parts) or "no documents")


def figure_md(figure: Figure) -> dg.MarkdownMetadataValue:
    """The picture itself, so that it is there when the event is, whatever became of MLflow."""
    picture = base64.b64encode(figure.png).decode()
    return dg.MetadataValue.md(f"![{figure.title}](data:image/png;base64,{picture})")


def kept_figure(run: StepRun, name: str, draw: Callable[[], Figure]) -> dict[str, dg.MarkdownMetadataValue]:
    """A figure as metadata, and among the artifacts of the step's MLflow run. One that cannot be drawn is left out with
    a warning: hours of work are not lost for a picture."""
    try:
        figure = draw()
    except Exception as error:
        dg.get_dagster_logger("headwater").warning(f"The figure {name} could not be drawn ({error!r}); it is left out.")
        return {}
    run.log_figure(figure.png, figure.svg, name)
    return {figure.title.lower(): figure_md(figure)}


def bounded(previews: Mapping[str, dg.MarkdownMetadataValue]) -> dict[str, dg.MarkdownMetadataValue]:
    """The previews that fit into one event; the first ones count most."""
    kept, size = {}, 0
    for name, preview in previews.items():
        size += len(preview.md_str or "")
        if size > LARGEST_EVENT:
            break
        kept[name] = preview
    return kept


def _spread_over_kinds(best: pl.DataFrame, queries: pl.DataFrame | None) -> pl.DataFrame:
    """A few queries, by kind: the first of each kind, then the second of each, … while there is place."""
    ids = best.select("query_id").unique().sort("query_id")
    if queries is None:
        return ids.head(QUERIES_SHOWN)
    known = queries.select("query_id", "kind", "prompt").join(ids, on="query_id", how="semi")
    in_turn = known.sort("kind", "query_id", nulls_last=True).with_columns(turn=pl.int_range(pl.len()).over("kind"))
    chosen = in_turn.sort("turn", "kind", nulls_last=True).head(QUERIES_SHOWN)
    return chosen.sort("kind", "turn", nulls_last=True)


def _table(frame: pl.DataFrame, text_chars: int) -> str:
    if frame.is_empty():
        return "no rows"
    lines = [_line(frame.columns), _line(["---"] * len(frame.columns))]
    size = 0
    for row in frame.iter_rows():
        line = _line([_cell(value, text_chars) for value in row])
        size += len(line)
        if size > LARGEST_TABLE and len(lines) > 2:
            break
        lines.append(line)
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any, text_chars: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{DIGITS}g}" if not math.isfinite(value) or abs(value) < 1e6 else f"{value:.{DIGITS - 1}g}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return _code(_list(value, text_chars) if isinstance(value, list) else str(value), text_chars)


def _list(values: list, text_chars: int) -> str:
    """The first values, and how many there are."""
    shown, length = [], 0
    for value in values:
        shown.append(f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value))
        length += len(shown[-1]) + 2
        if length > text_chars // 2:
            break
    more = len(values) - len(shown)
    return ", ".join(shown)[: text_chars - 20] + (f", … ({len(values):,})" if more else "")


def _code(text: str, length: int) -> str:
    """A code span of one line. A pipe would end the cell even there, and invisible characters could turn the line
    around: both are replaced."""
    line = " ↵ ".join(text[:length].splitlines()).replace("|", "│")
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "·" for c in line)
    shown += "…" if len(text) > length else ""
    if not shown.strip():
        return ""
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"
