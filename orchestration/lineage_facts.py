"""What the rows behind an influence row say of themselves: source file and line, weights, sample, completion.

Rows are read at a version that still has them; where clean-up has removed their files, the commits alone remain, and
the facts are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from assets.corpus.documents import documents_table
from assets.corpus.records import records_table
from assets.corpus.shard_list import shards_table
from assets.curvature.sample import sample_table
from assets.lake.log import TableLog
from assets.model.checkpoint import checkpoint_table
from assets.model.training import training_sample_table
from assets.queries.queries import queries_table
from assets.step.fingerprints import fingerprint
from assets.study.completions import completions_table
from compute.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from assets.lake.lake import Lake
    from assets.lake.tables import Table
    from assets.specs.model import ModelSpec
    from orchestration.lineage import Lineage, Origin

WEIGHTS = ".safetensors"


def add_facts(lake: Lake, lineage: Lineage, models: Iterable[ModelSpec]) -> None:
    """Fills in the facts of the origins. `models` are those that studies declare: a hub id's revision is among them."""
    reader = _Reader(lake, lineage)
    models = list(models)
    for origin in lineage.origins.values():
        family, name, table = origin.table.split("/")
        if family == "model" and table == "checkpoint":
            origin.facts |= _checkpoint(reader, origin, name, models)
        elif table == "sample":
            of = sample_table if family == "curvature" else training_sample_table
            origin.facts |= _sample(reader, origin, of(name))
        elif table == "completions":
            keep = ("prompt", "completion", "generated", "nats", "is_right")
            origin.facts |= reader.row(origin, completions_table(name), keep, query_id=lineage.query_id)
        elif table == "queries":
            origin.facts |= reader.row(origin, queries_table(name), ("location",), query_id=lineage.query_id)
    _add_source(reader, lineage)


class _Reader:
    """Reads rows of origins, or nothing where they are gone."""

    def __init__(self, lake: Lake, lineage: Lineage) -> None:
        self.lake, self.lineage = lake, lineage

    def row(self, origin: Origin, table: Table, columns: Iterable[str], **where: Any) -> dict[str, Any]:
        """One row that fits; empty where there is none any more."""
        rows = self.rows(origin, table, lambda frame: frame.filter(**where).select(list(columns)).head(1))
        return rows[0] if rows else {}

    def rows(self, origin: Origin, table: Table, of: Callable[[pl.LazyFrame], pl.LazyFrame]) -> list[dict[str, Any]]:
        where = {"shard": origin.shard} if origin.shard and "shard" in table.partition_by else None
        for version in self._versions(origin, table):
            try:
                frame = self.lake.scan(table, version=version, where=where, allow_empty=True)
                return self.lake.collect(table, of(frame)).to_dicts()
            except BadInput:
                continue  # its files are gone
        return []

    def _versions(self, origin: Origin, table: Table) -> list[int]:
        """Versions that have the rows: those that were read, and the newest if the rows are still in it."""
        if origin.entry is None or (newest := self.lake.version(table)) is None:
            return []
        read = {each.inputs[origin.id] for each in self.lineage.origins.values() if origin.id in each.inputs}
        log = TableLog(self.lake.place, origin.table)
        if log.newest_write(newest, origin.entry.partition) == origin.entry:
            read.add(newest)
        return sorted(read, reverse=True)


def _add_source(reader: _Reader, lineage: Lineage) -> None:
    """From the document to its record, and on to the place in a source file."""
    for documents in (origin for origin in lineage.of("documents") if origin.shard == lineage.shard):
        corpus = documents.table.split("/")[1]
        columns = ("record_id", "window", "source", "tokens", "text")
        documents.facts |= reader.row(documents, documents_table(corpus), columns, document_id=lineage.document_id)
        record_id = documents.facts.get("record_id") or lineage.document_id.rpartition("#")[0]
        for records in _inputs(lineage, documents, "records"):
            records.facts |= reader.row(records, records_table(corpus), ("location",), record_id=record_id)
            for shards in _inputs(lineage, records, "shards"):
                slices = reader.rows(
                    shards, shards_table(corpus), lambda frame: frame.filter(shard=lineage.shard).sort("file", "start")
                )
                shards.facts |= _slice(slices, records.facts.get("location", ""))


def _inputs(lineage: Lineage, origin: Origin, table: str) -> list[Origin]:
    found = (lineage.origins[id] for id in origin.inputs)
    return [each for each in found if each.table.split("/")[-1] == table]


def _slice(slices: list[dict[str, Any]], location: str) -> dict[str, Any]:
    """The slice of a source file that holds a record; rows are counted from 1, as a location counts them."""
    path, row = _place(location)
    named = [each for each in slices if _same_file(each["file"], path)]
    held = [each for each in named if row is None or each["start"] < row <= each["stop"]]
    if not held:
        return {}
    keys = ("file", "records", "digest", "bytes", "mtime_ns", "state")
    found = {key: held[0][key] for key in keys}
    return found | {"first_row": held[0]["start"] + 1, "last_row": held[0]["stop"]}


def _place(location: str) -> tuple[str, int | None]:
    """("corpus/a.jsonl", 17) of "corpus/a.jsonl:17" and of "corpus/a.jsonl row 17"; a text file has no rows."""
    for mark in (" row ", ":"):
        path, found, row = location.rpartition(mark)
        if found and row.isdigit():
            return path, int(row)
    return location, None


def _same_file(key: str, path: str) -> bool:
    """Keys begin at the corpus's own directory, paths for people at the study's: one is the end of the other."""
    return key == path or path.endswith(f"/{key}") or key.endswith(f"/{path}")


def _checkpoint(reader: _Reader, origin: Origin, name: str, models: list[ModelSpec]) -> dict[str, Any]:
    columns = ["file", "bytes", "sha256", "location"]
    rows = reader.rows(origin, checkpoint_table(name), lambda frame: frame.select(columns).unique().sort("file"))
    if not rows:
        return {}
    files = {row["file"]: {"bytes": row["bytes"], "sha256": row["sha256"]} for row in rows}
    location = rows[0]["location"]
    facts = {"location": location, "trained_here": location is None, "files": files}
    if revision := _revision(origin, location, files, models):
        facts["revision"] = revision
    return facts


def _revision(origin: Origin, location: str | None, files: Mapping, models: list[ModelSpec]) -> str | None:
    """The revision that a study declares for this hub id, if the checkpoint's fingerprint is made of just that one."""
    for model in models:
        stamp = fingerprint("checkpoint", origin.said("code_version"), model.hub, model.revision, files)
        if model.hub and model.hub == location and stamp == origin.said("fingerprint"):
            return model.revision
    return None


def _sample(reader: _Reader, origin: Origin, table: Table) -> dict[str, Any]:
    import polars as pl

    counted = [pl.len().alias("documents"), pl.col("documents_version").max()]
    rows = reader.rows(origin, table, lambda frame: frame.select(counted))
    return rows[0] if rows else {}
