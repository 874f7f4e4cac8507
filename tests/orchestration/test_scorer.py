"""One's own texts and queries, scored with what a real run left: the numbers are those of the run itself."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from compute.errors import BadInput
from compute.measured_agreement import AgreementSample
from orchestration.results import Moment, Results
from orchestration.studies import read_study
from tests.orchestration.copied_study import home_at
from tests.orchestration.tiny_study import headwater, write_checkpoint, write_jsonl, write_study

WEIGHT = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
CLOSE = {"rel": 1e-4, "abs": 1e-3}
"""To the rounding of float32 sums of numbers around 100."""


@pytest.fixture(scope="module")
def results(finished):
    return Results.open(home_at(finished.home))


@pytest.fixture(scope="module")
def scorer(results):
    return results.scorer("tiny")


@pytest.fixture(scope="module")
def files_before(finished):
    return stored(finished.home)


def stored(home) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (home / "lake").rglob("*")}


def queries(finished) -> list[dict]:
    """As they are asked for: a completion that the model gave itself is left out."""
    rows = finished.table("study/tiny/completions").to_dicts()
    return [row | {"given": None if row["generated"] else row["completion"]} for row in rows]


def listed(finished, query_id: str) -> pl.DataFrame:
    return finished.table("study/tiny/rankings").filter(query_id=query_id).unique(["method", "document_id"])


def test_texts_of_the_corpus_have_the_scores_of_the_pass(files_before, scorer, finished):
    records = finished.table("corpus/tiny/records").with_row_index("text_number")
    scores = scorer.score_texts(records["text"])
    assert isinstance(scores, pl.LazyFrame)
    of_record = records.select(pl.col("text_number").cast(pl.Int64), "record_id").lazy()
    scores = scores.join(of_record, on="text_number").collect()
    scores = scores.with_columns(document_id=pl.format("{}#{}", "record_id", "window"))
    norms = finished.table("study/tiny/document_norms")
    expected = finished.table("study/tiny/influence").join(norms, on="document_id", suffix="_of_norms")
    keys = ("method", "query_id", "document_id")
    both = scores.join(expected, on=keys, suffix="_stored", validate="1:1")
    assert len(both) == len(scores) == len(expected) and scores["window"].max() > 0
    for name in ("score", "norm", "loss"):
        assert both[name].to_list() == pytest.approx(both[f"{name}_stored"].to_list(), **CLOSE)
    assert both["tokens"].equals(both["tokens_stored"], null_equal=True)
    assert both["normed_score"].to_list() == pytest.approx((both["score"] / both["norm"]).to_list(), rel=1e-5)
    texts = scores.unique(["text_number", "window"]).sort("text_number", "window")
    assert (
        texts.group_by("text_number", maintain_order=True)
        .agg("text")["text"]
        .list.join("")
        .equals(records.sort("text_number")["text"].alias("text"))
    )
    assert stored(finished.home) == files_before


def test_a_texts_score_does_not_depend_on_the_texts_beside_it(scorer):
    short, long = "the cat", "the dog sits on the mat " * 12
    alone = scorer.score_texts(short, source="mine").collect()
    beside = scorer.score_texts([long, short]).filter(text_number=1).collect()
    assert alone["score"].to_list() == pytest.approx(beside["score"].to_list(), **CLOSE)
    assert set(alone["source"]) == {"mine"} and set(beside["source"]) == {None}
    assert len(alone) == len(beside) == 6 and set(alone["window"]) == {0}


def test_a_query_of_the_set_asked_again_has_its_exact_scores(files_before, scorer, finished):
    for query in queries(finished):
        expected = listed(finished, query["query_id"])
        asked = scorer.ask(query["prompt"], query["given"])
        assert (asked.completion, asked.generated) == (query["completion"], query["generated"])
        assert asked.nats == pytest.approx(query["nats"], rel=1e-5)
        found = scorer.score_query(asked, documents=expected["document_id"].unique()).collect()
        both = expected.join(found, on=["method", "document_id"], suffix="_asked", validate="1:1")
        assert len(both) == len(expected)
        assert both["score_asked"].to_list() == pytest.approx(both["exact_score"].to_list(), **CLOSE)
        assert both["norm_asked"].to_list() == pytest.approx(both["norm"].to_list(), **CLOSE)
        for name in ("token_scores", "module_scores"):
            for one, other in zip(both[name], both[f"{name}_asked"], strict=True):
                assert other.to_list() == pytest.approx(one.to_list(), **CLOSE)
        for name in ("tokens", "modules", "source", "text", "likely_spurious"):
            assert both[name].to_list() == both[f"{name}_asked"].to_list()
    assert stored(finished.home) == files_before


def test_a_query_asked_at_the_studys_rank_has_the_scores_of_the_pass(scorer, finished):
    given = queries(finished)[0]
    influence = finished.table("study/tiny/influence").filter(query_id=given["query_id"], method="ekfac")
    some = influence.sort("document_id").head(20)
    found = scorer.score_query(
        given["prompt"], given["given"], documents=some["document_id"], rank=8, methods="ekfac"
    ).collect()
    both = some.join(found, on="document_id", suffix="_asked", validate="1:1")
    assert len(both) == len(found) == 20
    assert both["score_asked"].to_list() == pytest.approx(both["score"].to_list(), **CLOSE)


@pytest.mark.parametrize("ranking", ["raw", "normed"])
def test_without_documents_the_whole_corpus_is_ranked(scorer, finished, ranking):
    asked = scorer.ask("the mountain runs", " to the river")
    everything = finished.table("corpus/tiny/documents")["document_id"].sort()
    of_all = scorer.score_query(asked, documents=everything, ranking=ranking).collect()
    assert len(of_all) == 2 * len(everything)
    order = {"raw": "score", "normed": "normed_score"}[ranking]
    for count, best in (
        (5, scorer.score_query(asked, ranking=ranking)),  # the study's top_k
        (9, scorer.score_query(asked, ranking=ranking, count=9)),
    ):
        for method in ("ekfac", "dot"):
            first = best.filter(method=method).collect()
            expected = of_all.filter(method=method).head(count)
            assert first["document_id"].to_list() == expected["document_id"].to_list()
            assert first[order].is_sorted(descending=True) and first["rank"].to_list() == list(range(1, count + 1))


def test_own_texts_stand_beside_stored_documents(scorer, finished):
    documents = finished.table("corpus/tiny/documents").filter(window=0, tokens=pl.col("tokens").max()).head(2)
    text, other = documents["text"][0], "plus plus plus"
    rows = scorer.score_query("a dog", " sits", documents=documents["document_id"], texts=[other, text]).collect()
    assert list(rows["method"].unique(maintain_order=True)) == ["ekfac", "dot"] and len(rows) == 8
    main = rows.filter(method="ekfac")
    same = main.filter((pl.col("document_id") == documents["document_id"][0]) | (pl.col("text_number") == 1))
    assert len(same) == 2 and same["score"][0] == pytest.approx(same["score"][1], **CLOSE)
    assert same["document_id"].null_count() == 1
    assert main["token_scores"].list.sum().to_list() == pytest.approx(main["score"].to_list(), **CLOSE)
    assert main["score_per_nat"].to_list() == pytest.approx(
        (main["score"] / scorer.ask("a dog", " sits").nats).to_list()
    )


def test_what_was_read_is_named_and_can_be_chosen(scorer, results, finished):
    assert scorer.versions["study/tiny/query_gradients"] == 1
    with pytest.raises(BadInput, match="study/tiny/query_gradients: there is no version 99"):
        results.scorer("tiny", Moment(versions={"study/tiny/query_gradients": 99})).score_texts("the cat")
    with pytest.raises(BadInput, match="no table study/tiny/query_gradient in the lake"):
        results.scorer("tiny", Moment(versions={"study/tiny/query_gradient": 1}))
    again = results.scorer("tiny", Moment(versions={"study/tiny/query_gradients": 1}))
    assert again.score_texts("the cat").collect().equals(scorer.score_texts("the cat").collect())


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s: s.score_texts([]), "there are no texts"),
        (lambda s: s.score_texts(["the cat", " \n"]), r"texts\[1\]: is empty"),
        (lambda s: s.score_texts(["the"]), r"texts\[0\]: has fewer than two tokens"),
        (lambda s: s.score_texts(["the cat", None]), r"texts\[1\]: is no text but NoneType"),
        (lambda s: s.score_texts("the cat\udcff"), r"texts\[0\]: holds bytes that are not UTF-8"),
        (lambda s: s.score_query(" "), "the prompt is empty"),
        (lambda s: s.score_query("the cat\udcff"), "the prompt holds bytes that are not UTF-8"),
        (lambda s: s.score_query("the cat", " sits\udcff"), "the completion holds bytes that are not UTF-8"),
        (lambda s: s.score_query("the cat", 5), "the completion is no text"),
        (lambda s: s.score_query(None), "the prompt is empty, or no text"),
        (lambda s: s.score_query("the cat", ""), "the completion is empty; write one"),
        (lambda s: s.score_query("the cat " * 60), "prompt has 121 tokens, too many for the context of 48"),
        (lambda s: s.score_query("the cat", " sits", methods=["bm25"]), "'bm25' is not known; known are ekfac, dot"),
        (lambda s: s.score_query("the cat", " sits", rank=0), "rank is 0; give at least 1"),
        (lambda s: s.score_query("the cat", " sits", count=0), "count is 0; give at least 1"),
        (lambda s: s.score_query("the cat", " sits", ranking="best"), "there is no ranking best; choose normed or raw"),
        (lambda s: s.score_query("the cat", " sits", documents=[]), "there are no documents"),
        (lambda s: s.score_query("the cat", " sits", documents="no#0"), "corpus tiny: there is no document no#0"),
        (lambda s: s.score_query("the cat", " sits", texts=["a"]), r"texts\[0\]: has fewer than two tokens"),
    ],
)
def test_mistakes_are_sentences(scorer, ask, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        ask(scorer)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("given", [{"completion": " sits"}, {"methods": "dot"}, {"rank": 8}])
def test_what_was_asked_is_not_changed(scorer, given):
    with pytest.raises(BadInput, match=f"has been asked already.*{next(iter(given))}"):
        scorer.score_query(scorer.ask("the cat", " runs"), texts=["the cat"], **given)


def test_a_mistake_is_told_before_the_model_is_loaded(results):
    fresh = results.scorer("tiny")
    for given in ({"documents": ["no#0"]}, {"texts": [""]}):
        with pytest.raises(BadInput):
            fresh.score_query("the cat", " sits", **given)
    assert "curvature/tiny/sample" not in fresh.versions
    fresh.score_query("the cat", " sits", texts=["the cat"])
    assert "curvature/tiny/sample" in fresh.versions


def test_studies_that_cannot_score(finished, results, tmp_path):
    home = home_at(finished.home)
    with pytest.raises(BadInput, match=r"study tine: no study file in .* declares it; did you mean tiny"):
        results.scorer("tine")
    with pytest.raises(BadInput, match=r"open them by Results.open\(\)"):
        Results(results.lake).scorer("tiny")
    unrun = write_study(tmp_path, study="unrun")
    with pytest.raises(BadInput, match="study/unrun/query_gradients: is not in the lake yet"):
        Results.open(replace(home, studies=tmp_path)).scorer("unrun")
    unrun.write_text("study: [")
    unrun.rename(tmp_path / "broken.yaml")
    with pytest.raises(BadInput, match=r"broken.yaml:1: is not valid YAML"):
        Results.open(replace(home, studies=tmp_path)).scorer("broken")


def test_a_study_or_checkpoint_that_changed_since_the_run(copied):
    def opened():
        return Results.open(replace(copied.home, studies=copied.directory)).scorer("tiny")

    opened().score_texts("the cat sits").collect()
    write_checkpoint(copied.directory / "model", seed=1)
    with pytest.raises(BadInput, match=r"model tiny: model.safetensors in .* is not what was traced; restore it"):
        opened().score_texts("the cat sits")
    write_study(copied.directory, options={"damping": 1.0})
    with pytest.raises(BadInput, match=r"study tiny: its query gradients are of other settings.* run it again"):
        opened()


def test_queries_go_through_the_query_side_model(copied, monkeypatch):
    """And documents through the other: the sample's as well, on which low ranks are compared."""
    compared = []

    def noted(model, *others):
        compared.append(model.state_dict())
        return AgreementSample(model, *others)

    monkeypatch.setattr("compute.measured_agreement.AgreementSample", noted)
    write_checkpoint(copied.directory / "tuned", seed=1)
    path = write_study(copied.directory, query_model={"name": "tuned", "path": "tuned"})
    tuned = replace(copied, study=read_study(path))
    before = copied.table("study/tiny/completions")
    done = tuned.materialize("model/tuned/checkpoint", "study/tiny/completions", "study/tiny/query_gradients")
    assert done.success
    base = load_file(copied.directory / "model/model.safetensors")
    assert len(compared) == 1 and torch.equal(compared[0][WEIGHT], base[WEIGHT])
    given = tuned.table("study/tiny/completions").filter(query_id="given").row(0, named=True)
    scorer = Results.open(replace(copied.home, studies=copied.directory)).scorer("tiny")
    asked = scorer.ask(given["prompt"], given["completion"], rank=8)
    assert asked.nats == pytest.approx(given["nats"], rel=1e-5)
    assert asked.nats != pytest.approx(before.filter(query_id="given")["nats"][0], rel=1e-3)
    texts = ["the cat sits on mat", "12 plus 34"]
    by_stored = scorer.score_texts(texts).filter(query_id="given").sort("method", "text_number").collect()
    by_asked = scorer.score_query(asked, texts=texts).sort("method", "text_number").collect()
    assert by_stored["score"].to_list() == pytest.approx(by_asked["score"].to_list(), **CLOSE)


