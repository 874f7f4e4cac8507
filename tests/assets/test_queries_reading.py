"""Query files: what is read, what is filled in, and that a broken query is named rather than dropped."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from assets.queries.reading import Query, read_queries
from assets.specs.queries import QueriesSpec
from compute.errors import BadInput
from tests.assets.corpus_files import truncate, write_gzip, write_jsonl, write_parquet, write_zstd

ROWS = [
    {
        "id": "f1",
        "prompt": "The capital is",
        "completion": " Paris",
        "task": "capitals",
        "kind": "factual",
        "answer": "Paris",
        "match": "contains",
        "level": 3,
    },
    {
        "id": "a1",
        "prompt": "1 + 1 =",
        "completion": None,
        "task": "arithmetic",
        "kind": "reasoning",
        "answer": "2",
        "match": "ends",
        "level": 1,
    },
]


def queries(path="q.jsonl", **fields):
    return QueriesSpec(name="demo", path=path, fields=fields)


def read(tmp_path, *rows, **fields):
    write_jsonl(tmp_path / "q.jsonl", rows)
    return read_queries(queries(**fields), tmp_path)


@pytest.mark.parametrize(
    "name, write",
    [
        ("q.jsonl", write_jsonl),
        ("q.jsonl.gz", write_gzip),
        ("q.jsonl.zst", write_zstd),
        ("q.parquet", write_parquet),
    ],
)
def test_formats(tmp_path, name, write):
    write(tmp_path / name, ROWS)
    first, second = read_queries(queries(name), tmp_path)
    assert first == Query(
        "f1", "The capital is", " Paris", "capitals", "factual", "Paris", "contains", '{"level": 3}', first.location
    )
    assert (second.completion, second.answer, second.match) == (None, "2", "ends")
    assert first.location in (f"{name}:1", f"{name} row 1")


def test_a_prompt_is_enough(tmp_path):
    first, second = read(tmp_path, {"prompt": "Hello"}, {"prompt": " Bye "})
    assert (first.query_id, second.query_id) == ("q0001", "q0002")
    assert second.prompt == " Bye "
    assert (first.completion, first.task, first.kind, first.answer, first.match, first.extra) == (None,) * 5 + ("{}",)


def test_renamed_fields_numbers_and_extras(tmp_path):
    (query,) = read(
        tmp_path,
        {"n": 4, "question": "2 + 2 =", "gold": 4, "steps": [1, 2], "wörd": "ü"},
        id="n",
        prompt="question",
        answer="gold",
    )
    assert (query.query_id, query.prompt, query.answer) == ("4", "2 + 2 =", "4")
    assert json.loads(query.extra) == {"steps": [1, 2], "wörd": "ü"}


def test_a_field_can_be_left_unread(tmp_path):
    (query,) = read(tmp_path, {"prompt": "Hello", "completion": " x"}, completion=None)
    assert query.completion is None and json.loads(query.extra) == {"completion": " x"}


@pytest.mark.parametrize(
    "row, sentence",
    [
        ({"prompt": ""}, r"the query at q.jsonl:2 has an empty field 'prompt'; write the prompt"),
        ({"prompt": " \n"}, r"the query at q.jsonl:2 has an empty field 'prompt'"),
        ({"promt": "Hello"}, r"the query at q.jsonl:2 has no text in field 'prompt'"),
        ({"prompt": 5}, r"the query at q.jsonl:2 has no text in field 'prompt'"),
        (
            {"prompt": "Hello", "completion": ""},
            r"the query at q.jsonl:2 has an empty field 'completion'.*leave the field out",
        ),
        ({"prompt": "Hello", "completion": 5}, r"the query at q.jsonl:2 has no text in field 'completion'"),
        ({"prompt": "Hello", "match": "begins"}, r"q.jsonl:2 has 'begins' in field 'match'; use contains or ends"),
        ({"prompt": "Hello", "kind": ["a"]}, r"q.jsonl:2 has more than a string or number in field 'kind'"),
        ({"prompt": "Hello", "id": None}, r"the query at q.jsonl:2 has no id in field 'id'"),
        ({"prompt": "Hello", "id": "first"}, r"id 'first' at q.jsonl:2 is already that of q.jsonl:1"),
    ],
)
def test_broken_queries(tmp_path, row, sentence):
    with pytest.raises(BadInput, match=f"queries demo: .*{sentence}"):
        read(tmp_path, {"id": "first", "prompt": "Fine"}, {"id": "second", **row})


def test_a_broken_line(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"prompt": "Hello"}\n{"prompt": "Hel\n')
    with pytest.raises(
        BadInput, match=r"the query at q\.jsonl:2 cannot be read: The line is not valid JSON; mend or delete it"
    ):
        read_queries(queries(), tmp_path)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (
            {"prompt": "question"},
            r"field 'question' \(fields.prompt\) is not in the first record of q.jsonl, which has: prompt",
        ),
        ({"answer": "gold"}, r"field 'gold' \(fields.answer\) is not in .*; correct fields.answer"),
    ],
)
def test_a_renamed_field_must_be_there(tmp_path, fields, sentence):
    with pytest.raises(BadInput, match=f"queries demo: {sentence}"):
        read(tmp_path, {"prompt": "Hello"}, **fields)


def test_no_queries(tmp_path):
    with pytest.raises(BadInput, match=r"q\.jsonl holds no queries"):
        read(tmp_path)


def test_missing_truncated_and_foreign_files(tmp_path):
    with pytest.raises(BadInput, match=r"queries demo: path 'q\.jsonl' does not exist"):
        read_queries(queries(), tmp_path)
    truncate(write_zstd(tmp_path / "q.jsonl.zst", ROWS))
    with pytest.raises(BadInput, match=r"q\.jsonl\.zst is truncated"):
        read_queries(queries("q.jsonl.zst"), tmp_path)
    (tmp_path / "q.txt").write_text("Hello")
    with pytest.raises(BadInput, match=r"format text \(.*q\.txt\) is not read here; use jsonl or parquet"):
        read_queries(queries("q.txt"), tmp_path)


def test_spec_mistakes():
    with pytest.raises(ValidationError, match="Extra inputs"):
        queries(question="prompt")
    with pytest.raises(ValidationError, match="prompt"):
        queries(prompt=None)
