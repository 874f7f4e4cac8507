"""`headwater init`: a study file that can be run, or a sentence and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compute.errors import BadInput
from orchestration.scaffold import write_study as scaffold
from orchestration.studies import read_study
from tests.orchestration.tiny_study import headwater, write_checkpoint, write_jsonl


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a corpus and a checkpoint, in which one stands."""
    rows = [
        {"doc_id": f"d{at}", "content": f"the river number {at} runs past the mill", "domain": "a"} for at in range(40)
    ]
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data/part.jsonl", rows)
    write_checkpoint(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(place, *more: str):
    return headwater(
        place / "home", "init", "--study", "mine", "--corpus", "data/*.jsonl", "--checkpoint", "model", *more
    )


def test_what_is_written_can_be_run(place):
    result = init(place)
    assert result.returncode == 0 and result.stdout.split() == ["mine.yaml", str(place / "mine-queries.jsonl")], (
        result.stderr
    )
    study = read_study(place / "mine.yaml").spec
    assert study.corpus.fields.named == {"text": "content", "id": "doc_id", "source": "domain"}
    (query,) = [json.loads(line) for line in (place / "mine-queries.jsonl").read_text().splitlines()]
    assert query["prompt"].startswith("the river number 0")
    written = yaml.safe_load((place / "mine.yaml").read_text())
    assert written["corpus"]["path"] == "data/*.jsonl" and written["model"]["path"] == "model"
    again = init(place)
    assert again.returncode == 1 and "mine.yaml: is there already" in again.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Not A Name"}, "a name is lower-case"),
        ({"corpus": "nowhere/*.jsonl"}, "nowhere"),
        ({"checkpoint": "nowhere"}, "is no directory here"),
        ({"checkpoint": "data"}, "model data: is not a causal language model"),
        ({"queries": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"target": "mine.txt"}, "end the file's name in .yaml"),
        ({"target": "nowhere/mine.yaml"}, "is no directory"),
    ],
)
def test_a_mistake_leaves_nothing_behind(place, changes, words):
    before = set(place.rglob("*"))
    given = {"name": "mine", "corpus": "data/*.jsonl", "checkpoint": "model", "queries": None, "target": "mine.yaml"}
    given |= changes
    with pytest.raises(BadInput) as caught:
        scaffold(**given | {"target": Path(given["target"])})
    assert words in str(caught.value)
    assert set(place.rglob("*")) == before


def test_what_is_missing_is_named_where_nobody_can_be_asked(place):
    result = headwater(place / "home", "init", "--study", "mine")
    assert result.returncode == 1 and "give --corpus and --checkpoint" in result.stderr
