"""Small figures of what a step found, for Dagster's metadata and MLflow's artifacts: rows in, a picture out.

Rows are counted or thinned before they are drawn, so that a figure's cost does not grow with the corpus. The
curvature's figure is in `spectrum.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import polars as pl

from assets.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    QUIET,
    RED,
    WIDTH,
    Figure,
    clipped,
    drawn,
    key,
    names_axis,
)

if TYPE_CHECKING:
    import altair as alt

POINTS_SHOWN = 1_000
BINS = 40
KINDS_SHOWN = 5
ROWS_SHOWN = 12
ROW_HEIGHT = 22
ANSWERS = {"right": GREEN, "wrong": RED, "not known": GREY}
NATS_TICKS = (0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


def training_loss(rows: pl.DataFrame) -> Figure:
    """Columns `step` and `loss`: the loss over optimizer steps."""
    import altair as alt

    rows = _thinned(rows.select("step", "loss").drop_nulls().sort("step"))
    x = alt.X("step:Q", title="optimizer step")
    y = alt.Y("loss:Q", title="loss (nats per token)")
    line = alt.Chart(rows).mark_line(color=BLUE).encode(x=x, y=y)
    last = alt.Chart(rows.tail(1)).mark_text(align="left", dx=6, color=BLUE, fontWeight="bold")
    return drawn("Training loss", line + last.encode(x=x, y=y, text=alt.Text("loss:Q", format=".3~f")))


def document_lengths(rows: pl.DataFrame) -> Figure:
    """Column `tokens`: how long documents are."""
    import altair as alt

    lengths = rows["tokens"].drop_nulls()
    longest = int(lengths.max() or 1)
    width = math.ceil(longest / BINS)
    starts = lengths.to_frame("tokens").select(start=(pl.col("tokens") - 1) // width * width + 0.5)
    counted = starts.group_by("start").agg(documents=pl.len()).with_columns(stop=pl.col("start") + width)
    x = alt.X("start:Q", title="tokens per document", scale=alt.Scale(domain=[0, longest + 1], nice=False))
    bars = alt.Chart(counted).mark_rect(color=BLUE, opacity=0.85, stroke="white", strokeWidth=0.7)
    chart = bars.encode(x=x, x2="stop:Q", y=alt.Y("documents:Q", title="documents"), y2=alt.datum(0))
    subtitle = f"{len(lengths):,} documents, median {lengths.median() or 0:.0f}, longest {longest:,} tokens"
    return drawn("Length of documents", chart, subtitle=subtitle)


def influence_distribution(rows: pl.DataFrame) -> Figure:
    """Columns `kind` (of the query) and `score`: how scores spread, their tails included."""
    import altair as alt

    rows = rows.select(pl.col("kind").fill_null("no kind"), "score").filter(pl.col("score").is_finite())
    unit = float(rows["score"].abs().median() or 0) or 1.0  # the axis is straight up to here, and logarithmic beyond
    kinds = _most_frequent(rows["kind"], KINDS_SHOWN)
    counted = _score_bins(rows.filter(pl.col("kind").is_in(kinds)), unit)
    x = alt.X(
        "score:Q",
        title="influence score (positive: more of the document lowers the loss)",
        scale=alt.Scale(type="symlog", constant=unit, nice=False),
        axis=_score_axis(float(counted["score"].abs().max() or unit), unit),
    )
    shares = alt.Scale(type="log", nice=False)
    y = alt.Y("share:Q", title="share of scores", scale=shares, axis=alt.Axis(format="~%", tickCount=4))
    colors = dict(zip(kinds, PALETTE, strict=False))
    color = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=list(colors.values())))
    lines = alt.Chart(counted).mark_line(interpolate="monotone").encode(x=x, y=y, color=color)
    subtitle = f"{len(rows):,} pairs of query and document"
    return drawn("Influence scores by kind of query", lines + key(colors), subtitle=subtitle)


def completion_nats(rows: pl.DataFrame) -> Figure:
    """Columns `task`, `kind`, `nats`, `is_right`: the information of completions, right and wrong ones apart."""
    import altair as alt

    rows = rows.select(
        "nats",
        name=pl.coalesce("task", "kind", pl.lit("all")),
        answer=pl.col("is_right").cast(pl.Boolean).replace_strict({True: "right", False: "wrong"}, default="not known"),
        height=(pl.int_range(pl.len()) * 0.618) % 1,  # points of one row do not hide each other
    )
    names = _most_frequent(rows["name"], ROWS_SHOWN)
    rows = rows.filter(pl.col("name").is_in(names))
    colors = {answer: color for answer, color in ANSWERS.items() if answer in rows["answer"]}
    color = alt.Color("answer:N", legend=None, scale=alt.Scale(domain=list(colors), range=list(colors.values())))
    ticks = [tick for tick in NATS_TICKS if tick <= (rows["nats"].max() or 0)]
    axis = alt.Axis(values=ticks, labelExpr="datum.value")
    scale = alt.Scale(type="symlog", constant=0.1, nice=False)
    x = alt.X("nats:Q", title="nats of the completion (−log p)", scale=scale, axis=axis)
    y = alt.Y("name:N", title=None, sort=names, axis=names_axis())
    apart = alt.YOffset("height:Q", scale=alt.Scale(domain=[-0.4, 1.4]))
    points = alt.Chart(_thinned(rows)).mark_circle(size=26, opacity=0.65)
    counts = alt.Chart(_right_ones(rows)).mark_text(align="left", color=QUIET, fontSize=10)
    chart = points.encode(x=x, y=y, yOffset=apart, color=color) + counts.encode(
        x=alt.value(WIDTH + 12), y=y, text="right:N"
    )
    return drawn(
        "Completions by task",
        chart + key(colors),
        subtitle="at the right: how many answers are right, of those known",
        height=max(50, ROW_HEIGHT * len(names)),
    )


def source_shares(rows: pl.DataFrame) -> Figure:
    """Columns `source`, `top`, `corpus` (numbers of documents): where top documents are from, against the corpus."""
    import altair as alt

    shares = rows.select(
        name=pl.col("source").fill_null("unknown").map_elements(lambda name: clipped(name, 24), pl.String),
        top=pl.col("top") / pl.col("top").sum(),
        corpus=pl.col("corpus") / pl.col("corpus").sum(),
    )
    shares = shares.sort(pl.max_horizontal("top", "corpus"), descending=True).head(ROWS_SHOWN)
    shares = shares.sort("top", "name", descending=[True, False])
    x = alt.X("top:Q", title="share of documents", axis=alt.Axis(format="%", grid=True, domain=False, ticks=False))
    base = alt.Chart(shares).encode(y=alt.Y("name:N", title=None, sort=shares["name"].to_list(), axis=names_axis()))
    between = base.mark_rule(color=GREY, opacity=0.6, strokeWidth=2).encode(x=x, x2="corpus:Q")
    corpus = base.mark_point(color=QUIET, fill="white", size=55, opacity=1).encode(x="corpus:Q")
    top = base.mark_circle(color=ORANGE, size=75, opacity=1).encode(x=x)
    return drawn(
        "Sources of top documents",
        between + corpus + top + key({"top documents": ORANGE, "whole corpus": QUIET}),
        subtitle="share of the documents listed, against their share of the corpus",
        height=max(50, ROW_HEIGHT * len(shares)),
    )


def _score_bins(rows: pl.DataFrame, unit: float) -> pl.DataFrame:
    """Shares of scores in bins that are even on the symmetric logarithmic axis, by kind."""
    reach = math.log1p(float(rows["score"].abs().max() or unit) / unit)
    width = max(2 * reach / BINS, 1e-9)
    place = (pl.col("score").abs() / unit).log1p() * pl.col("score").sign()
    counted = rows.group_by("kind", bin=(place / width).round()).len().sort("kind", "bin")
    center = pl.col("bin") * width
    return counted.select(
        "kind",
        share=pl.col("len") / pl.col("len").sum().over("kind"),
        score=center.sign() * (center.abs().exp() - 1) * unit,
    )


def _score_axis(largest: float, unit: float) -> alt.Axis:
    """Ticks of a symmetric logarithmic axis: zero and powers of ten on both sides."""
    import altair as alt

    powers = range(math.ceil(math.log10(unit)), math.floor(math.log10(max(largest, unit))) + 1)
    shown = [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / 4))]]
    ticks = sorted([-value for value in shown] + [0.0] + shown)
    each = "abs(datum.value) >= 1000 ? format(datum.value, '~s') : format(datum.value, '~g')"
    return alt.Axis(values=ticks, labelExpr=each, grid=True)


def _right_ones(rows: pl.DataFrame) -> pl.DataFrame:
    """How many answers of each row are right, as text."""
    right, known = (pl.col("answer") == "right").sum(), (pl.col("answer") != "not known").sum()
    counted = rows.group_by("name").agg(right=right, known=known).filter(pl.col("known") > 0)
    return counted.select("name", right=pl.format("{} of {}", "right", "known"))


def _most_frequent(names: pl.Series, count: int) -> list[str]:
    """The most frequent names, in the order of the alphabet."""
    counts = names.value_counts().sort(["count", names.name], descending=[True, False])
    return sorted(counts.head(count)[names.name].to_list())


def _thinned(rows: pl.DataFrame) -> pl.DataFrame:
    """Every so-manieth row, and the last."""
    every = math.ceil(len(rows) / POINTS_SHOWN)
    if every <= 1:
        return rows
    return pl.concat([rows.head(-1).gather_every(every), rows.tail(1)])
