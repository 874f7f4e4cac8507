"""Source files that change or go: shards are told, rows leave the current tables, tombstones stay."""

from __future__ import annotations

import dagster as dg
import polars as pl
from deltalake import DeltaTable

from tests.orchestration.tiny_study import records, write_jsonl

PER_SHARD = (
    "corpus/tiny/records",
    "corpus/tiny/rejected",
    "corpus/tiny/tombstones",
    "corpus/tiny/documents",
    "study/tiny/influence",
    "study/tiny/document_norms",
    "study/tiny/candidates",
)
OVER_ALL = ("study/tiny/coverage", "study/tiny/rankings")


def source_events(copied) -> dict[str, str]:
    """Newest event of each shard's source: what the listing said of its content."""
    key = dg.AssetKey(["corpus", "tiny", "source"])
    found = copied.instance.fetch_materializations(key, limit=100).records
    newest: dict[str, str] = {}
    for record in found:
        newest.setdefault(
            record.asset_materialization.partition, record.asset_materialization.metadata["content"].value
        )
    return newest


def test_a_removed_and_a_changed_file_leave_tombstones(copied):
    rows = records()
    (copied.directory / "corpus/part2.jsonl").unlink()
    copied.rewrite(1, [row | {"text": "the cat sits on the mat"} if row["id"] == "r31" else row for row in rows[30:60]])
    before = copied.table("corpus/tiny/records").filter(record_id="r31")["text"].item()

    assert copied.materialize("corpus/tiny/shards").success
    assert source_events(copied) == {"00000": "new", "00001": "changed", "00002": "removed"}
    assert copied.materialize(*PER_SHARD, *OVER_ALL, shards=("00000", "00002"), reuse=True).success

    tombstones = copied.table("corpus/tiny/tombstones").sort("record_id")
    gone = {f"r{number}" for number in range(60, 90)}
    assert set(tombstones.filter(reason="removed")["record_id"]) == gone
    assert tombstones.filter(reason="changed")["record_id"].to_list() == ["r31"]
    documents = copied.table("corpus/tiny/documents")
    assert not gone & set(documents["record_id"])
    assert set(copied.table("study/tiny/influence")["document_id"]) == set(documents["document_id"])
    assert not any(row.split("#")[0] in gone for row in copied.table("study/tiny/rankings")["document_id"])

    changed = tombstones.filter(reason="changed").row(0, named=True)
    path = str(copied.directory / "home/lake/corpus/tiny/records")
    then = pl.scan_delta(path, version=changed["records_version"]).filter(record_id="r31").collect()
    assert then["text"].item() == before  # history keeps what the tombstone names


def test_what_comes_back_loses_its_tombstone(copied):
    original = records()[30:60]
    copied.rewrite(1, original[1:])
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*PER_SHARD[:3], shards=("00001",), reuse=True).success
    assert copied.table("corpus/tiny/tombstones")["record_id"].to_list() == ["r30"]
    copied.rewrite(1, original)
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*PER_SHARD[:3], shards=("00001",), reuse=True).success
    assert copied.table("corpus/tiny/tombstones").is_empty()


def test_only_the_new_shard_is_computed_and_nothing_is_fitted_again(copied):
    lake = copied.directory / "home/lake"
    untouched = ["curvature/tiny/sample", "curvature/tiny/eigenvalues", "study/tiny/query_gradients"]
    before = {path: DeltaTable(str(lake / path)).version() for path in (*untouched, "study/tiny/influence")}
    write_jsonl(copied.directory / "corpus/part9.jsonl", [row | {"id": f"new-{row['id']}"} for row in records()[:5]])
    assert copied.materialize("corpus/tiny/shards").success
    assert source_events(copied)["00003"] == "new"
    assert copied.materialize(*PER_SHARD, shards=("00003",)).success
    assert {path: DeltaTable(str(lake / path)).version() for path in untouched} == {p: before[p] for p in untouched}
    assert DeltaTable(str(lake / "study/tiny/influence")).version() == before["study/tiny/influence"] + 1
