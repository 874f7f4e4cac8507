"""A query that is in no set, asked of a real study with an index: by the command, from Python and in the explorer."""

from __future__ import annotations

import html
import json
import re
import threading
from dataclasses import replace

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml

from assets.lake.lake import Lake
from assets.study.behind import shards_behind
from assets.study.index_search import estimated_batches
from assets.study.stored_gradients import stored_gradients
from compute.errors import BadInput
from compute.sign_codes import CodeQuery
from orchestration.graph import study_tables
from orchestration.results import Results
from orchestration.studies import read_study
from tests.orchestration.copied_study import copy_of, home_at
from tests.orchestration.explored import links, text_of
from tests.orchestration.test_bounded_memory import failure
from tests.orchestration.test_failures import reported
from tests.orchestration.tiny_study import headwater, records, write_jsonl

INDEX, STATISTICS, AGREEMENT = (
    f"study/tiny/{name}" for name in ("document_index", "index_statistics", "index_agreement")
)
OPTIONS = {"dimensions": 4096, "candidates": 30}
SHARDS = ("00000", "00002")


def with_index(finished, directory, monkeypatch):
    """A copy of the finished study whose file asks for an index; its registered file is the copy's own."""
    monkeypatch.setenv("DAGSTER_HOME", str(directory / "copy/home/dagster"))
    study = copy_of(finished.study, directory)
    file = study.directory / "tiny.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["options"]["index"] = OPTIONS
    file.write_text(yaml.safe_dump(declared))
    registered = study.home.studies / "tiny.yaml"
    registered.unlink()
    registered.symlink_to(file)
    return replace(study, study=read_study(file))


