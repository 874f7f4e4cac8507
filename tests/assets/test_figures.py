"""Figures: every one is drawn from ordinary and from odd rows, says what it should, and stays small."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.figures.charts import (
    completion_nats,
    document_lengths,
    influence_distribution,
    source_shares,
    training_loss,
)
from assets.figures.drawing import Figure, short_names, spread
from assets.figures.spectrum import eigenvalue_spectrum, spectrum_rows

LARGEST_PNG = 30_000
ODD = 'a|b <b>"&\n' + "x" * 60


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def words(figure: Figure) -> str:
    """The text of a figure, which must be a whole picture, small, and need nothing from elsewhere."""
    with Image.open(io.BytesIO(figure.png)) as picture:
        picture.load()
        assert 500 < picture.width < 1200 and 100 < picture.height < 900
    assert len(figure.png) <= LARGEST_PNG
    addresses = set(re.findall(r"https?://[^\"' ]+", figure.svg))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    return " ".join(re.findall(r">([^<>]+)</text>", figure.svg))


def losses(count: int) -> pl.DataFrame:
    return pl.DataFrame({"step": range(count), "loss": [3.0 - 2.5 * step / max(1, count - 1) for step in range(count)]})


def completions() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "task": ["sum"] * 4 + [None] * 3,
            "kind": ["reasoning"] * 4 + ["factual"] * 2 + [None],
            "nats": [0.0, 0.1, 5.0, 80.0, 1.0, 2.0, 3.0],
            "is_right": [True, True, False, None, False, False, None],
        }
    )


def test_the_loss_is_told_at_the_end_of_its_line():
    shown = words(training_loss(losses(5000)))
    assert "0.5" in shown and "optimizer step" in shown and "loss (nats per token)" in shown
    assert training_loss(losses(5000)).svg.count("L") < 1100  # thinned


def test_lengths_are_counted_whole():
    shown = words(document_lengths(pl.DataFrame({"tokens": [3] * 5 + [128] * 4})))
    assert "9 documents, median 3, longest 128 tokens" in shown and "tokens per document" in shown


def test_bars_hold_every_document(draw):
    """The bars' heights, read back from the picture's description, add up."""
    tokens = draw.integers(1, 513, 1000)
    svg = document_lengths(pl.DataFrame({"tokens": tokens})).svg
    bars = re.findall(r"documents: ([\d,]+)", svg)
    assert sum(int(bar.replace(",", "")) for bar in bars) == 1000


def test_spectrum_rows_are_the_sorted_eigenvalues(draw):
    values = draw.lognormal(size=(40, 50)).astype(np.float32)
    rows = spectrum_rows("m", values)
    assert rows["rank"][0] == 1 and rows["rank"][-1] == 2000 and len(rows) <= 120
    assert rows["eigenvalue"][0] == values.max() and rows["eigenvalue"][-1] == values.min()
    assert rows["eigenvalue"].is_sorted(descending=True)


def test_few_modules_are_lines_with_their_names_and_many_are_bands(draw):
    names = [f"model.layers.{layer}.mlp.{part}" for layer in range(12) for part in ("up", "down")]
    rows = [spectrum_rows(name, draw.lognormal(size=300)) for name in names]
    shown = words(eigenvalue_spectrum(pl.concat(rows[:4])))
    assert all(name in shown for name in ("0 up", "0 down", "1 up", "1 down", "4 modules"))
    shown = words(eigenvalue_spectrum(pl.concat(rows)))
    assert "24 modules" in shown and "0 up" not in shown


def test_scores_are_shown_with_their_kinds(draw):
    rows = pl.DataFrame({"kind": ["factual", "reasoning", None] * 1000, "score": draw.standard_t(2, 3000) * 1000})
    shown = words(influence_distribution(rows))
    assert all(
        word in shown for word in ("factual", "reasoning", "no kind", "3,000 pairs of query and document", "−1k")
    )


def test_completions_stand_by_task_or_kind_with_how_many_are_right():
    shown = words(completion_nats(completions()))
    assert all(word in shown for word in ("sum", "factual", "all", "2 of 3", "0 of 2", "not known"))


def test_sources_are_compared_with_the_corpus():
    rows = pl.DataFrame({"source": ["code", ODD, None], "top": [0, 5, 5], "corpus": [50, 25, 25]})
    shown = words(source_shares(rows))
    assert all(word in shown for word in ("code", "unknown", "whole corpus", "50%"))
    assert "<b>" not in source_shares(rows).svg


@pytest.mark.parametrize(
    "figure",
    [
        lambda: training_loss(losses(0)),
        lambda: training_loss(losses(1)),
        lambda: document_lengths(pl.DataFrame({"tokens": []}, schema={"tokens": pl.Int32})),
        lambda: document_lengths(pl.DataFrame({"tokens": [1]})),
        lambda: eigenvalue_spectrum(spectrum_rows("m", np.zeros((3, 3)))),
        lambda: eigenvalue_spectrum(spectrum_rows("m", np.ones(1))),
        lambda: eigenvalue_spectrum(pl.concat([spectrum_rows(f"m{i}", np.full(9, 0.5)) for i in range(12)])),
        lambda: influence_distribution(pl.DataFrame({"kind": ["a"], "score": [0.0]})),
        lambda: influence_distribution(pl.DataFrame({"kind": [ODD] * 3, "score": [1e-9, -1e9, float("nan")]})),
        lambda: influence_distribution(pl.DataFrame({"kind": [], "score": []}, schema={"kind": str, "score": float})),
        lambda: completion_nats(completions().clear()),
        lambda: completion_nats(completions().with_columns(task=pl.lit(ODD), is_right=None)),
        lambda: source_shares(pl.DataFrame({"source": ["a"], "top": [0], "corpus": [0]})),
        lambda: source_shares(
            pl.DataFrame({"source": [f"s{i}" for i in range(99)], "top": range(99), "corpus": range(99)})
        ),
    ],
)
def test_odd_rows_make_a_picture_all_the_same(figure):
    words(figure())


def test_labels_are_moved_apart_in_their_order():
    moved = spread([0.0, 0.1, 5.0, 0.05], 1.0, 0.0, 5.0)
    assert moved == [0.0, 2.0, 5.0, 1.0]
    assert spread([4.9, 5.0], 1.0, 0.0, 5.0) == [4.0, 5.0]


def test_names_lose_the_words_that_all_share():
    assert short_names(["a.0.mlp.up", "a.1.mlp.up"]) == {"a.0.mlp.up": "0", "a.1.mlp.up": "1"}
    assert short_names(["a.up"]) == {"a.up": "a up"}


def test_a_figure_is_quick_after_the_first():
    training_loss(losses(300))
    started = time.perf_counter()
    for _ in range(3):
        training_loss(losses(300))
    assert (time.perf_counter() - started) / 3 < 0.5  # about 0.03 s where nothing else runs


def test_drawing_is_imported_when_it_is_needed():
    script = (
        "import sys, assets.figures.charts, assets.figures.spectrum, assets.figures.previews;"
        "print([name for name in ('altair', 'vl_convert', 'PIL', 'mlflow', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
