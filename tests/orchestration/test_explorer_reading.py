"""What the explorer makes of a ranked document: colours, the marked answer, near-duplicates."""

from __future__ import annotations

import polars as pl
import pytest

from assets.findings.answer_span import answer_span
from orchestration.explorer.shown import folded, marked, reading


def test_a_reading_colours_tokens_and_marks_the_answer():
    row = {
        "text": "It is 12, not 7.",
        "tokens": ["It", " is", " 12", ",", " not", " 7", "."],
        "token_scores": [0.0, 0.0, 2.0, 0.0, -1.0, 0.01, 0.0],
        "modules": ["a", "b"],
        "module_scores": [-0.5, 1.51],
    }
    found = reading(row, "7")
    assert [token.level for token in found.tokens] == [0, 0, 5, 0, -4, 0, 0]
    assert [token.text for token in found.tokens if token.is_answer] == [" 7"]
    assert [(module.name, round(module.width)) for module in found.modules] == [("b", 100), ("a", 33)]
    assert [(token.name, token.score) for token in found.largest] == [(" 12", 2.0), (" not", -1.0), (" 7", 0.01)]
    assert not reading(row, "2").has_answer and not reading(row, None).has_answer
    assert [token.text for token in reading(row | {"tokens": ["It"]}, None).tokens] == [row["text"]]


def test_a_token_of_white_space_alone_has_a_name_that_can_be_seen():
    row = {"tokens": ["\n\n", " x\n", "\t "], "token_scores": [3.0, 2.0, 1.0], "modules": [], "module_scores": []}
    assert [token.name for token in reading(row, None).largest] == ["↵↵", " x\n", "⇥␣"]


@pytest.mark.parametrize(
    ("texts", "answer", "marked"),
    [
        (["7", " or", " 7", ",", " 17", " or", " 7", ".", "5", " or", " -", "7"], "7", [0, 2]),
        (["New", " York", " is", " new", "  york", "."], "New York", [0, 1, 3, 4]),
        (["new", "ark"], "new", []),
    ],
)
def test_the_answer_is_marked_wherever_it_stands(texts, answer, marked):
    row = {"tokens": texts, "token_scores": [1.0] * len(texts), "modules": [], "module_scores": []}
    found = reading(row, answer)
    assert [at for at, token in enumerate(found.tokens) if token.is_answer] == marked
    assert found.has_answer == bool(marked)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("the answer is 7.", "7", "7"),
        ("17 or 0.7 or 7.5", "7", None),
        ("New  York City", "new york", "New  York"),
        ("Newark", "new", None),
        ("a-7", "7", None),
        ("Kyōto is", "kyōto", "Kyōto"),
        ("anything", "", None),
    ],
)
def test_where_an_answer_stands(text, answer, found):
    span = answer_span(text, answer)
    assert (text[slice(*span)] if span else None) == found


def test_near_duplicates_are_folded():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    rows = pl.DataFrame({"rank": [1, 2, 3, 4], "text": [long, "something else", f"{long} more", None]})
    assert [(row["rank"], [each["rank"] for each in more]) for row, more in folded(rows)] == [
        (1, [3]),
        (2, []),
        (4, []),
    ]


def test_alike_is_measured_by_runs_of_words():
    """Of texts of 42 words (40 runs) with n other words at the end, (40 − n) / (40 + n) of the runs are shared."""
    words = [f"w{each}" for each in range(42)]
    others = [f"x{each}" for each in range(42)]
    texts = [" ".join(words), " ".join(words[:38] + others[:4]), " ".join(words[:37] + others[:5])]
    assert [len(more) for _, more in folded(pl.DataFrame({"text": texts[:2]}))] == [1]
    assert [len(more) for _, more in folded(pl.DataFrame({"text": [texts[0], texts[2]]}))] == [0, 0]


def test_listed_documents_that_hold_the_answer_are_marked():
    rows = marked(pl.DataFrame({"text": ["it is 7", "it is 17", None]}), "7")
    assert rows["holds_answer"].to_list() == [True, False, False]
    assert marked(rows, None)["holds_answer"].to_list() == [False] * 3


def test_what_all_modules_begin_with_is_told_once():
    row = {"text": "a", "tokens": ["a"], "token_scores": [1.0], "module_scores": [2.0, 1.0]}
    found = reading(row | {"modules": ["neox.layers.0.mlp", "neox.layers.1.mlp"]}, None)
    assert (found.above_modules, [each.name for each in found.modules]) == ("neox.layers.", ["0.mlp", "1.mlp"])
    alone = reading(row | {"modules": ["neox.mlp"], "module_scores": [2.0]}, None)
    assert (alone.above_modules, [each.name for each in alone.modules]) == ("", ["neox.mlp"])
