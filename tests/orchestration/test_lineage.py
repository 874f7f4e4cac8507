"""`headwater lineage`: one influence row, followed to its source file through a real run's tables."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from assets.corpus.documents import documents_table
from assets.corpus.records import records_table
from assets.lake.columns import STAMP
from assets.lake.lake import Lake
from assets.lake.log import TableLog
from assets.lake.maintenance import maintain_lake, table_paths
from assets.model.checkpoint import checkpoint_table
from assets.specs.methods import METHODS
from assets.specs.mistakes import known_methods
from assets.specs.model import ModelSpec
from assets.step.fingerprints import fingerprint
from assets.study.influence import influence_table
from orchestration.cli import app
from orchestration.home import OVERRIDES
from orchestration.lineage import Lineage, trace
from orchestration.lineage_facts import _slice, add_facts
from tests.orchestration.tiny_study import headwater

ASKED = ("tiny", "given", "r40#0")
INFLUENCE = "study/tiny/influence"


@dataclass
class Copy:
    """The finished run's home, to be changed."""

    home: Path
    lake: Lake

    def ask(self, *arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, ["lineage", *arguments])
        assert result.exit_code == int(fails), result.stderr
        assert bool(result.stdout) != fails
        return result.stderr if fails else result.stdout

    def json(self, *arguments: str) -> dict:
        return json.loads(self.ask(*(arguments or ASKED), "--json"))

    def origins(self) -> dict[str, dict]:
        return {origin["id"]: origin for origin in self.json()["origins"]}

    def log(self, path: str) -> TableLog:
        return TableLog(self.lake.place, path)


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> Copy:
    for name in ("HEADWATER_HOME", "DAGSTER_HOME", *OVERRIDES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    shutil.copytree(finished.home, home)
    monkeypatch.setenv("HEADWATER_HOME", str(home))
    return Copy(home, Lake(uri=str(home / "lake")))


def test_all_methods_are_named_where_an_unknown_one_is_asked_for():
    named = known_methods("nope", METHODS)
    assert named == f"known methods: {', '.join(sorted(METHODS))}" and len(METHODS) > 3
    assert known_methods("ekfak", METHODS).startswith("did you mean ekfac") and known_methods("a", []) == "no methods"


def test_a_person_sees_the_row_where_it_came_from_and_where_to_look(copy):
    text = copy.ask(*ASKED)
    assert re.match(r"ekfac score of document r40#0 for query given in study tiny: [+-]?[\d.e-]+\n", text)
    for line in (
        "query       given, read from queries.jsonl:1",
        "completion  “sits on mat” (given, ",
        "window 0 of record r40, ",
        "read from   corpus/part1.jsonl:11",
        "shard 00001: rows 1–30 of part1.jsonl, digest ",
        "model       tiny (from model), model.safetensors sha256 ",
        "curvature   tiny, fitted on a sample of 60 documents, drawn at their version ",
        "Dagster  http://127.0.0.1:3000/runs/",
        "MLflow   http://127.0.0.1:5000/#/experiments/",
    ):
        assert line in text
    tree = text[text.index("what it came from") : text.index("Dagster  http")].splitlines()
    assert tree[1].startswith("study/tiny/influence[00001]  ") and max(map(len, tree)) <= 100
    for table in ("query_gradients", "completions", "queries", "eigenvalues", "eigenbasis", "covariances", "sample"):
        assert any(f"/{table}  " in line for line in tree), table
    for table in (
        "documents[00001]",
        "records[00001]",
        "documents[all]",
        "corpus/tiny/shards",
        "model/tiny/checkpoint",
    ):
        assert any(table in line for line in tree), table


def test_the_versions_that_it_names_can_be_read(copy):
    text = copy.ask(*ASKED)
    path, version = re.search(r'pl\.scan_delta\("(.*)", version=(\d+)\)', text).groups()
    row = pl.scan_delta(path, version=int(version)).filter(query_id="given", document_id="r40#0", method="ekfac")
    assert f"{row.collect()['score'].item():.4g}" in text
    for origin in copy.json()["origins"]:
        frame = pl.scan_delta(origin["path"], version=origin["version"])
        where = {"shard": origin["shard"]} if origin["shard"] not in (None, "all") else {}
        stamps = frame.filter(**where).select(STAMP.name).unique().collect()[STAMP.name].to_list()
        assert origin["fingerprint"] in stamps


def test_every_origin_is_the_commit_that_wrote_what_was_read(copy):
    answer = copy.json()
    origins = {origin["id"]: origin for origin in answer["origins"]}
    influence = answer["origins"][0]
    commit = copy.log(INFLUENCE).entry(influence["version"])
    assert commit.partition == {"shard": "00001"} and answer["fingerprint"] == influence["fingerprint"]
    read = {each["id"].split("[")[0].split("@")[0]: each["version_read"] for each in influence["inputs"]}
    assert read == commit.inputs
    for origin in origins.values():
        assert origin["dagster_run_id"] in origin["dagster_url"] and origin["mlflow_run_id"] in origin["mlflow_url"]
        assert origin["code_version"].isdigit() and origin["written_at"]
        for each in origin["inputs"]:
            assert origins[each["id"]]["version"] <= each["version_read"]


def test_the_document_is_followed_to_its_line_in_the_source(copy, finished):
    shards = next(origin for origin in copy.json()["origins"] if origin["table"] == "corpus/tiny/shards")
    facts = shards["facts"]
    assert (facts["file"], facts["first_row"], facts["last_row"]) == ("part1.jsonl", 1, 30)
    records = next(origin for origin in copy.json()["origins"] if origin["id"].startswith("corpus/tiny/records[00001]"))
    file, line = records["facts"]["location"].split(":")
    record = json.loads((finished.study.parent / file).read_text().splitlines()[int(line) - 1])
    assert record["id"] == "r40"


def test_maintenance_changes_no_answer(copy):
    before = copy.json()
    for path in table_paths(copy.lake):
        old = {"delta.deletedFileRetentionDuration": "interval 1 hours"}
        DeltaTable(f"{copy.lake.uri}/{path}").alter.set_table_properties(old)
    maintain_lake(copy.lake)
    after = copy.json()
    assert after.pop("version") > before.pop("version")  # the newest one
    assert after == before


def test_commits_from_before_they_named_their_partition_are_told_apart_too(copy):
    before = copy.json()
    for path in (copy.home / "lake").rglob("_delta_log/*.json"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line.get("commitInfo", {}).pop("partition", None)
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    assert copy.json() == before


def rewrite(lake: Lake, table, shard: str, *, text: str | None = None) -> None:
    """A later run replaces a shard."""
    rows = lake.scan(table, where={"shard": shard}).collect()
    if text is not None:
        rows = rows.with_columns(text=pl.lit(text))
    commit = {"dagster_run_id": "later", "inputs": "{}", "partition": json.dumps({"shard": shard})}
    lake.overwrite(table, rows.to_arrow(), where={"shard": shard}, commit=commit)


def test_what_was_replaced_since_is_told_as_it_was_read(copy):
    before = copy.json()
    for table in (documents_table("tiny"), records_table("tiny")):
        rewrite(copy.lake, table, "00001", text="another text")
    assert copy.json() == before
    rewrite(copy.lake, influence_table("tiny"), "00002")  # another shard of the table
    assert copy.json()["origins"] == before["origins"]
    rewrite(copy.lake, influence_table("tiny"), "00001")
    assert copy.json()["origins"][0]["dagster_run_id"] == "later"


def test_when_rows_are_gone_the_commits_are_still_told(copy):
    before = copy.origins()
    rewrite(copy.lake, documents_table("tiny"), "00001")
    newest = copy.lake.scan(documents_table("tiny"), where={"shard": "00001"})
    kept = {Path(name).name for name in _files_of(copy, documents_table("tiny"))}
    for path in (copy.home / "lake/corpus/tiny/documents/shard=00001").glob("*.parquet"):
        if path.name not in kept:
            path.unlink()
    assert len(newest.collect())
    after = copy.origins()
    assert after.keys() == before.keys()
    gone = next(id for id in after if id.startswith("corpus/tiny/documents[00001]"))
    assert before[gone]["facts"]["record_id"] == "r40" and after[gone]["facts"] == {}
    assert after[gone]["dagster_run_id"] == before[gone]["dagster_run_id"]
    text = copy.ask(*ASKED)
    assert "  document  " not in text and "read from   corpus/part1.jsonl:11" in text  # by the record's id


def _files_of(copy: Copy, table) -> list[str]:
    return DeltaTable(str(copy.home / "lake" / table.path)).file_uris()


def test_a_log_that_no_longer_reaches_back_is_said(copy):
    shutil.rmtree(copy.home / "lake/queries")
    text = copy.ask(*ASKED)
    assert re.search(r"queries/tiny/queries +\? +its commit is gone", text)


def test_a_hub_models_revision_is_told_where_the_fingerprint_proves_it(tmp_path):
    lake, table = Lake(uri=str(tmp_path / "lake")), checkpoint_table("big")
    files = {"model.safetensors": {"bytes": 5, "sha256": "ab" * 32}}
    stamp = fingerprint("checkpoint", "1", "someone/big", "v1", files)
    row = {"file": "model.safetensors", "block": 0, "content": None, "location": "someone/big", "fingerprint": stamp}
    data = pa.Table.from_pylist([row | files["model.safetensors"]], schema=table.schema)
    lake.overwrite(table, data, commit={"code_version": "1", "fingerprint": stamp, "inputs": "{}"})
    influence = influence_table("s")
    scores = {
        "shard": "0",
        "method": "dot",
        "query_id": "q",
        "document_id": "d#0",
        "score": 1.0,
        "fingerprint": "f" * 16,
    }
    commit = {"inputs": json.dumps({table.path: lake.version(table)}), "partition": '{"shard": "0"}'}
    data = pa.Table.from_pylist([scores], schema=influence.schema)
    lake.overwrite(influence, data, where={"shard": "0"}, commit=commit)
    for revision, told in (("v1", "v1"), ("v2", None)):
        lineage = trace(lake, "s", "q", "d#0", "dot")
        add_facts(lake, lineage, [ModelSpec(name="big", hub="someone/big", revision=revision)])
        assert lineage.of("checkpoint")[0].facts.get("revision") == told
        assert lineage.of("checkpoint")[0].facts["files"] == files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tinny", "given", "r40#0"), "study tinny: has no scores in the lake .*; did you mean tiny\\?"),
        (("zzz", "given", "r40#0"), "study zzz: .*; known studies with scores: tiny"),
        (("tiny", "givn", "r40#0"), "study tiny: has no query 'givn'; did you mean given\\?"),
        (("tiny", "zzz", "r40#0"), "has no query 'zzz'; known queries: given, own, plain"),
        (("tiny", "given", "r40"), "has no scores of document 'r40'; did you mean r40#[01].*\\?"),
        (("tiny", "given", "r40#77"), "has no scores of document 'r40#77'; did you mean r40#"),
        (("tiny", "given", "zzz"), "has no scores of document 'zzz'; no documents like it"),
        (("tiny", "given", "r40#0", "--method", "ekfca"), "has no scores by method 'ekfca'; did you mean ekfac\\?"),
        (("tiny", "given", "r40#0", "--method", "bm25"), "by method 'bm25'; known methods: dot, ekfac"),
    ],
)
def test_what_is_not_there_is_one_sentence_with_near_matches(copy, arguments, sentence):
    stderr = copy.ask(*arguments, fails=True)
    assert re.match(f"headwater: .*{sentence}", stderr) and stderr.count("\n") == 1


