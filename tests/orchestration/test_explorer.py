"""The explorer's pages on the results of a real run, as a browser asks for them."""

from __future__ import annotations

import html
import io
import re
import shutil

import polars as pl
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from assets.findings.answer_span import answer_span
from assets.lake.lake import Lake
from assets.lake.stored import stored_table
from orchestration.explorer.app import explorer
from orchestration.explorer.shown import folded, reading
from orchestration.results import Results
from orchestration.results.search import SearchIndex

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31m \u202e"


@pytest.fixture
def results(finished):
    return Results(Lake(uri=str(finished.home / "lake")))


@pytest.fixture
def browser(results, tmp_path):
    return TestClient(explorer(results, tmp_path / "cache"), base_url="http://127.0.0.1:8265")


@pytest.fixture
def changed(finished, tmp_path):
    """A copy of the lake, to be written to."""
    shutil.copytree(finished.home / "lake", tmp_path / "lake")
    return Lake(uri=str(tmp_path / "lake"))


def rewrite(lake: Lake, path: str, change) -> None:
    """The rows of a table without partitions, changed."""
    table = stored_table(lake.place, path)
    frame = change(lake.scan(table).collect())
    lake.overwrite(table, frame.to_arrow().cast(table.schema), commit={"fingerprint": "0" * 16})


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())


def test_from_the_studies_to_a_document(browser, finished):
    page = browser.get("/")
    assert page.status_code == 200 and "3 queries" in text_of(page.text)
    (link,) = re.findall(r'href="(/study[^"]+)"', page.text)
    page = browser.get(html.unescape(link)).text
    links = [html.unescape(each) for each in re.findall(r'href="(/query[^"]+)"', page)]
    assert len(links) == 3
    rankings = finished.table("study/tiny/rankings")
    for link in links:
        page = browser.get(link)
        (query,) = re.findall("query=([^&]+)", link)
        listed = rankings.filter(method="ekfac", query_id=query, ranking="normed", end="top").sort("rank")
        shown = re.findall(r'href="/query[^"]*document=([^"&]+)"', page.text)
        assert page.status_code == 200 and len(shown) == len(listed)
        assert f"score {listed['score'][0]:+.3g}"[:8] in text_of(page.text)
        document = re.search(r'href="(/document[^"]+)"', page.text)[1]
        page = browser.get(html.unescape(document))
        assert " ".join(listed["text"][0].split())[:40] in text_of(page.text)
        assert "Queries that it drives" in page.text


@pytest.mark.parametrize("end", ["top", "bottom"])
@pytest.mark.parametrize("ranking", ["raw", "normed"])
@pytest.mark.parametrize("method", ["dot", "ekfac"])
def test_every_choice_shows_its_own_ranking(browser, finished, method, ranking, end):
    choice = {"method": method, "ranking": ranking, "end": end}
    page = browser.get("/query", params={"study": "tiny", "query": "given", **choice}).text
    rows = finished.table("study/tiny/rankings").filter(query_id="given", **choice).sort("rank")
    heading = re.search(r'<h2><a href="/document[^"]*">([^<]+)</a>', page)[1]
    assert html.unescape(heading) == rows["document_id"][0]
    exported = browser.get("/rows", params={"study": "tiny", "query": "given", "form": "parquet", **choice})
    assert pl.read_parquet(io.BytesIO(exported.content))["document_id"].to_list() == rows["document_id"].to_list()
    exported = browser.get("/rows", params={"study": "tiny", "query": "given", "form": "csv", **choice})
    assert pl.read_csv(exported.content)["rank"].to_list() == rows["rank"].to_list()


def test_the_sql_behind_a_view_gives_its_rows(browser, results, finished):
    page = browser.get("/query", params={"study": "tiny", "query": "given", "end": "bottom"}).text
    found = results.sql(html.unescape(re.search('data-copy="([^"]+)"', page)[1])).collect()
    rows = finished.table("study/tiny/rankings").filter(
        query_id="given", method="ekfac", ranking="normed", end="bottom"
    )
    assert found["document_id"].to_list() == rows.sort("rank")["document_id"].to_list()


def test_filters(browser):
    def shown(**chosen) -> int:
        page = browser.get("/study", params={"study": "tiny", **chosen}).text
        return len(re.findall('href="/query', page))

    assert shown() == 3 and shown(words="no such words") == 0
    assert 0 < shown(kind="factual") < 3
    page = browser.get("/study", params={"study": "tiny", "words": "no such words"})
    assert "No query is like that" in page.text


def test_a_reading_colours_tokens_and_marks_the_answer():
    row = {
        "text": "It is 12, not 7.",
        "tokens": ["It", " is", " 12", ",", " not", " 7", "."],
        "token_scores": [0.0, 0.0, 2.0, 0.0, -1.0, 0.01, 0.0],
        "modules": ["a", "b"],
        "module_scores": [-0.5, 1.51],
    }
    found = reading(row, "7")
    assert [token.level for token in found.tokens] == [0, 0, 5, 0, -4, 0, 0]
    assert [token.text for token in found.tokens if token.is_answer] == [" 7"]
    assert [(module.name, round(module.width)) for module in found.modules] == [("b", 100), ("a", 33)]
    assert not reading(row, "2").has_answer and not reading(row, None).has_answer
    assert [token.text for token in reading(row | {"tokens": ["It"]}, None).tokens] == [row["text"]]


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("the answer is 7.", "7", "7"),
        ("17 or 0.7 or 7.5", "7", None),
        ("New  York City", "new york", "New  York"),
        ("Newark", "new", None),
        ("a-7", "7", None),
        ("Kyōto is", "kyōto", "Kyōto"),
        ("anything", "", None),
    ],
)
def test_where_an_answer_stands(text, answer, found):
    span = answer_span(text, answer)
    assert (text[slice(*span)] if span else None) == found


