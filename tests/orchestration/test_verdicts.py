"""A judge in the findings: an endpoint on this machine, that fails on the way, is asked by a whole study of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from assets.findings.document_rules import read_rules
from assets.findings.judging import KINDS
from orchestration.automation import study_keys
from orchestration.cli import app
from orchestration.graph import study_assets, study_tables
from orchestration.studies import read_study
from tests.assets.test_judge import Endpoint, reply
from tests.orchestration.copied_study import CopiedStudy, home_at
from tests.orchestration.test_automation import ANALYSES, SCORES, Platform
from tests.orchestration.tiny_study import environment, headwater, write_jsonl, write_study

pytestmark = pytest.mark.slow

PATH = "study/tiny/verdicts"
TOP = 4
QUERIES = [
    {"id": "mat", "prompt": "the cat", "completion": " sits on mat", "kind": "factual", "task": "seat",
     "answer": "mat"},
    {"id": "sea", "prompt": "a river", "completion": " runs to the mountain", "kind": "factual", "task": "seat",
     "answer": "sea"},
    {"id": "sum", "prompt": "12 plus 34 is", "completion": " 56", "kind": "reasoning", "task": "sum",
     "answer": "56", "step_answers": ["12 plus 34", "56"]},
    {"id": "other sum", "prompt": "34 plus 12 is", "completion": " 56", "kind": "reasoning", "task": "sum",
     "answer": "12"},
    {"id": "no sum", "prompt": "12 mat 34 is", "completion": " 56", "kind": "control", "task": "sum",
     "answer": "56"},
]  # fmt: skip
ASKED = 5 + 2 + 5  # a query's kind, its answer, and the steps of one
RULES = {
    "rules": [
        {"rule": "talk", "tasks": ["sum"], "kind": "other", "must": ["mountain"], "must_not": ["plus"]},
        {"rule": "sums", "tasks": ["sum"], "kind": "worked_example", "must": ["plus"]},
        {"rule": "seats", "tasks": ["seat"], "kind": "fact", "must": ["sits", "mat"]},
    ]
}


def said(prompt: str) -> str:
    """What the endpoint replies: by the question's own words whether an answer is there, and a kind by a rule of its
    own. Of some documents it says nothing that could be read."""
    before, _, rest = prompt.partition(" begins\n")
    document, _, after = rest.rpartition(" ends\n")
    document = document.rpartition("\n")[0]
    codes = [line.split(":")[0] for line in after.splitlines() if ": " in line]
    if is_vague(document):
        return "It is a nice document."
    if "what kind of document" in prompt:
        return f"{codes[-1]}: {kind_of(document)}"
    question = before.partition("The question is:\n")[2].partition("\n\nThe document stands")[0]
    wanted = question.rpartition(": ")[2].strip()
    return f"{codes[-1]}: {'contains' if wanted in document else 'lacks'}"


def is_vague(document: str) -> bool:
    return len(document) % 4 == 0


def kind_of(document: str) -> str:
    return "worked_example" if "equal" in document else "fact" if "sits" in document else "unrelated"


class Examiner(Endpoint):
    """The endpoint; once `fails_after` questions are answered it refuses the next ones, or hangs on them."""

    def __init__(self) -> None:
        self.fails_after, self.hangs, self.answered = None, False, []
        self.is_hanging, self.release = threading.Event(), threading.Event()
        super().__init__(self.respond)

    def respond(self, body: dict, number: int):
        if self.fails_after is not None and len(self.answered) >= self.fails_after:
            if not self.hangs:
                return 400, {}, {"error": "no credit left"}
            self.is_hanging.set()
            self.release.wait(60)
        prompt = body["messages"][0]["content"]
        self.answered.append((body["model"], prompt))
        return reply(said(prompt))


def findings(endpoint: Examiner, **judge) -> dict:
    asked = {"name": "examiner", "endpoint": endpoint.url, "model": "m", "documents": TOP, "at_once": 1}
    return {"resamples": 100, "depth": 20, "document_rules": "rules.yaml", "judge": asked | judge}


def written(directory, **changes):
    study = write_study(directory, **changes)
    write_jsonl(directory / "queries.jsonl", QUERIES)
    (directory / "rules.yaml").write_text(yaml.safe_dump(RULES))
    return study


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The study, run with a judge that gives up after seven replies, and once more with one that does not."""
    directory = tmp_path_factory.mktemp("verdicts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("DAGSTER_HOME", str(directory / "home/dagster"))
        endpoint = Examiner()
        endpoint.fails_after = 7
        study, home = written(directory, findings=findings(endpoint)), directory / "home"
        failed = headwater(home, "run", study)
        left, endpoint.fails_after = table(home, "verdicts"), None
        result = headwater(home, "run", study)
        assert result.returncode == 0, result.stderr
        first = list(endpoint.answered)
        yield SimpleNamespace(directory=directory, home=home, endpoint=endpoint, failed=failed, left=left, first=first,
                              study=study, table=lambda name: table(home, name))  # fmt: skip
        endpoint.release.set()
        endpoint.close()


def table(home, name: str) -> pl.DataFrame:
    return pl.scan_delta(str(home / "lake/study/tiny" / name)).collect()


def again(run, **judge) -> CopiedStudy:
    """The study with other settings of the judge, to be materialized in this process."""
    study = written(run.directory, findings=findings(run.endpoint, **judge))
    home = home_at(run.home)
    return CopiedStudy(run.directory, read_study(study), home, dg.DagsterInstance.from_config(str(home.dagster)))


def texts(run) -> dict[str, str]:
    documents = pl.scan_delta(str(run.home / "lake/corpus/tiny/documents")).select("document_id", "text")
    return dict(documents.collect().iter_rows())


def test_a_judge_that_fails_keeps_its_replies_and_is_asked_nothing_twice(run):
    assert run.failed.returncode == 1 and "Traceback" not in run.failed.stderr
    sentence = run.failed.stderr.strip().splitlines()[-1]
    assert "judge examiner" in sentence and "no credit left" in sentence
    assert len(run.left) >= 7 and run.left["question"].n_unique() == 7
    assert set(run.left["prompt"]) == {prompt for _, prompt in run.first[:7]}
    rows = run.table("verdicts")
    assert len(rows) == TOP * ASKED and rows["is_current"].all()
    prompts = [prompt for _, prompt in run.first]
    assert len(prompts) == len(set(prompts)) and set(prompts) == set(rows["prompt"])


def test_documents_are_those_at_the_top_and_replies_are_read(run):
    rows, text = run.table("verdicts"), texts(run)
    scores = run.table("influence").filter(method="ekfac").join(run.table("document_norms"), on="document_id")
    normed = scores.with_columns(normed=pl.col("score") / pl.col("norm")).sort("normed", descending=True)
    for query in (each["id"] for each in QUERIES):
        best = set(normed.filter(query_id=query)["document_id"].head(TOP))
        assert set(rows.filter(query_id=query)["document_id"]) == best
    for row in rows.iter_rows(named=True):
        assert row["reply"] == said(row["prompt"]) and text[row["document_id"]] in row["prompt"]
        assert (row["verdict"] == "unclear") == is_vague(text[row["document_id"]])
    assert {"contains", "lacks", "unclear"} <= set(rows["verdict"])


def test_evidence_is_of_the_clear_verdicts(run):
    rows, evidence = run.table("verdicts"), run.table("evidence").filter(analysis="verdicts")
    kinds = rows.filter(pl.col("verdict") != "unclear", analysis=KINDS)
    assert {"factual", "reasoning", "reasoning control"} <= set(evidence["group"])
    means = evidence.filter(pl.col("contrast").is_null(), group="reasoning")
    of = {row["statistic"]: row["estimate"] for row in means.iter_rows(named=True)}
    shares = [
        sum(verdict == "worked_example" for verdict in found) / len(found)
        for query in ("sum", "other sum")
        if (found := kinds.filter(query_id=query)["verdict"].to_list())
    ]
    assert of[f"share of procedural documents, top {TOP}, by examiner"] == pytest.approx(sum(shares) / len(shares))
    answers = rows.filter(analysis="answers")
    answered = []
    for query in ("sum", "other sum"):
        parts = [part["verdict"].to_list() for part in answers.filter(query_id=query).partition_by("part")]
        if all(set(part) != {"unclear"} for part in parts):
            answered.append(all("contains" in part for part in parts))
    assert of[f"answer in the top {TOP}, by examiner"] == pytest.approx(sum(answered) / len(answered))
    assert evidence["chance"].is_nan().all()
    claims = run.table("claims").filter(analysis="verdicts")
    assert set(claims["claim"]) == {
        f"answers, top {TOP}, by examiner", f"procedural documents, top {TOP}, by examiner"
    }  # fmt: skip


def test_agreement_with_the_rules_is_counted_by_hand(run):
    task, text = {each["id"]: each["task"] for each in QUERIES}, texts(run)
    rules, counts = read_rules(run.directory / "rules.yaml"), {}
    for row in run.table("verdicts").filter(analysis=KINDS).iter_rows(named=True):
        if row["verdict"] != "unclear":
            found = rules.classify(text[row["document_id"]])[task[row["query_id"]]]
            kind = found.kind if found and found.kind != "other" else "unrelated"
            counts[row["verdict"], kind] = counts.get((row["verdict"], kind), 0) + 1
    n = sum(counts.values())
    same = sum(count for (one, other), count in counts.items() if one == other) / n
    names = {name for pair in counts for name in pair}
    judged = {name: sum(count for (one, _), count in counts.items() if one == name) / n for name in names}
    ruled = {name: sum(count for (_, other), count in counts.items() if other == name) / n for name in names}
    chance = sum(judged[name] * ruled[name] for name in names)
    told = again(run).instance.get_latest_materialization_event(dg.AssetKey(PATH.split("/")))
    facts = {name: each.value for name, each in told.asset_materialization.metadata.items()}
    assert facts["documents that the rules know of"] == n > 3
    assert facts["agreement with the rules"] == pytest.approx(same)
    assert facts["agreement with the rules (Cohen's kappa)"] == pytest.approx((same - chance) / (1 - chance))
    assert (facts["judge"], facts["asked now"], facts["asked before"]) == ("examiner", len(run.first) - 7, 7)


def test_the_report_has_a_section_of_verdicts(run):
    html = run.table("report")["html"][0]
    assert 'id="verdicts"' in html and "Verdicts of a judge" in html and "examiner" in html
    assert html.index('id="kinds"') < html.index('id="verdicts"') < html.index('id="sources"')


def test_what_was_asked_once_is_never_asked_again(run):
    """Not by a study that asks of fewer documents and then of as many again, nor where all is made anew."""
    before = len(run.endpoint.answered)
    with (fewer := again(run, documents=2)).instance:
        assert fewer.materialize(PATH, reuse=True).success
    rows = run.table("verdicts")
    assert rows["is_current"].sum() == 2 * ASKED and len(rows) == TOP * ASKED
    with (same := again(run)).instance:
        assert same.materialize(PATH, reuse=True).success and same.materialize(PATH).success
    assert run.table("verdicts")["is_current"].all() and len(run.endpoint.answered) == before


def wait_until(condition, seconds: float = 60) -> None:
    """Until it holds, or the time is over: what was expected is asserted by the test itself."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


def test_a_process_that_is_killed_has_written_its_replies(run):
    written(run.directory, findings=findings(run.endpoint, model="newer"))
    code = "import assets.findings.verdicts as v; v.SAVED_EVERY = 5; from orchestration.cli import main; main()"
    run.endpoint.fails_after, run.endpoint.hangs = len(run.endpoint.answered) + 13, True
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(run.study)],
        env=environment(run.home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert run.endpoint.is_hanging.wait(200)
        wait_until(lambda: run.table("verdicts").filter("is_current")["question"].n_unique() == 10)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run.endpoint.fails_after = None
    run.endpoint.release.set()
    rows = run.table("verdicts")
    assert rows.filter("is_current")["question"].n_unique() == 10  # what came after the last five is lost
    assert len(rows.filter(~pl.col("is_current"))) == TOP * ASKED  # those of the other model
    before = len(run.endpoint.answered)
    with (newer := again(run, model="newer")).instance:
        assert newer.materialize(PATH, reuse=True).success
    rows = run.table("verdicts").filter("is_current")
    asked = [prompt for model, prompt in run.endpoint.answered[before:] if model == "newer"]
    assert len(asked) == len(set(asked)) == rows["question"].n_unique() - 10
    assert len(rows) == TOP * ASKED


@pytest.mark.parametrize(
    "judge, words",
    [
        ({"endpoint": "http://127.0.0.1:9/v1", "model": "m", "key_variable": "NO_SUCH_KEY"}, ["NO_SUCH_KEY"]),
        ({"local": {"name": "small", "path": "nowhere"}}, ["small", "nowhere"]),
    ],
)
def test_a_judge_that_cannot_be_asked_is_told_before_any_work(tmp_path, monkeypatch, judge, words):
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    study = write_study(tmp_path, findings={"judge": {"name": "examiner"} | judge})
    result = CliRunner().invoke(app, ["run", str(study)])
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    (sentence,) = result.stderr.strip().splitlines()
    assert all(word in sentence for word in words) and len(sentence) < 400
    assert not (tmp_path / "home/lake").exists()


def test_no_study_has_verdicts_that_does_not_ask(tmp_path):
    judge = {"name": "examiner", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    for section, is_there in (({}, False), ({"judge": judge}, True)):
        study = read_study(write_study(tmp_path, findings=section))
        keys = {key.to_user_string() for definition in study_assets(study) for key in definition.keys}
        assert (PATH in keys) == (PATH in {table.path for table in study_tables(study)}) == is_there
        assert (PATH in {key.to_user_string() for key in study_keys(study)}) == is_there


def test_verdicts_follow_the_statistics_as_the_analyses_do(tmp_path):
    judge = {"name": "examiner", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
    study = read_study(write_study(tmp_path, findings={"judge": judge}, automation={"watch": True}))
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(instance, study)
        instance.add_dynamic_partitions("corpus/tiny", ["00002"])
        for path in ("records", "rejected", "tombstones", "documents"):
            platform.update(f"corpus/tiny/{path}", "00002")
        for path in SCORES:
            platform.update(path, "00002")
        asked = platform.tick(study_keys)
        assert {(PATH, None), *((path, None) for path in ANALYSES)} <= asked
        assert platform.tick(study_keys) == set()
