"""The explorer's pages on the results of a real run, as a browser asks for them."""

from __future__ import annotations

import html
import io
import re
import shutil

import polars as pl
import pytest

from orchestration.explorer import document_page
from tests.orchestration.explored import explore, links, ranked_here, rewrite, text_of

QUERY = {"study": "tiny", "query": "given"}


def test_from_the_studies_to_a_document(browser, finished):
    page = browser.get("/")
    assert page.status_code == 200 and "3 queries" in text_of(page.text)
    (link,) = links(page.text, "study")
    queries = links(browser.get(link).text, "query")
    assert len(queries) == 3
    rankings = finished.table("study/tiny/rankings")
    for link in queries:
        page = browser.get(link)
        (query,) = re.findall("query=([^&]+)", link)
        listed = rankings.filter(method="ekfac", query_id=query, ranking="normed", end="top").sort("rank")
        assert page.status_code == 200 and sorted(ranked_here(page.text)) == sorted(listed["document_id"])
        assert f"score {listed['score'][0]:+.3g}"[:8] in text_of(page.text)
        page = browser.get(links(page.text, "document")[0])
        assert " ".join(listed["text"][0].split())[:40] in text_of(page.text)
        assert "Queries that it drives" in page.text


@pytest.mark.parametrize("end", ["top", "bottom"])
@pytest.mark.parametrize("ranking", ["raw", "normed"])
@pytest.mark.parametrize("method", ["dot", "ekfac"])
def test_every_choice_shows_its_own_ranking(browser, finished, method, ranking, end):
    choice = {"method": method, "ranking": ranking, "end": end}
    page = browser.get("/query", params={**QUERY, **choice}).text
    rows = finished.table("study/tiny/rankings").filter(query_id="given", **choice).sort("rank")
    heading = re.search(r'<h2><a href="/document[^"]*"[^>]*>([^<]+)</a>', page)[1]
    assert html.unescape(heading) == rows["document_id"][0]
    exported = browser.get("/rows/query", params={**QUERY, "form": "parquet", **choice})
    assert pl.read_parquet(io.BytesIO(exported.content))["document_id"].to_list() == rows["document_id"].to_list()
    exported = browser.get("/rows/query", params={**QUERY, "form": "csv", **choice})
    assert pl.read_csv(exported.content)["rank"].to_list() == rows["rank"].to_list()


def test_filters(browser, finished):
    def shown(**chosen) -> set[str]:
        page = browser.get("/study", params={"study": "tiny", **chosen}).text
        return {re.search("query=([^&]+)", link)[1] for link in links(page, "query")}

    assert shown() == {"given", "own", "plain"} and shown(words="no such words") == set()
    assert shown(kind="factual") == {"given"} and shown(task="arithmetic") == {"own"}
    assert shown(right="yes") | shown(right="no") == {"given", "own"} and not shown(right="yes") & shown(right="no")
    rankings = finished.table("study/tiny/rankings")
    first = rankings.filter(method="ekfac", ranking="normed", end="top", rank=1)
    for source in first["source"].unique():
        assert shown(leading=source) == set(first.filter(source=source)["query_id"])
    page = browser.get("/study", params={"study": "tiny", "words": "no such words"})
    assert "No query is like that" in page.text


def test_queries_with_sources_of_their_own_are_filtered_by_them(changed, tmp_path):
    extra = pl.when(pl.col("query_id") == "own").then(pl.lit('{"source": "exam"}')).otherwise(pl.lit("{}"))
    rewrite(changed, "queries/tiny/queries", lambda frame: frame.with_columns(extra=extra))
    browser = explore(changed, tmp_path / "cache")
    assert '<option value="exam">' in browser.get("/study?study=tiny").text
    assert [each[-3:] for each in links(browser.get("/study?study=tiny&origin=exam").text, "query")] == ["own"]


def test_reading_goes_on_within_the_filters(browser):
    page = browser.get("/query", params={**QUERY, "right": "yes", "kind": "factual"}).text
    assert "1 of 1" in text_of(page) and 'rel="next"' not in page
    assert "/study?study=tiny&kind=factual&right=yes" in links(page, "study")
    assert 'rel="next"' in browser.get("/query", params=QUERY).text


def test_ranked_documents_of_one_source(browser, finished):
    listed = finished.table("study/tiny/rankings").filter(method="ekfac", ranking="raw", end="top", query_id="own")
    for source in ("code", "prose"):
        choice = {"study": "tiny", "query": "own", "ranking": "raw", "source": source}
        of_source = listed.filter(source=source).sort("rank")["document_id"].to_list()
        assert sorted(ranked_here(browser.get("/query", params=choice).text)) == sorted(of_source)
        exported = browser.get("/rows/query", params={**choice, "form": "csv"})
        assert pl.read_csv(exported.content)["document_id"].to_list() == of_source
    page = browser.get("/query", params={**QUERY, "source": "nowhere"}).text
    assert "No document of source nowhere is listed at this end" in text_of(page) and ranked_here(page) == []


