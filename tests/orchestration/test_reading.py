"""`headwater top` and `headwater show` on the results of a real run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from tests.orchestration.tiny_study import headwater


@pytest.fixture
def run(finished):
    return SimpleNamespace(home=finished.home, rankings=finished.table("study/tiny/rankings"))


def test_top_lists_queries_and_then_documents(run):
    result = headwater(run.home, "top", "tiny")
    assert result.returncode == 0 and "given" in result.stdout and "3 queries" in result.stdout
    for end, flag in (("top", []), ("bottom", ["--bottom"])):
        for ranking in ("raw", "normed"):
            result = headwater(run.home, "top", "tiny", "given", "-n", 3, "--ranking", ranking, "--json", *flag)
            rows = run.rankings.filter(method="ekfac", query_id="given", ranking=ranking, end=end).sort("rank").head(3)
            told = json.loads(result.stdout)
            assert [row["document_id"] for row in told] == rows["document_id"].to_list()
            assert [row["exact_score"] for row in told] == rows["exact_score"].to_list()
    grid = headwater(run.home, "top", "tiny", "given", "-n", 99)
    assert "documents that speak most for it, by ekfac score per norm" in grid.stdout
    assert "5 documents are ranked with exact scores" in grid.stderr


def test_show_gives_text_queries_and_shares(run):
    row = run.rankings.filter(method="dot", query_id="given", ranking="raw", end="top", rank=1).row(0, named=True)
    document = row["document_id"]
    plain = headwater(run.home, "show", "tiny", document)
    assert (
        " ".join(row["text"].split())[:30] in " ".join(plain.stdout.split())
        and "queries that it drives" in plain.stdout
    )
    shares = headwater(run.home, "show", "tiny", document, "--query", "given", "--method", "dot")
    assert f"exact dot score {row['exact_score']:.4g}" in shares.stdout
    largest = max(zip(row["modules"], row["module_scores"], strict=True), key=lambda pair: abs(pair[1]))
    assert f"{largest[1]:+.4g}" in shares.stdout and largest[0] in shares.stdout
    told = json.loads(
        headwater(run.home, "show", "tiny", document, "--query", "given", "--method", "dot", "--json").stdout
    )
    assert told["text"] == row["text"] and told["ranked"][0]["token_scores"] == pytest.approx(row["token_scores"])
    assert len(told["ranked"][0]["tokens"]) == len(told["ranked"][0]["token_scores"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["top", "tine"], "home/studies declares it; did you mean tiny?"),
        (["top", "tiny", "givn"], "there is no query givn; did you mean given"),
        (["top", "tiny", "given", "--method", "bm25"], "no document is ranked by bm25"),
        (["show", "tiny", "nothing#0"], "corpus tiny: there is no document nothing#0"),
        (["export", "tine", "--to", "x"], "study tine: is not in"),
        (["export", "tiny", "--to", "x", "--table", "ranking"], "has no table ranking; did you mean rankings"),
        (["show", "nowhere", "nothing#0"], "study nowhere: no study file in"),
        (["score", "nowhere", "--text", "a"], "study nowhere: no study file in"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, words):
    result = headwater(run.home, *arguments)
    assert result.returncode == 1 and words in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_document_that_is_not_ranked_has_no_shares(run):
    ranked = run.rankings.filter(query_id="given")["document_id"]
    documents = pl.scan_delta(str(run.home / "lake/corpus/tiny/documents")).collect()["document_id"]
    other = documents.filter(~documents.is_in(ranked.implode()))[0]
    result = headwater(run.home, "show", "tiny", other, "--query", "given")
    assert result.returncode == 1 and "is not among the ranked documents of query given" in result.stderr


def test_export_writes_what_people_read(run, tmp_path):
    result = headwater(run.home, "export", "tiny", "--to", tmp_path / "all")
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (tmp_path / "all").iterdir()}
    assert written == {Path(line).name for line in result.stdout.splitlines()}
    assert {"rankings.parquet", "claims.parquet", "completions.parquet", "report.html"} <= written
    exported = pl.read_parquet(tmp_path / "all/rankings.parquet")
    assert exported.sort(pl.all()).equals(run.rankings.drop("fingerprint").sort(pl.all()))
    assert (tmp_path / "all/report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    again = headwater(run.home, "export", "tiny", "--to", tmp_path / "all")
    assert again.returncode == 1 and "holds files already" in again.stderr


def test_export_of_one_table_as_csv(run, tmp_path):
    result = headwater(run.home, "export", "tiny", "--to", tmp_path / "one", "--as", "csv", "--table", "rankings")
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "one").iterdir()
    rows = pl.read_csv(file)
    assert len(rows) == len(run.rankings) and isinstance(json.loads(rows["token_scores"][0]), list)