def test_a_document_that_is_not_scored_yet_says_so(copy):
    table = influence_table("tiny")
    lake_rows = copy.lake.scan(table, where={"shard": "00001"}).collect().to_arrow().slice(0, 0)
    copy.lake.overwrite(table, lake_rows, where={"shard": "00001"}, commit={"inputs": '{"corpus/tiny/documents": 3}'})
    stderr = copy.ask(*ASKED, fails=True)
    assert "document r40#0 of shard 00001 is not scored for query given yet; materialize study/tiny/influence" in stderr


def test_without_a_lake_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "nowhere"))
    result = CliRunner().invoke(app, ["lineage", *ASKED])
    assert result.exit_code == 1 and "study tiny: has no scores in the lake" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_command_is_quick_to_start_and_needs_no_torch(finished):
    result = headwater(finished.home, "lineage", *ASKED)
    assert result.returncode == 0 and result.stderr == ""
    code = "import sys, orchestration.lineage_page, orchestration.run_pages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_slice_of_a_record_is_found_by_file_and_row():
    common = {"records": 5, "digest": "d", "bytes": 1, "mtime_ns": 1, "state": "present"}
    slices = [
        {"file": "a.jsonl", "start": 0, "stop": 10, **common},
        {"file": "a.jsonl", "start": 10, "stop": 20, **common},
        {"file": "deep/b.parquet", "start": 0, "stop": 10, **common},
        {"file": "c: d.txt", "start": 0, "stop": 1, **common},
    ]

    def found(location: str) -> tuple:
        facts = _slice(slices, location)
        return facts.get("file"), facts.get("first_row")

    assert found("data/a.jsonl:10") == ("a.jsonl", 1) and found("data/a.jsonl:11") == ("a.jsonl", 11)
    assert found("deep/b.parquet row 10") == ("deep/b.parquet", 1) and found("b.parquet row 1")[0] == "deep/b.parquet"
    assert found("texts/c: d.txt") == ("c: d.txt", 1)
    assert found("a.jsonl:21") == found("aa.jsonl:1") == found("") == (None, None)


def test_a_table_computed_from_its_own_earlier_version_does_not_go_on_for_ever(tmp_path):
    lake, influence = Lake(uri=str(tmp_path / "lake")), influence_table("s")
    row = {"shard": "0", "method": "dot", "query_id": "q", "document_id": "d#0", "score": 1.0, "fingerprint": "f" * 16}
    data = pa.Table.from_pylist([row], schema=influence.schema)
    for _ in range(2):
        commit = {"inputs": json.dumps({influence.path: 1}), "partition": '{"shard": "0"}'}
        lake.overwrite(influence, data, where={"shard": "0"}, commit=commit)
    lineage = trace(lake, "s", "q", "d#0", "dot")
    assert isinstance(lineage, Lineage) and len(lineage.origins) == 1
