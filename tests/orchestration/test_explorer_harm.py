"""Hostile text, strangers, damaged and empty tables: a sentence, and nothing is harmed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import polars as pl
import pytest

from assets.findings.bm25 import bm25_table
from assets.lake.lake import Lake
from assets.lake.stored import stored_table
from orchestration.explorer import study_page
from tests.orchestration.explored import explore, links, rewrite, text_of

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31m \u202e"


def hostile(frame: pl.DataFrame) -> pl.DataFrame:
    """Every text that a corpus, a query set or a model may bring."""
    given = {"prompt", "completion", "text", "source", "kind", "task", "answer"} & set(frame.columns)
    return frame.with_columns(pl.lit(HOSTILE).alias(name) for name in given)


def renamed(column: str, old: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(pl.col(column).replace(old, HOSTILE))


def test_hostile_text_is_text(changed, tmp_path):
    document = changed.scan(stored_table(changed.place, "study/tiny/rankings")).collect()["document_id"][0]
    for name in ("rankings", "completions"):
        rewrite(changed, f"study/tiny/{name}", hostile)
        rewrite(changed, f"study/tiny/{name}", renamed("query_id", "given"))
    tokens = {"tokens": pl.lit([HOSTILE]), "token_scores": pl.lit([1.0]), "modules": pl.lit([HOSTILE] * 4)}
    rewrite(changed, "study/tiny/rankings", lambda frame: frame.with_columns(**tokens))
    rewrite(changed, "study/tiny/rankings", renamed("document_id", document))
    table = stored_table(changed.place, "corpus/tiny/documents")
    for shard in changed.partition_rows(table):
        frame = hostile(changed.scan(table, where={"shard": shard}).collect())
        commit = {"fingerprint": "f" * 16}
        changed.overwrite(table, frame.to_arrow().cast(table.schema), where={"shard": shard}, commit=commit)
    browser = explore(changed, tmp_path / "cache")
    beside = {"study": "tiny", "query": HOSTILE, "beside": "tiny", "beside_method": "dot"}
    for address, state in (
        ("/study", {"study": "tiny", "words": HOSTILE, "kind": HOSTILE}),
        ("/query", {"study": "tiny", "query": HOSTILE, "end": "bottom"}),
        ("/query", beside),
        ("/query", {**beside, "source": HOSTILE}),
        ("/document", {"study": "tiny", "document": document}),
        ("/search", {"study": "tiny", "words": "script"}),
        ("/search", {"study": "tiny", "words": HOSTILE}),
        ("/query", {"study": "tiny", "query": HOSTILE, "document": HOSTILE}),
    ):
        page = browser.get(address, params=state)
        assert page.status_code in (200, 404) and not re.search("<(script>|img )", page.text)
        assert "&lt;" in page.text or "&lt" in page.text
        beyond = re.sub('"[^"]*"|<code>.*?</code>', "", page.text)  # what is copied is as it is; what is shown is not
        assert "\x1b" not in beyond and "\u202e" not in beyond
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_very_long_names_are_a_page_too(changed, tmp_path):
    longest = "q" * 6_000
    for name in ("rankings", "completions"):
        rewrite(
            changed,
            f"study/tiny/{name}",
            lambda frame: frame.with_columns(pl.col("query_id").replace("given", longest)),
        )
    browser = explore(changed, tmp_path / "cache")
    (link,) = [each for each in links(browser.get("/study?study=tiny").text, "query") if longest in each]
    assert browser.get(link).status_code == 200
    assert browser.get("/query", params={"study": "tiny", "query": 2 * longest}).status_code == 404


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
        ("/rows/query?study=tiny&query=given&form=exe", "there is no form exe"),
        ("/rows/query?study=tiny&query=given&form=csv&ranking=best", "there is no ranking best"),
        ("/rows/query?study=tiny&query=given&form=csv&end=middle", "there is no end middle"),
        ("/study?study=tiny&right=maybe", "right is maybe; give yes or no, or leave it out"),
        ("/rows/study?study=tiny&form=csv&right=maybe", "right is maybe; give yes or no, or leave it out"),
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
        ({"host": "["}, "GET"),
        ({"origin": "http://[evil"}, "GET"),
        ({}, "POST"),
        ({}, "DELETE"),
    ],
)
def test_strangers_are_refused(browser, headers, method):
    page = browser.request(method, "/", headers=headers)
    assert page.status_code == 403 and "tiny" not in page.text


def test_an_empty_lake(tmp_path):
    page = explore(Lake(uri=str(tmp_path / "none")), tmp_path).get("/")
    assert page.status_code == 200 and "holds no study yet" in page.text


def test_a_study_without_rankings(changed, tmp_path):
    shutil.rmtree(tmp_path / "lake/study/tiny/rankings")
    browser = explore(changed, tmp_path / "cache")
    assert "no rankings yet" in text_of(browser.get("/").text)
    for address in ("/study?study=tiny", "/query?study=tiny&query=given"):
        page = browser.get(address)
        assert page.status_code == 200 and "This study has no rankings yet" in text_of(page.text)
    document = changed.scan(stored_table(changed.place, "corpus/tiny/documents")).collect()["document_id"][0]
    page = browser.get("/document", params={"study": "tiny", "document": document})
    assert "not among the ranked documents of any query" in page.text and len(links(page.text, "query")) == 3
    page = browser.get("/query?study=tiny&query=given&beside=tiny&beside_method=dot")
    assert page.status_code == 404 and "no document is ranked by dot" in page.text


def test_a_table_of_scores_that_is_made_and_empty(changed, tmp_path):
    changed.ensure(bm25_table("tiny"))
    document = changed.scan(stored_table(changed.place, "corpus/tiny/documents")).collect()["document_id"][0]
    page = explore(changed, tmp_path / "cache").get("/document", params={"study": "tiny", "document": document})
    assert page.status_code == 200 and len(links(page.text, "query")) >= 3


def test_an_empty_study(changed, tmp_path):
    for name in ("rankings", "completions"):
        rewrite(changed, f"study/tiny/{name}", lambda frame: frame.clear())
    browser = explore(changed, tmp_path / "cache")
    assert "has no rows" in browser.get("/").text
    for address in ("/study?study=tiny", "/query?study=tiny&query=given"):
        page = browser.get(address)
        assert page.status_code == 404 and "study/tiny/completions: has no rows" in page.text


@pytest.mark.parametrize("table", ["completions", "rankings", "influence", "document_norms", "claims"])
@pytest.mark.parametrize("harm", ["log", "cut", "gone"])
def test_a_table_that_cannot_be_read(changed, tmp_path, table, harm):
    directory = tmp_path / "lake/study/tiny" / table
    if harm == "log":  # half written: begun, and no commit
        for each in (directory / "_delta_log").iterdir():
            each.unlink()
    for each in directory.rglob("*.parquet") if harm != "log" else ():
        each.write_bytes(each.read_bytes()[:100]) if harm == "cut" else each.unlink()
    browser = explore(changed, tmp_path / "cache")
    assert browser.get("/").status_code == 200
    document = changed.scan(stored_table(changed.place, "corpus/tiny/documents")).collect()["document_id"][0]
    query = {"study": "tiny", "query": "given"}
    pages = {
        "study": {"study": "tiny"},
        "query": query,
        "document": {"study": "tiny", "document": document},
        "findings": {"study": "tiny"},
        "figure": {"study": "tiny", "name": "claims"},
        "rows/query": {**query, "form": "csv"},
    }
    found = {page: browser.get(f"/{page}", params=state) for page, state in pages.items()}
    assert {page.status_code for page in found.values()} <= {200, 404}
    told = [page for page in found.values() if page.status_code == 404]
    assert told and all(f"study/tiny/{table}" in page.text and "Traceback" not in page.text for page in told)


def test_a_mistake_of_our_own_is_a_sentence(browser, monkeypatch):
    monkeypatch.setattr(study_page, "studies", lambda results: 1 / 0)
    page = browser.get("/")
    assert page.status_code == 500 and "Headwater made a mistake (ZeroDivisionError)" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
