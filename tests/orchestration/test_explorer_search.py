"""The explorer's search: an index that follows the corpus."""

from __future__ import annotations

import re

import polars as pl
import pyarrow as pa

from orchestration.results import Results
from orchestration.results.search import SearchIndex


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