def test_near_duplicates_are_folded():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    rows = pl.DataFrame({"rank": [1, 2, 3, 4], "text": [long, "something else", f"{long} more", None]})
    assert [(row["rank"], [each["rank"] for each in more]) for row, more in folded(rows)] == [
        (1, [3]),
        (2, []),
        (4, []),
    ]


def test_hostile_text_is_text(changed, tmp_path):
    hostile = lambda frame: frame.with_columns(  # noqa: E731
        text=pl.lit(HOSTILE), tokens=pl.lit([HOSTILE]), token_scores=pl.lit([1.0]), source=pl.lit(HOSTILE)
    )
    rewrite(changed, "study/tiny/rankings", hostile)
    rewrite(changed, "study/tiny/completions", lambda frame: frame.with_columns(prompt=pl.lit(HOSTILE)))
    browser = TestClient(explorer(Results(changed), tmp_path / "cache"), base_url="http://127.0.0.1:8265")
    for address in ("/study?study=tiny", "/query?study=tiny&query=given"):
        page = browser.get(address)
        assert page.status_code == 200 and "<script>alert" not in page.text and "<img src=x" not in page.text
        assert "&lt;script&gt;" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/study?study=nowhere", "there is no study nowhere in the lake; known studies: tiny"),
        ("/query?study=tiny&query=givn", "there is no query givn; did you mean given"),
        ("/query?study=tiny&query=given&method=bm25", "no document is ranked by bm25"),
        ("/query?study=tiny&query=given&ranking=best", "there is no ranking best"),
        ("/query?study=tiny&query=given&document=nothing", "document nothing is not listed for query given"),
        ("/query?study=tiny&query=given&beside=nowhere", "study nowhere: there is no table completions of it"),
        ("/document?study=tiny&document=nothing", "corpus tiny: there is no document nothing"),
        ("/figure?study=tiny&name=../../etc/passwd", "there is no figure"),
        ("/rows?study=tiny&query=given&form=exe", "there is no form exe"),
        ("/query", "the address is not one of the explorer's"),
        ("/nowhere", "there is no page /nowhere"),
        ("/study?study=<script>alert(1)</script>", "there is no study <script>alert(1)</script>"),
    ],
)
def test_what_is_not_there_is_a_sentence(browser, address, words):
    page = browser.get(address)
    assert page.status_code == 404 and words in text_of(page.text.replace("&lt;", "‹")).replace("‹", "<")
    assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"host": "evil.example"}, "GET"),
        ({"host": "evil.example:8265"}, "GET"),
        ({"host": "127.0.0.1.evil.example"}, "GET"),
        ({"origin": "http://evil.example"}, "GET"),
        ({"origin": "null"}, "GET"),
        ({}, "POST"),
        ({}, "DELETE"),
    ],
)
def test_strangers_are_refused(browser, headers, method):
    page = browser.request(method, "/", headers=headers)
    assert page.status_code == 403 and "tiny" not in page.text


def test_findings_and_report(browser, finished):
    page = browser.get("/findings?study=tiny").text
    names = re.findall('/figure[^"]*name=([a-z_]+)', page)
    assert {"correlation", "magnitude", "power_law", "answers", "sources", "claims"} <= set(names)
    figure = browser.get("/figure?study=tiny&name=magnitude")
    assert figure.headers["content-type"] == "image/png" and figure.content.startswith(b"\x89PNG")
    report = browser.get("/report?study=tiny")
    assert report.text == finished.table("study/tiny/report")["html"][0]
    assert "unsafe-inline" in report.headers["content-security-policy"]


def test_search_finds_words_and_rows_of_words(browser, finished):
    documents = finished.table("corpus/tiny/documents")
    first = documents.row(0, named=True)
    words = re.findall(r"[a-z]+", first["text"].lower())[:2]
    page = browser.get("/search", params={"study": "tiny", "words": " ".join(words)})
    assert page.status_code == 200 and "<mark>" in page.text
    for each in ("no-such-word-at-all", '"', "AND OR NOT (", "*", "a" * 1_500):
        page = browser.get("/search", params={"study": "tiny", "words": each})
        assert page.status_code == 200


def test_an_index_follows_the_corpus_shard_by_shard(changed, tmp_path):
    index = SearchIndex(Results(changed), "tiny", tmp_path / "cache")
    everything = index.behind()
    assert list(index.update()) == everything and index.behind() == [] and index.find("zebra") == []
    table, shard = index.table, everything[-1]
    frame = changed.scan(table, where={"shard": shard}).collect().head(2)
    frame = frame.with_columns(text=pl.lit("a zebra crossed"), fingerprint=pl.lit("f" * 16))
    rows = pa.table(frame.to_arrow()).cast(table.schema)
    changed.overwrite(table, rows, where={"shard": shard}, commit={"fingerprint": "f" * 16})
    assert index.behind() == [shard]
    assert list(index.update()) == [shard]
    assert {hit.document_id for hit in index.find("Zebra")} == set(frame["document_id"])
    assert index.find("zebra")[0].parts == ("a ", "zebra", " crossed")
    assert index.find('"crossed zebra"') == [] and len(index.find('"zebra crossed"')) == 2
    assert len(index.find("a", most=10_000)) <= changed.count(table)


def test_an_empty_lake(tmp_path):
    browser = TestClient(explorer(Results(Lake(uri=str(tmp_path / "none"))), tmp_path), base_url="http://localhost:1")
    page = browser.get("/")
    assert page.status_code == 200 and "holds no study yet" in page.text
