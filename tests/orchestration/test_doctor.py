"""`headwater doctor`: what it finds where all is well, and where something is not."""

from __future__ import annotations

import json

import pytest

from tests.orchestration.tiny_study import headwater


def found(home) -> tuple[int, dict[str, tuple[str, str]]]:
    result = headwater(home, "doctor", "--json")
    return result.returncode, {each["what"]: (each["state"], each["said"]) for each in json.loads(result.stdout)}


def test_a_finished_installation(finished):
    code, states = found(finished.home)
    assert code == 0 and [states[what][0] for what in ("Python", "lake", "tracking", "studies")] == ["good"] * 4
    assert "torch" in states["packages"][1] and "tables" in states["lake"][1]
    assert headwater(finished.home, "doctor").stdout.startswith("good  Python")


def test_a_new_installation(tmp_path):
    code, states = found(tmp_path / "new")
    assert code == 0 and states["lake"][0] == states["tracking"][0] == "note"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("file", "content", "what", "words"),
    [
        ("lake/_headwater.json", '{"layout": 99}', "lake", "layout 99"),
        ("studies/bad.yaml", "study: [", "studies", "bad.yaml"),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_too(tmp_path, file, content, what, words):
    home = tmp_path / "home"
    (home / file).parent.mkdir(parents=True)
    (home / file).write_text(content)
    code, states = found(home)
    assert code == 1 and states[what][0] == "bad" and words in states[what][1]
    assert states["Python"][0] == "good"


def test_a_tracking_server_that_is_away(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_TRACKING_URI", "http://127.0.0.1:9")
    code, states = found(tmp_path)
    assert code == 1 and states["tracking"][0] == "bad"
