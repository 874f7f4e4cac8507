"""The Dagster code location: quick to load, the same assets as the command line's, and robust against one bad study."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from compute.errors import BadInput
from orchestration.definitions import headwater
from orchestration.home import OVERRIDES
from tests.orchestration.tiny_study import environment, write_study

ROOT = Path(__file__).parents[2]
SECONDS_TO_LOAD = 3
SECONDS_TO_IMPORT_DAGSTER = 0.6  # where nothing else runs; with the interpreter's own start

LOAD = """
import sys
from orchestration.definitions import headwater
definitions = headwater()
heavy = [name for name in ("torch", "transformers", "mlflow", "altair", "datasets") if name in sys.modules]
assert not heavy, heavy
graph = definitions.resolve_asset_graph()
print(*sorted(key.to_user_string() for key in graph.get_all_asset_keys()))
"""

KEYS = {
    "corpus/tiny/source",
    "corpus/tiny/shards",
    "corpus/tiny/records",
    "corpus/tiny/rejected",
    "corpus/tiny/tombstones",
    "corpus/tiny/tokenizer",
    "corpus/tiny/documents",
    "model/tiny/checkpoint",
    "queries/tiny/queries",
    "curvature/tiny/sample",
    "curvature/tiny/covariances",
    "curvature/tiny/eigenbasis",
    "curvature/tiny/eigenvalues",
    "study/tiny/completions",
    "study/tiny/query_gradients",
    "study/tiny/influence",
    "study/tiny/document_norms",
    "study/tiny/candidates",
    "study/tiny/coverage",
    "study/tiny/influence_by_query",
    "study/tiny/rankings",
    "study/tiny/score_statistics",
    "study/tiny/source_statistics",
    "study/tiny/answer_statistics",
    "study/tiny/correlation",
    "study/tiny/magnitude",
    "study/tiny/power_law",
    "study/tiny/answers",
    "study/tiny/sources",
    "study/tiny/evidence",
    "study/tiny/claims",
    "study/tiny/report",
}


def load(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LOAD], env=environment(home), capture_output=True, text=True)


def test_every_stage_is_an_asset_and_nothing_heavy_is_imported(tmp_path):
    (tmp_path / "home/studies").mkdir(parents=True)
    (tmp_path / "home/studies/tiny.yaml").symlink_to(write_study(tmp_path))
    result = load(tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == KEYS


def test_a_bad_study_is_reported_and_leaves_the_others_working(tmp_path):
    (tmp_path / "home/studies").mkdir(parents=True)
    (tmp_path / "home/studies/tiny.yaml").symlink_to(write_study(tmp_path))
    (tmp_path / "home/studies/bad.yaml").write_text("study: bad\ncorpsu: {}\n")
    result = load(tmp_path / "home")
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == KEYS | {"study/bad"}  # shown with what is wrong
    assert "bad.yaml:2 corpsu" in result.stderr


STUDY = """\
study: {study}
corpus: {{name: {part}, path: corpus/*.jsonl}}
model: {{name: {part}, path: model}}
curvature: {{name: {part}}}
queries: {{name: {part}, path: queries.jsonl}}
automation: {{watch: true, catch_up: "@daily"}}
"""


@pytest.fixture
def location(tmp_path, monkeypatch):
    """The definitions of this home, loaded in this process; `location.study` writes a study file."""
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    for name in (*OVERRIDES, "HEADWATER_MAINTENANCE", "HEADWATER_RETENTION_HOURS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "studies").mkdir()
    return Location(tmp_path / "studies")


@dataclass(frozen=True)
class Location:
    studies: Path

    def study(self, name: str, part: str = "tiny", more: str = "") -> None:
        (self.studies / f"{name}.yaml").write_text(STUDY.format(study=name, part=part) + more)

    def load(self) -> dg.Definitions:
        definitions = headwater()
        dg.Definitions.validate_loadable(definitions)
        return definitions


def jobs(definitions: dg.Definitions) -> set[str]:
    return {job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")}


def left_out(definitions: dg.Definitions, group: str = "studies_left_out") -> dict[str, str]:
    """What is shown of each thing that is left out, by asset key."""
    specs = definitions.resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec.description for spec in specs if spec.group_name == group}


WORDS = ("input", "for", "class", "context", "lake_maintenance", "maintain_tables", "lineage", "1st", "a" * 100)


def test_no_word_is_wrong_as_a_name(location):
    """Neither those that Dagster and Python keep for themselves, nor those that other definitions have."""
    for word in WORDS:
        location.study(word, word)
    definitions = location.load()
    assert jobs(definitions) == {"lake_maintenance", *(f"study_{word}" for word in WORDS)}
    assert left_out(definitions) == {}


@pytest.mark.parametrize("suffix", ["influence", "score", "catch_up", "catch_up_shards", "completions"])
def test_a_study_may_be_called_like_a_part_of_another(location, suffix):
    for name in ("a", f"a_{suffix}", f"study_a_{suffix}", f"a__{suffix}"):
        location.study(name)
    definitions = location.load()
    assert left_out(definitions) == {} and {"study_a", f"study_a_{suffix}"} <= jobs(definitions)


def test_what_is_left_out_is_shown_each_by_itself_and_the_rest_works(location):
    location.study("good")
    location.study("x-y")
    location.study("x_y")  # one name to Dagster
    location.study("z", "ti-ny")
    location.study("zz", "ti_ny")  # and the names of parts
    location.study("owned", more="owners: [a@b.c.]\n")
    for name in ("bad.yaml", "bad.yml", "bad_2.yaml", "a b.yaml", "a_b.yaml", "good.yml", "ä.yaml", "ö.yaml"):
        (location.studies / name).write_text(f"study: [ # {name}\n")
    with open(os.fsencode(location.studies) + b"/\xff.yaml", "w") as file:
        file.write("study: [\n")
    definitions = location.load()
    assert jobs(definitions) == {"lake_maintenance", "study_good", "study_x_y", "study_z"}
    shown = left_out(definitions)
    assert len(shown) == 12 and len({description for description in shown.values()}) == 12
    assert all(description.encode() and "Mend the file" in description for description in shown.values())
    assert {"study/bad", "study/good", "study/x_y", "study/zz", "study/owned"} <= set(shown)
    assert dg.AssetKey(["study", "good", "rankings"]) in definitions.resolve_asset_graph().get_all_asset_keys()


def test_a_study_that_only_dagster_refuses_is_left_out_too(location, monkeypatch):
    """A check that nobody thought of: here, that of owners."""
    monkeypatch.setattr("orchestration.studies.check_names", lambda document, spec: None)
    location.study("good")
    location.study("owned", "other", more="owners: [a@b.c.]\n")
    definitions = location.load()
    assert jobs(definitions) == {"lake_maintenance", "study_good"}
    (sentence,) = left_out(definitions).values()
    assert "owned.yaml: Dagster refuses what it declares: Invalid owner 'a@b.c.'" in sentence


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADWATER_MAINTENANCE", "weekly"), ("HEADWATER_RETENTION_HOURS", "a month")]
)
def test_a_bad_setting_leaves_out_the_maintenance_alone(location, monkeypatch, variable, value):
    location.study("good")
    assert "lake_maintenance_weekly" in {schedule.name for schedule in location.load().schedules}
    monkeypatch.setenv(variable, value)
    definitions = location.load()
    assert jobs(definitions) == {"study_good"}
    assert {schedule.name for schedule in definitions.schedules} == {"study_good_catch_up"}
    (sentence,) = left_out(definitions, "settings_left_out").values()
    assert f"{variable}: '{value}' is no " in sentence


def test_a_place_that_cannot_be_found_is_the_sentence_that_the_location_shows(location, monkeypatch):
    monkeypatch.setenv("HEADWATER_STUDIES", "~nobody-of-that-name")
    with pytest.raises(BadInput, match=r"^HEADWATER_STUDIES: ~nobody-of-that-name leads nowhere") as caught:
        headwater()
    assert caught.value.__context__ is caught.value.__cause__  # no other error before it in what Dagster prints


def test_a_run_of_a_studys_job_carries_the_studys_own_name(location):
    location.study("my-study")
    assert location.load().resolve_job_def("study_my_study").tags["headwater/study"] == "my-study"


def test_a_real_code_server_takes_them(location, tmp_path):
    """All of it is sent to the web server: half a character would end there what loads here."""
    location.study("class", "for")
    location.study("a-b")
    location.study("a_b")
    for name in (b"bad.yaml", b"bad.yml", b"\xff.yaml"):
        with open(os.fsencode(location.studies) + b"/" + name, "w") as file:
            file.write("study: [\n")
    command = [sys.executable, "-m", "dagster", "job", "list", "-m", "orchestration.definitions"]
    result = subprocess.run(command, env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    listed = {line.removeprefix("Job: ") for line in result.stdout.splitlines() if line.startswith("Job: ")}
    assert {"study_class", "study_a_b", "lake_maintenance"} <= listed


@pytest.mark.parametrize("studies", [1, 10])
def test_definitions_load_in_under_three_seconds(location, tmp_path, studies):
    for number in range(studies):
        location.study(f"s{number}", f"part{number}")
    took = []
    while len(took) < 3 and min(took, default=SECONDS_TO_LOAD) >= SECONDS_TO_LOAD:
        seconds, result = timed(lambda: load(tmp_path))
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("/rankings") == studies
        # Processors are slower while others work on the same cores: the import of Dagster alone tells by how much.
        imported, _ = timed(lambda: subprocess.run([sys.executable, "-c", "import dagster"], check=True))
        took.append(seconds * min(1, SECONDS_TO_IMPORT_DAGSTER / imported))
    assert min(took) < SECONDS_TO_LOAD, took


def timed(work):
    """Seconds, and what the work gives. On a busy machine it waits for its turn: then what it works is less."""
    start, worked = time.perf_counter(), processor_seconds()
    result = work()
    return min(time.perf_counter() - start, processor_seconds() - worked), result


def processor_seconds() -> float:
    """What the processes that this one has started and waited for have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
