"""Texts that are in no corpus, cut into windows as documents are and scored for the queries of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from assets.specs.methods import NORMED_AS_THEY_ARE
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.study.opened import OpenedStudy
    from compute.influence import Scores

WINDOWS = {
    "document_id": pl.String,
    "text_number": pl.Int64,
    "window": pl.Int32,
    "source": pl.String,
    "text": pl.String,
    "token_ids": pl.List(pl.Int32),
}
"""What is scored, one row per window. A window of one's own text has a text_number, a stored document its id."""

SCORES = ("method", "query_id", "score", "normed_score", "norm", "loss", "tokens")

NAME = pl.coalesce("document_id", pl.format("texts[{}]", "text_number")).alias("name")
"""By which a message speaks of a window."""

SCORE = pl.col("score").cast(pl.Float64)
NORMED = (
    pl.when(pl.col("method").is_in(NORMED_AS_THEY_ARE))
    .then(SCORE)
    .when(pl.col("norm") > 0)
    .then(SCORE / pl.col("norm"))
    .otherwise(0.0)
)


def cut_texts(opened: OpenedStudy, texts: Sequence[str] | str, source: str | None = None) -> pl.DataFrame:
    """The windows of the texts, of columns `WINDOWS`. Texts are numbered from 0.

    Raises BadInput for no texts, and for one that is empty, is no text, is not Unicode or has no token that could be
    predicted.
    """
    from compute.windows import cut_windows_batch

    texts = [texts] if isinstance(texts, str) else list(texts)
    _refuse_unusable(texts)
    corpus = opened.study.spec.corpus
    cut = cut_windows_batch(texts, opened.tokenizer, max_tokens=corpus.max_tokens, end_of_text=corpus.end_of_text)
    rows = []
    for number, (text, windows) in enumerate(zip(texts, cut, strict=True)):
        for window in windows:
            if window.problem:
                raise BadInput(f"texts[{number}]: has fewer than two tokens, so none can be predicted; write more")
            part = text[window.char_start : window.char_end]
            rows.append((None, number, window.index, source, part, window.token_ids))
    return pl.DataFrame(rows, schema=WINDOWS, orient="row")


def score_windows(opened: OpenedStudy, windows: pl.DataFrame) -> pl.DataFrame:
    """The windows' scores for all queries of the study, as its pass over the corpus gives them.

    One row per method, query and window: that of `windows` (without token_ids), and `SCORES`: the score, the score ÷
    norm of the window's gradient, that norm, the window's loss (summed, in nats) and the number of its tokens.
    """
    scores = opened.influence_pass.score(sequences(windows))
    return rows_of_scores(list(opened.gradients), windows, scores)


def sequences(windows: pl.DataFrame) -> list:
    """The windows as the engine takes them."""
    from compute import batches

    return [batches.Sequence(*row) for row in windows.select(NAME, "token_ids").iter_rows()]


def rows_of_scores(keys: Sequence[tuple[str, str]], windows: pl.DataFrame, scores: Scores) -> pl.DataFrame:
    """The rows of `score_windows` for any queries: `keys` holds method and query id of each row of the scores."""
    _refuse_not_finite(windows, scores)
    of_window = windows.drop("token_ids").with_columns(
        pl.Series("norm", scores.norms_D, pl.Float32),
        pl.Series("loss", scores.loss_D, pl.Float64),
        tokens=windows["token_ids"].list.len().cast(pl.Int32),
    )
    parts = [
        of_window.with_columns(
            pl.lit(method).alias("method"), pl.lit(query_id).alias("query_id"), pl.Series("score", row, pl.Float32)
        )
        for (method, query_id), row in zip(keys, scores.scores_QD, strict=True)
    ]
    return pl.concat(parts).with_columns(normed_score=NORMED).select(*windows.drop("token_ids").columns, *SCORES)


def is_unicode(text: str) -> bool:
    """Whether it can be written: bytes that are no UTF-8 come from a command line as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_not_finite(windows: pl.DataFrame, scores: Scores) -> None:
    bad = ~np.isfinite(scores.scores_QD).all(axis=0) | ~np.isfinite(scores.norms_D)
    for name, is_bad in zip(windows.select(NAME).to_series(), bad, strict=True):
        if is_bad:
            raise BadInput(f"{name}: a score of it is not finite; see the model's dtype and the study's damping")


def _refuse_unusable(texts: list) -> None:
    if not texts:
        raise BadInput("there are no texts; give at least one")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"texts[{number}]: is no text but {type(text).__name__}; give strings")
        if not text.strip():
            raise BadInput(f"texts[{number}]: is empty; write a text, or leave it out")
        if not is_unicode(text):
            raise BadInput(f"texts[{number}]: holds bytes that are not UTF-8; write it in UTF-8")