@pytest.fixture(scope="module")
def indexed(finished, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        study = with_index(finished, tmp_path_factory.mktemp("indexed"), patch)
        with study.instance:
            assert study.materialize(INDEX, STATISTICS, shards=SHARDS).success
            assert study.materialize(AGREEMENT).success
            yield study


@pytest.fixture(scope="module")
def scorer(indexed):
    return Results.open(indexed.home).scorer("tiny")


def test_every_document_has_one_row(indexed):
    index, documents = indexed.table(INDEX), indexed.table("corpus/tiny/documents")
    assert index["document_id"].sort().equals(documents["document_id"].sort())
    assert set(index["code"].bin.size()) == {4096 // 8}
    norms = index.join(indexed.table("study/tiny/document_norms"), on="document_id", suffix="_of_pass")
    assert norms["norm"].to_list() == pytest.approx(norms["norm_of_pass"].to_list(), rel=1e-4)
    assert {table.path for table in study_tables(indexed.study)} >= {INDEX, STATISTICS, AGREEMENT}


def test_its_agreement_with_the_scores_is_stored(indexed, scorer):
    opened, influence = scorer.opened, indexed.table("study/tiny/influence").filter(method="ekfac")
    stored = {row["query_id"]: row for row in indexed.table(AGREEMENT).to_dicts()}
    assert stored.keys() == set(influence["query_id"])
    for (method, query_id), gradients in stored_gradients(opened.reading, "tiny").items():
        if method != "ekfac":
            continue
        query = CodeQuery(opened.sketch.of_direction({name: each.dense() for name, each in gradients.items()}))
        estimates = pl.concat(estimated_batches(opened.reading, opened.study, query))
        both = influence.filter(query_id=query_id).join(estimates, on="document_id")
        row, score, estimate = stored[query_id], both["score"].to_numpy(), both["estimate"].to_numpy()
        assert row["documents"] == len(both) and row["proposed"] == 30
        assert row["pearson"] == pytest.approx(np.corrcoef(score, estimate)[0, 1], rel=1e-4)
        assert row["pearson"] > 0.6
        best, proposed = (
            set(np.argsort(-each / both["norm"].to_numpy())[:n]) for each, n in ((score, 10), (estimate, 30))
        )
        assert row["found_normed"] == len(best & proposed) / 10


def test_the_worst_query_is_named(indexed):
    rows = indexed.table(AGREEMENT).sort("found_normed", "pearson")
    event = indexed.instance.get_latest_materialization_event(dg.AssetKey(AGREEMENT.split("/")))
    told, worst = event.asset_materialization.metadata, rows.row(0, named=True)
    assert told["mean pearson"].value == round(rows["pearson"].mean(), 4)
    assert told["worst query"].value == (
        f"{worst['query_id']} (found {worst['found_normed']:.2f}, pearson {worst['pearson']:.4f})"
    )


def test_a_rerun_keeps_what_is_there_and_other_settings_do_not(finished, tmp_path, monkeypatch):
    study = with_index(finished, tmp_path, monkeypatch)
    with study.instance:
        assert shards_behind(study.lake, study.study) == ["00000", "00001", "00002"]
        assert study.materialize(INDEX, shards=SHARDS, reuse=True).success
        assert shards_behind(study.lake, study.study) == []
        first = study.lake.version(_table(study))
        assert study.materialize(INDEX, shards=SHARDS, reuse=True).success
        assert study.lake.version(_table(study)) == first

        write_jsonl(study.directory / "corpus/part9.jsonl", [row | {"id": f"new-{row['id']}"} for row in records()[:5]])
        assert study.materialize("corpus/tiny/shards").success
        new = ("corpus/tiny/records", "corpus/tiny/rejected", "corpus/tiny/tombstones", "corpus/tiny/documents")
        assert study.materialize(*new, shards=("00003",), reuse=True).success
        told = "1 of 4 shards are not in its index as they are now \\(shard 00003 is not indexed\\)"
        with pytest.raises(BadInput, match=told):
            Results.open(study.home).scorer("tiny").find("the cat", " sits")
        assert study.materialize(INDEX, shards=("00000", "00003"), reuse=True).success
        assert study.lake.version(_table(study)) == first + 1  # the new shard alone
        assert_statistics_follow_shard_by_shard(study)

        options = study.study.spec.options.model_copy(update={"damping": 0.2})
        other = replace(
            study, study=replace(study.study, spec=study.study.spec.model_copy(update={"options": options}))
        )
        assert other.materialize(INDEX, shards=("00000", "00003"), reuse=True).success
        assert study.lake.version(_table(study)) == first + 5
        told = "4 of 4 shards .* indexed with another fit, model, text or options"
        with pytest.raises(BadInput, match=told):
            Results.open(study.home).scorer("tiny").find("the cat", " sits")


def assert_statistics_follow_shard_by_shard(study):
    """Of a study with a shard that is indexed and not scored yet."""
    shards = ("00000", "00003")
    told = failure(study.materialize(STATISTICS, shards=shards, reuse=True))
    assert "shard 00003 is indexed, and has no rows in influence; materialize it" in told
    scored = ("influence", "document_norms", "candidates")
    assert study.materialize(*(f"study/tiny/{name}" for name in scored), shards=shards, reuse=True).success
    told = failure(study.materialize(AGREEMENT))
    assert "study/tiny/index_statistics: is not in the lake yet; materialize that asset first" in told
    assert study.materialize(STATISTICS, shards=SHARDS).success
    told = failure(study.materialize(AGREEMENT))
    assert "shard 00003 of its index is not compared with its scores as they are now" in told
    before = study.table(STATISTICS).filter(pl.col("shard") != "00003")
    assert study.materialize(STATISTICS, shards=shards, reuse=True).success
    assert study.table(STATISTICS).filter(pl.col("shard") != "00003").equals(before)
    assert study.lake.last_commit(_table(study, STATISTICS))["partition"] == '{"shard": "00003"}'
    assert study.materialize(AGREEMENT, reuse=True).success
    assert set(study.table(AGREEMENT)["documents"]) == {len(study.table("corpus/tiny/documents"))}


@pytest.mark.slow
def test_shards_are_read_and_written_beside_the_pass(finished, indexed, tmp_path, monkeypatch):
    """One that cannot be written is told of and done again; rows are those of one shard at a time."""
    study, threads, full, usual = with_index(finished, tmp_path, monkeypatch), set(), [True], Lake.overwrite

    def overwrite(lake, table, data, *, where, **options):
        threads.add(threading.current_thread().name.rstrip("_0"))
        if full[0] and where == {"shard": "00001"}:
            raise OSError("no space left on device")
        return usual(lake, table, data, where=where, **options)

    monkeypatch.setattr(Lake, "overwrite", overwrite)
    with study.instance:
        result = study.materialize(INDEX, shards=SHARDS)
        assert "no space left on device" in failure(result)
        assert reported(result, INDEX) == {"00000", "00002"} and threads == {"write-behind"}
        full[0] = False
        assert study.materialize(INDEX, shards=("00001", "00001")).success
        alone, together = (each.table(INDEX).drop("fingerprint") for each in (study, indexed))
        assert alone.sort(alone.columns).equals(together.sort(together.columns))


def _table(study, path=INDEX):
    return next(table for table in study_tables(study.study) if table.path == path)


@pytest.mark.parametrize("ranking", ["raw", "normed"])
def test_what_is_found_is_scored_as_by_the_whole_pass(scorer, ranking):
    asked = scorer.ask("the mountain runs", " to the river")
    whole = scorer.score_query(asked, ranking=ranking, count=10).filter(method="ekfac").collect()
    everything = scorer.find(asked, ranking=ranking, count=10, candidates=1000).collect()
    assert everything["document_id"].to_list() == whole["document_id"].to_list()
    assert everything["score"].to_list() == pytest.approx(whole["score"].to_list(), rel=1e-4)
    assert everything.columns == [*whole.columns, "estimate"]
    usual = scorer.find(asked, ranking=ranking, count=10).collect()
    assert len(usual) == 10 and len(set(usual["document_id"]) & set(whole["document_id"])) >= 7
    assert np.corrcoef(everything["estimate"], everything["score"])[0, 1] > 0.5
    assert len(scorer.find(asked, count=40, candidates=1).collect()) == 40


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s: s.find(" "), "the prompt is empty"),
        (lambda s: s.find("the cat", ""), "the completion is empty; write one, or leave it out"),
        (lambda s: s.find("the cat " * 60), "prompt has 121 tokens, too many for the context of 48"),
        (lambda s: s.find("the cat", " sits", count=0), "count is 0; give at least 1"),
        (lambda s: s.find("the cat", " sits", candidates=0), "candidates is 0; give at least 1"),
        (lambda s: s.find("the cat", " sits", ranking="best"), "there is no ranking best"),
        (
            lambda s: s.find(s.ask("the cat", " sits", methods="dot")),
            "by which the query was not asked; ask it by ekfac",
        ),
        (lambda s: s.find(s.ask("the cat", " sits"), " runs"), "has been asked already, without completion"),
    ],
)
def test_mistakes_are_sentences(scorer, ask, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        ask(scorer)
    assert len(str(caught.value).splitlines()) == 1


def test_without_an_index_it_is_told_how_to_make_one(finished):
    with pytest.raises(BadInput, match=r"has no index of its documents; add options\.index to its file and run it"):
        Results.open(home_at(finished.home)).scorer("tiny").find("the cat")


@pytest.mark.slow
def test_the_command_finds_what_the_whole_pass_finds(finished, indexed):
    told = headwater(finished.home, "ask", "tiny", "--prompt", "the cat")
    assert told.returncode == 1 and len(told.stderr.splitlines()) == 1 and "has no index" in told.stderr
    asked = ("ask", "tiny", "--prompt", "the cat", "--completion", " sits", "--json")
    exact, by_index = headwater(finished.home, *asked, "--exact"), headwater(indexed.home.root, *asked)
    assert (exact.returncode, by_index.returncode) == (0, 0), exact.stderr + by_index.stderr
    answer, found = json.loads(exact.stdout), json.loads(by_index.stdout)
    assert [row["rank"] for row in answer["documents"]] == list(range(1, 11))
    assert {name: found[name] for name in ("prompt", "completion", "generated")} == {
        "prompt": "the cat", "completion": " sits", "generated": False,
    }  # fmt: skip
    assert found["nats"] == pytest.approx(answer["nats"], rel=1e-5)
    assert found["documents"][0]["document_id"] == answer["documents"][0]["document_id"]
    assert found["documents"][0]["score"] == pytest.approx(answer["documents"][0]["score"], rel=1e-4)
    assert found["documents"][0]["estimate"] == pytest.approx(found["documents"][0]["score"], rel=0.5)


def test_the_command_prints_documents(indexed):
    told = headwater(indexed.home.root, "ask", "tiny", "--prompt", r"the\ncat", "-n", 3, "--ranking", "raw")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("the\ncat") and "the model's own completion" in told.stdout
    rows = re.findall(r"^ +([0-9]+)  (r[0-9]+#[0-9])", told.stdout, re.MULTILINE)
    assert [int(rank) for rank, _ in rows] == [1, 2, 3]


@pytest.fixture(scope="module")
def asking(indexed, tmp_path_factory):
    from starlette.testclient import TestClient

    from orchestration.explorer.app import explorer

    results = Results.open(indexed.home)
    return TestClient(explorer(results, tmp_path_factory.mktemp("cache")), base_url="http://127.0.0.1:8265")


def test_the_explorer_asks(asking, scorer):
    form = asking.get("/ask?study=tiny").text
    assert 'name="prompt"' in form and "/document?" not in form
    assert any("/ask?study=tiny" in link for link in links(asking.get("/study?study=tiny").text, "ask"))
    page = asking.get("/ask", params={"study": "tiny", "prompt": "the\r\ncat", "completion": " sits"}).text
    expected = scorer.find("the\ncat", " sits", count=20).collect()
    shown = [html.unescape(each) for each in re.findall(r'href="/document[?]study=tiny&amp;document=([^"]+)"', page)]
    assert sorted(each.replace("%23", "#") for each in shown) == sorted(expected["document_id"])
    assert "the completion given" in text_of(page)
    other = [html.unescape(each) for each in re.findall(r'href="(/ask[?][^"]*ranking=raw)"', page)]
    assert other and asking.get(other[0]).status_code == 200


def test_the_explorer_says_what_is_wrong_over_what_was_written(asking, browser):
    page = asking.get("/ask", params={"study": "tiny", "prompt": "the <cat> " * 60}).text
    assert "too many for the context of 48" in text_of(page) and "the &lt;cat&gt;" in page
    assert asking.get("/ask?study=tine&prompt=a").status_code == 404
    assert asking.get("/ask?study=tiny&prompt=a&ranking=best").status_code == 404
    assert "without study files" in text_of(browser.get("/ask?study=tiny&prompt=the+cat").text)


def test_pages_of_other_sites_do_not_ask(asking):
    address = "/ask?study=tiny&prompt=the+cat"
    foreign = {"sec-fetch-site": "cross-site"}
    assert asking.get(address, headers={**foreign, "sec-fetch-dest": "image"}).status_code == 403
    assert asking.get("/ask?study=tiny", headers={**foreign, "sec-fetch-dest": "document"}).status_code == 200