def test_the_command_line(finished, tmp_path):
    write_jsonl(tmp_path / "own.jsonl", [{"text": "the cat sits"}, {"text": "12 plus 34 is"}])
    result = headwater(finished.home, "score", "tiny", "--file", tmp_path / "own.jsonl", "--method", "dot", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert len(rows) == 6 and {row["method"] for row in rows} == {"dot"}
    assert [row["text_number"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row["score"] for row in rows[:3]] == sorted((row["score"] for row in rows[:3]), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny"], "there are no texts; give --text or --file"),
        (["tiny", "--file", "broken.jsonl"], "broken.jsonl:2 cannot be scored: The field 'text' is missing"),
        (["tiny", "--text", "the cat", "--query", "givn"], "there is no query givn; did you mean given"),
        (["tiny", "--text", "the cat\udcff"], "texts[0]: holds bytes that are not UTF-8"),
        (["tiny", "--text", "the", "--method", "ekfca"], "no document is ranked by ekfca; did you mean ekfac"),
    ],
)
def test_mistakes_on_the_command_line(finished, tmp_path, arguments, words):
    write_jsonl(tmp_path / "broken.jsonl", [{"text": "a b"}, {"texts": "a b"}])
    arguments = [str(tmp_path / each) if each.endswith(".jsonl") else each for each in arguments]
    result = headwater(finished.home, "score", *arguments)
    assert result.returncode == 1 and words in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
