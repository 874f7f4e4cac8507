"""Examples of README and docs: commands and options are there, studies are valid, queries can be read.

Python and SQL of the pages run on real results in `tests/orchestration/test_page_examples.py`.
"""

from __future__ import annotations

import json
import re

import pytest
import typer
import yaml

from assets.specs.study import StudySpec
from orchestration.cli import app
from tests.docs.blocks import ROOT, commands, of

COMMANDS = typer.main.get_command(app).commands
ROOT_OPTIONS = {"--install-completion", "--show-completion", "--help"}
MINIMAL = {
    "study": "any",
    "corpus": {"name": "any", "path": "any.jsonl"},
    "model": {"name": "any", "path": "any"},
    "curvature": {"name": "any"},
    "queries": {"name": "any", "path": "any.jsonl"},
}
HEADWATER, MAKE = commands("headwater"), commands("make")
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


def test_command_lines_name_commands_and_options_that_there_are():
    assert len(HEADWATER) > 60
    for place, (_, *words) in HEADWATER:
        if not words or words[0] in ROOT_OPTIONS or words[0] in ("COMMAND", "…"):
            continue
        assert words[0] in COMMANDS, f"{place}: headwater {words[0]}"
        known = {option for each in COMMANDS[words[0]].params for option in [*each.opts, *each.secondary_opts]}
        for word in words[1:]:
            if word.startswith("-") and word != "-":
                assert word in known | {"--help"}, f"{place}: headwater {words[0]} {word}"


def test_make_has_the_targets_that_pages_name():
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    assert {"docs", "docs-serve", "demo"} <= targets and len(MAKE) > 8
    for place, (_, *words) in MAKE:
        for word in words:
            assert "=" in word or word in targets, f"{place}: make {word}"


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.place)
def test_a_study_or_a_part_of_one_is_valid(block):
    parts = yaml.safe_load(block.text)
    filled = {name: MINIMAL.get(name, {}) | part if isinstance(part, dict) else part for name, part in parts.items()}
    for section in ("corpus", "model"):
        if {"hub", "train"} & set(parts.get(section, {})):
            filled[section].pop("path", None)
    StudySpec.model_validate(MINIMAL | filled)


@pytest.mark.parametrize("block", of("json"), ids=lambda block: block.place)
def test_queries_are_json_lines_that_can_be_read(block, tmp_path):
    from assets.queries.reading import read_queries
    from assets.specs.queries import QueriesSpec

    path = tmp_path / "queries.jsonl"
    path.write_text(block.text, encoding="utf-8")
    assert all(json.loads(line) for line in block.text.splitlines())
    assert read_queries(QueriesSpec(name="any", path=str(path)), str(tmp_path))