def test_another_method_stands_beside(browser, finished):
    page = browser.get("/query", params={**QUERY, "beside": "tiny", "beside_method": "dot"}).text
    rows = finished.table("study/tiny/rankings").filter(query_id="given", ranking="normed", end="top")
    ekfac, dot = (set(rows.filter(method=method)["document_id"]) for method in ("ekfac", "dot"))
    assert (set(ranked_here(page)), set(ranked_here(page, method="dot"))) == (ekfac, dot)
    assert f"{len(ekfac & dot)} of {len(ekfac)} documents are in both lists" in text_of(page)


def test_another_study_stands_beside(changed, tmp_path):
    lake = tmp_path / "lake/study"
    shutil.copytree(lake / "tiny", lake / "other")
    browser = explore(changed, tmp_path / "cache")
    page = browser.get("/query", params=QUERY).text
    (beside,) = [link for link in links(page, "query") if link.endswith("beside=other")]
    page = browser.get(beside).text
    assert ranked_here(page, "other") == ranked_here(page) != []
    page = browser.get(f"{beside}&beside_method=dot").text
    assert ranked_here(page, "other", "dot") and not ranked_here(page, "other", "ekfac")


def test_a_document_with_its_scores_for_all_queries(browser, finished, monkeypatch):
    scores = finished.table("study/tiny/influence").filter(method="dot")
    document = scores["document_id"][0]
    own = scores.filter(document_id=document).sort("score", descending=True)["query_id"].to_list()
    norm = finished.table("study/tiny/document_norms").filter(document_id=document).row(0, named=True)

    def queries(**choice) -> list[str]:
        page = browser.get("/document", params={"study": "tiny", "document": document, "method": "dot", **choice}).text
        assert f"gradient norm {norm['norm']:.3g}"[:16] in text_of(page)
        return re.findall(r"query=(\w+)", page[: page.index("Rankings that list it")].split("<h2>Queries")[1])

    assert queries() == own
    nats = dict(finished.table("study/tiny/completions").select("query_id", "nats").iter_rows())
    per_nat = scores.filter(document_id=document).with_columns(
        each=pl.col("score") / pl.col("query_id").replace_strict(nats)
    )
    assert queries(order="per_nat") == per_nat.sort("each", descending=True)["query_id"].to_list()
    monkeypatch.setattr(document_page, "EACH_END", 1)
    assert queries() == [own[0], own[-1]] and queries(all="yes") == own


@pytest.mark.parametrize(
    ("page", "state", "key"),
    [
        ("", {}, "study"),
        ("study", {"study": "tiny"}, "query_id"),
        ("study", {"study": "tiny", "right": "no", "words": "12 Plus"}, "query_id"),
        ("study", {"study": "tiny", "kind": "factual", "leading": "prose"}, "query_id"),
        ("query", {**QUERY, "end": "bottom"}, "document_id"),
        ("query", {**QUERY, "ranking": "raw", "source": "code", "method": "dot"}, "document_id"),
        ("document", {"study": "tiny", "document": "r4#0", "method": "dot"}, "query_id"),
        ("search", {"study": "tiny", "words": 'cat "the 34"'}, "document_id"),
        ("findings", {"study": "tiny"}, "query_id"),
    ],
)
def test_sql_and_files_behind_a_view_give_its_rows(browser, results, page, state, key):
    shown = browser.get(f"/{page}", params=state).text
    found = results.sql(html.unescape(re.search('data-copy="([^"]+)"', shown)[1])).collect()
    csv, parquet = (browser.get(link).content for link in links(shown, "rows/[a-z]+")[:2])
    taken = pl.read_parquet(io.BytesIO(parquet))
    if page == "document":  # whose file holds all methods
        taken = taken.filter(method="dot").sort("score", descending=True)
    of_taken, of_found = taken["name" if page == "" else key].to_list(), found[key].to_list()
    assert (sorted(of_taken) == sorted(of_found)) if page in ("search", "findings") else of_taken == of_found
    assert of_found and len(pl.read_csv(csv)) == len(pl.read_parquet(io.BytesIO(parquet)))


def test_findings_and_report(browser, finished):
    page = browser.get("/findings?study=tiny").text
    names = re.findall('/figure[^"]*name=([a-z_]+)', page)
    assert {"correlation", "magnitude", "power_law", "answers", "sources", "claims"} <= set(names)
    figure = browser.get("/figure?study=tiny&name=magnitude")
    assert figure.headers["content-type"] == "image/png" and figure.content.startswith(b"\x89PNG")
    assert browser.get("/figure?study=tiny&name=magnitude").content == figure.content
    report = browser.get("/report?study=tiny")
    assert report.text == finished.table("study/tiny/report")["html"][0]
    assert "unsafe-inline" in report.headers["content-security-policy"]


def test_a_figure_is_drawn_again_for_other_rows(changed, tmp_path):
    browser = explore(changed, tmp_path / "cache")
    first = browser.get("/figure?study=tiny&name=power_law").content
    rewrite(changed, "study/tiny/power_law", lambda frame: frame.filter(pl.col("query_id") != "given"))
    assert browser.get("/figure?study=tiny&name=power_law").content != first
