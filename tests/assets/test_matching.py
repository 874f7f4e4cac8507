"""Answers in documents: what counts as found, against a search that is written otherwise, and how fast it is."""

from __future__ import annotations

import random
import time

import pytest

from assets.findings.matching import AnswerMatcher, Hit, Sought, answered_rank, sought_parts
from assets.queries.reading import read_queries
from assets.specs.queries import QueriesSpec
from assets.study.answers import is_right, words
from compute.errors import BadInput
from tests.assets.corpus_files import write_jsonl, write_parquet


def found(document: str, text: str) -> str | None:
    """How the one text stands in the document."""
    hits = AnswerMatcher([Sought("q", "answer", text)]).find(document)
    assert len(hits) <= 1
    return hits[0].match if hits else None


@pytest.mark.parametrize(
    "text, document, match",
    [
        ("Paris", "It is Paris.", "exact"),
        ("Paris", "It is PARIS!", "normalized"),
        ("Paris", "Parisian, comparison", None),
        ("New York", "in New York City", "exact"),
        ("New York", "in new\n york", "normalized"),
        ("New York", "York is not New", None),
        ("7", "17 71 0.7 7.5 1,7 -7", None),
        ("7", "It is 7.", "exact"),
        ("7", "3-7", "exact"),  # a dash, and no sign
        ("7", "8x7", "normalized"),  # a number that a letter stands before is found, but has no word border there
        ("-7", "it is -7, then", "exact"),
        ("-7", "10-7", None),
        ("8", "8x + 16 = 32", "normalized"),
        ("6", "6, 7 and 8", "exact"),
        ("6", "6,7", None),
        ("7", "it is \N{MINUS SIGN}7", None),
        ("-7", "it is \N{MINUS SIGN}7", "normalized"),
        ("(4, 2)", "the point (4,2)", "normalized"),
        ("(4,-2)", "at [4,\N{MINUS SIGN}2]", "normalized"),
        ("000", "costs (1,000)", None),
        ("1,000", "costs (1,000)", "exact"),
        ("4 + 2 = 6", "so 4 + 2 = 6.", "exact"),
        ("4 + 2 = 6", "so 4+2=6", "normalized"),
        ("4 + 2 = 6", "so 4 + 2 = 60", None),
        ("4 + 2 = 6", "so 14 + 2 = 6", None),
        ("4 + 2 = 6", "so 6 = 4 + 2", None),
        ("straße", "STRASSE", "normalized"),
        ("the cat's mat", "on the cats mat", None),
        (".5", "3.5 and 5", "normalized"),
        ("5.", "It is 5.5 and 5", "normalized"),
        ("$5", "for $5 each", "exact"),
        ("+", "a + b", "exact"),
        ("+", "a - b", None),
        (" Paris ", "Paris", "exact"),
        ("7", "", None),
    ],
)
def test_what_counts_as_found(text, document, match):
    assert found(document, text) == match


def test_found_means_the_same_as_in_completions_and_exact_is_the_stricter():
    """Random texts of few pieces, so that borders of every sort occur: against `is_right` and a plain look."""
    draw = random.Random(0)
    pieces = [*"7 17 2.5 -7 a ab A , . - + x_".split(), " ", " ", " "]
    seen = {"exact": 0, "normalized": 0, None: 0}
    for _ in range(6000):
        text = "".join(draw.choices(pieces, k=draw.randint(1, 4))).strip()
        document = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        if not words(text):
            continue
        match = found(document, text)
        seen[match] += 1
        assert (match is not None) == is_right(document, text, kind=None, match="contains"), (text, document)
        if match == "exact":
            assert text in document, (text, document)
        if f" {text} " in f" {document} ":
            assert match == "exact", (text, document)
    assert min(seen.values()) > 100, seen


def test_every_query_that_asks_for_a_text_is_told():
    sought = [
        Sought("a", "answer", "6"),
        Sought("b", "step 1", "6"),
        Sought("b", "answer", "90"),
        Sought("c", "x", "no"),
    ]
    assert AnswerMatcher(sought).find("90 and 6") == [
        Hit("a", "answer", "exact"), Hit("b", "step 1", "exact"), Hit("b", "answer", "exact"),
    ]  # fmt: skip


def test_parts_that_are_sought():
    query = {"query_id": "q", "answer": "90", "step_answers": ["4 + 2 = 6", "6 * 15 = 90"]}
    assert [(one.part, one.text) for one in sought_parts(query)] == [
        ("answer", "90"), ("step 1", "4 + 2 = 6"), ("step 2", "6 * 15 = 90"),
    ]  # fmt: skip
    assert sought_parts({"query_id": "q", "answer": None, "step_answers": []}) == []
    assert sought_parts({"query_id": "q", "answer": " "}) == []


def test_a_query_is_answered_where_its_last_part_is_found():
    steps = ("answer", "step 1", "step 2")
    assert answered_rank({"answer": 3, "step 1": 40, "step 2": 7}, steps) == 40
    assert answered_rank({"answer": 3, "step 1": 40}, steps) is None
    assert answered_rank({"answer": 3}, ("answer",)) == 3
    assert answered_rank({}, ()) is None


def test_a_shard_of_documents_for_a_hundred_queries_takes_well_under_a_second():
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(3000)]
    numbers = [str(number) for number in range(100)]
    documents = [" ".join(draw.choices(vocabulary + 10 * numbers, k=400)) for _ in range(1000)]
    sought = [
        Sought(f"q{query}", part, " ".join(draw.choices(numbers, k=3)) if part else draw.choice(vocabulary))
        for query in range(100)
        for part in ("", "step 1", "step 2")
    ]
    matcher = AnswerMatcher(sought)
    started = time.process_time()
    hits = sum(len(matcher.find(document)) for document in documents)
    assert time.process_time() - started < 1.5  # about 0.25 on a quiet core
    assert hits > 1000


@pytest.mark.parametrize("name, write", [("q.jsonl", write_jsonl), ("q.parquet", write_parquet)])
def test_step_answers_are_read(tmp_path, name, write):
    write(
        tmp_path / name, [{"prompt": "a", "step_answers": ["4 + 2 = 6", "90"]}, {"prompt": "b", "step_answers": None}]
    )
    first, second = read_queries(QueriesSpec(name="demo", path=name), tmp_path)
    assert (first.step_answers, second.step_answers) == (("4 + 2 = 6", "90"), ())
    assert first.extra == "{}"


def test_numbers_are_step_answers_too_and_a_renamed_field_is_found(tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": "a", "steps": [6, 90]}])
    (query,) = read_queries(QueriesSpec(name="demo", path="q.jsonl", fields={"step_answers": "steps"}), tmp_path)
    assert query.step_answers == ("6", "90")


@pytest.mark.parametrize("steps", ["4 + 2 = 6", [""], [["6"]], {"a": 1}, [None]])
def test_step_answers_are_a_list_of_texts(tmp_path, steps):
    write_jsonl(tmp_path / "q.jsonl", [{"prompt": "fine"}, {"prompt": "a", "step_answers": steps}])
    with pytest.raises(BadInput, match=r"query at q\.jsonl:2 has no list of texts in field 'step_answers'; write"):
        read_queries(QueriesSpec(name="demo", path="q.jsonl"), tmp_path)
