"""`headwater studies`: the state of every study file, told from a real run's tables as they change."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from assets.lake.lake import Lake
from assets.study.candidates import candidates_table
from assets.study.influence import influence_table
from assets.study.rankings import rankings_table
from orchestration.cli import app
from orchestration.home import OVERRIDES


@dataclass
class Installation:
    """A copy of the finished run's home, whose study file lies in its studies directory."""

    home: Path
    lake: Lake

    def states(self) -> dict[str, dict]:
        result = CliRunner().invoke(app, ["studies", "--json"])
        assert result.exit_code == 0 and result.stderr == ""
        return {state["study"]: state for state in json.loads(result.stdout)}

    def tiny(self) -> tuple[str, int, int, int]:
        state = self.states()["tiny"]
        return state["state"], state["scored_shards"], state["shards"], state["stale_shards"]

    def text(self) -> str:
        result = CliRunner().invoke(app, ["studies"])
        assert result.exit_code == 0
        return result.stdout

    def overwrite(self, table, shard: str, change) -> None:
        rows = change(self.lake.scan(table, where={"shard": shard}).collect())
        self.lake.overwrite(table, rows.to_arrow(), where={"shard": shard}, commit={"inputs": "{}"})

    def write_study(self, name: str, **changes) -> Path:
        content = yaml.safe_load((self.home / "studies/tiny.yaml").read_text()) | {"study": name} | changes
        path = self.home / "studies" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path


@pytest.fixture
def installed(finished, tmp_path, monkeypatch) -> Installation:
    for name in ("HEADWATER_HOME", "DAGSTER_HOME", *OVERRIDES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    shutil.copytree(finished.home, home, ignore=shutil.ignore_patterns("mlflow", "dagster", "studies"))
    (home / "studies").mkdir()
    shutil.copy(finished.study, home / "studies/tiny.yaml")
    monkeypatch.setenv("HEADWATER_HOME", str(home))
    monkeypatch.chdir(home)
    return Installation(home, Lake(uri=str(home / "lake")))


def test_a_study_that_is_done_is_complete(installed):
    assert installed.tiny() == ("complete", 3, 3, 0)
    assert installed.states()["tiny"]["last_materialized"] > "2020"
    heading, line = installed.text().splitlines()
    assert heading.split("  ")[0] == "study" and max(len(heading), len(line.rstrip())) <= 100
    assert "tiny   complete  3 of 3         20" in line and line.rstrip().endswith("studies/tiny.yaml")


def test_shards_without_scores_and_shards_scored_before_something_changed_are_counted(installed):
    influence = influence_table("tiny")
    installed.overwrite(influence, "00001", lambda rows: rows.head(0))
    assert installed.tiny() == ("partly scored", 2, 3, 0)
    installed.overwrite(influence, "00002", lambda rows: rows.with_columns(fingerprint=pl.lit("0" * 16)))
    assert installed.tiny() == ("partly scored", 1, 3, 1)
    assert "partly scored  1 of 3, 1 stale" in installed.text()
    installed.write_study("tiny", options={"top_k": 3})  # other options than the scores were made with
    assert installed.tiny() == ("partly scored", 0, 3, 2)


def test_a_study_file_or_queries_that_changed_since_are_told(installed, finished):
    spec = yaml.safe_load((installed.home / "studies/tiny.yaml").read_text())
    for changes in ({"damping": 0.5}, {"methods": ["ekfac"]}):
        installed.write_study("tiny", options=spec["options"] | changes)
        assert installed.tiny() == ("changed since scored", 3, 3, 0)
    installed.write_study("tiny", options=spec["options"])
    queries = (finished.study.parent / "queries.jsonl").read_text().splitlines(keepends=True)
    for lines, state in ((queries, "complete"), (queries[:1], "changed since scored")):
        (installed.home / "studies/queries.jsonl").write_text("".join(lines))
        assert installed.tiny()[0] == state


def test_rankings_that_are_older_than_scores_or_missing_are_told(installed):
    candidates = candidates_table("tiny")
    installed.overwrite(candidates, "00001", lambda rows: rows)  # computed again, and the same
    assert installed.tiny()[0] == "complete"
    kept = installed.lake.scan(candidates, where={"shard": "00001"}).collect()
    installed.overwrite(candidates, "00001", lambda rows: rows.with_columns(fingerprint=pl.lit("0" * 16)))
    assert installed.tiny()[0] == "partly scored"
    other = installed.lake.version(candidates)
    installed.overwrite(candidates, "00001", lambda rows: kept)
    rankings = installed.lake.scan(rankings_table("tiny")).collect().to_arrow()
    inputs = json.dumps({candidates.path: other})  # merged from the other candidates
    installed.lake.overwrite(rankings_table("tiny"), rankings, commit={"inputs": inputs})
    assert installed.tiny()[0] == "rankings older than scores"
    shutil.rmtree(installed.home / "lake/study/tiny/rankings")
    assert installed.tiny()[0] == "no rankings"


def test_a_study_that_was_not_run_or_has_only_begun(installed):
    installed.write_study("later")
    state = installed.states()["later"]
    assert (state["state"], state["shards"], state["last_materialized"]) == ("not run", None, None)
    for table in ("influence", "candidates", "document_norms", "rankings", "query_gradients", "coverage"):
        shutil.rmtree(installed.home / "lake/study/tiny" / table)
    assert installed.tiny() == ("partly scored", 0, 3, 0)


def test_broken_studies_are_told_with_their_lines_and_leave_the_others(installed):
    (installed.home / "studies/bad.yaml").write_text("study: bad\ncorpus: {name: x, pth: y}\n")
    (installed.home / "studies/gone.yaml").symlink_to(installed.home / "elsewhere.yaml")
    clash = installed.write_study("zzz", queries={"name": "tiny", "path": "other.jsonl"})
    states = installed.states()
    assert {name: state["state"] for name, state in states.items()} == {
        "bad": "broken",
        "gone": "broken",
        "tiny": "complete",
        "zzz": "broken",
    }
    assert (
        f"{installed.home}/studies/bad.yaml:2 corpus.pth: is not a known field; did you mean path?"
        in (states["bad"]["problem"])
    )
    assert "points to it; restore the file or remove the link" in states["gone"]["problem"]
    assert states["zzz"]["problem"].startswith(f"{clash}:") and " queries.path: is " in states["zzz"]["problem"]
    text = installed.text()
    assert text.count("  broken  ") == 3 and states["zzz"]["problem"] in text


def test_paths_in_a_linked_study_start_from_where_the_file_lies(installed, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (installed.home / "studies/tiny.yaml").rename(elsewhere / "tiny.yaml")
    (installed.home / "studies/tiny.yaml").symlink_to(elsewhere / "tiny.yaml")
    assert installed.states()["tiny"]["file"] == str(elsewhere / "tiny.yaml")


def test_tables_that_cannot_be_read_are_told_and_leave_the_others(installed):
    installed.write_study("later")
    for path in (installed.home / "lake/study/tiny/rankings/_delta_log").glob("*.json"):
        path.write_text("{")
    states = installed.states()
    assert states["tiny"]["state"] == "its tables cannot be read" and states["tiny"]["problem"].startswith(
        "study tiny: "
    )
    assert states["later"]["state"] == "not run"


def test_without_studies_the_directory_is_named_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "new"))
    result = CliRunner().invoke(app, ["studies"])
    assert result.exit_code == 0 and f"No study files in {tmp_path}/new/studies" in result.stdout
    assert not (tmp_path / "new").exists()
