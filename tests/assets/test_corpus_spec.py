"""Corpus declarations: what is accepted, what is filled in, and which sentence a mistake gets."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from assets.specs.corpus import CorpusSpec


def corpus(**options):
    return CorpusSpec(**{"name": "demo", "path": "a.jsonl", **options})


def test_defaults():
    spec = corpus()
    assert spec.path == ("a.jsonl",)
    assert (spec.fields.text, spec.fields.id, spec.fields.source) == ("text", None, None)
    assert (spec.shard_records, spec.max_tokens, spec.end_of_text, spec.max_rejected) == (5000, 256, False, 0.05)
    assert spec.tokenizer.checkpoint and spec.tokenizer.train is None


def test_a_list_of_paths_and_a_hub_data_set():
    assert corpus(path=["a.jsonl", "b.jsonl"]).path == ("a.jsonl", "b.jsonl")
    assert CorpusSpec(name="demo", hub="owner/data", max_records=10).split == "train"


def test_training_a_tokenizer_replaces_the_checkpoints():
    spec = corpus(tokenizer={"train": {"vocab_size": 500}})
    assert not spec.tokenizer.checkpoint and spec.tokenizer.train.vocab_size == 500
    assert CorpusSpec.model_validate(spec.model_dump()) == spec


def test_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        corpus().name = "other"


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"path": None}, "exactly one of 'path'"),
        ({"hub": "owner/data"}, "exactly one of 'path'"),
        ({"path": None, "hub": "owner/data"}, "needs 'max_records'"),
        ({"path": None, "hub": "owner/data", "max_records": 5, "format": "jsonl"}, "'format' belongs to 'path'"),
        ({"revision": "main"}, "'revision' belongs to 'hub'"),
        ({"path": ""}, "path is empty"),
        ({"path": []}, "path is empty"),
        ({"name": "Demo corpus"}, "String should match pattern"),
        ({"shard_records": 0}, "greater than or equal to 1"),
        ({"max_tokens": 1}, "greater than or equal to 2"),
        ({"max_rejected": 1.5}, "less than or equal to 1"),
        ({"format": "csv"}, "'jsonl', 'parquet', 'text' or 'datasets'"),
        ({"shard_record": 5}, "Extra inputs are not permitted"),
        ({"fields": {"txt": "body"}}, "Extra inputs are not permitted"),
        ({"tokenizer": {"checkpoint": True, "train": {}}}, "either 'checkpoint: true' or 'train"),
        ({"tokenizer": {"checkpoint": False}}, "either 'checkpoint: true' or 'train"),
    ],
)
def test_mistakes(options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        corpus(**options)
