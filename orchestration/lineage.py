"""What one influence row came from: every table behind it, at the version that was read, and who wrote that.

Told by the Delta logs alone: each commit names the versions that its step read. The rows that a step read at version v
of a table were written by the newest write up to v of that partition; compaction and clean-up in between write nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assets.corpus.documents import documents_table
from assets.lake.log import Entry, TableLog
from assets.specs.mistakes import known_methods, near_matches
from assets.study.completions import completions_table
from assets.study.influence import influence_table
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.lake import Lake

ALL_SHARDS = "all"
CLOSE_IDS = 1000


@dataclass
class Origin:
    """One table (or shard of it) behind a row: the commit that wrote it, and what that was computed from."""

    table: str
    shard: str | None  # "all" where every shard was read
    entry: Entry | None  # None where the table, or this part of its log, is gone
    inputs: dict[str, int] = field(default_factory=dict)  # id of an origin -> version of its table that was read
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.table}[{self.shard}]" if self.shard else self.table

    @property
    def id(self) -> str:
        return f"{self.name}@{self.entry.version if self.entry else '?'}"

    def said(self, name: str) -> str:
        """What the commit says of itself under `name`; empty where it says nothing."""
        return str(self.entry.metadata.get(name) or "") if self.entry else ""


@dataclass
class Lineage:
    """One influence row and its origins by id, the row's own first."""

    study: str
    query_id: str
    document_id: str
    method: str
    score: float
    fingerprint: str
    version: int  # newest version of the influence table, in which the row was found
    shard: str
    origins: dict[str, Origin] = field(default_factory=dict)

    @property
    def root(self) -> Origin:
        return next(iter(self.origins.values()))

    def of(self, *tail: str) -> list[Origin]:
        """The origins whose table's path ends so."""
        return [origin for origin in self.origins.values() if origin.table.split("/")[-len(tail) :] == list(tail)]


def trace(lake: Lake, study: str, query_id: str, document_id: str, method: str) -> Lineage:
    """Finds the row and everything behind it. Raises BadInput, naming near matches, where there is no such row."""
    lineage = find_row(lake, study, query_id, document_id, method)
    walk = _Walk(lake, lineage.origins)
    walk.visit(influence_table(study).path, lineage.version, {"shard": lineage.shard})
    return lineage


def find_row(lake: Lake, study: str, query_id: str, document_id: str, method: str) -> Lineage:
    """The newest influence row, without its origins."""
    table = influence_table(study) if study in studies_in(lake) else None
    version = lake.version(table) if table else None
    if table is None or version is None:
        known = near_matches(study, studies_in(lake), "studies with scores")
        raise BadInput(f"study {study}: has no scores in the lake {lake.place.root}; {known}")
    shard = _shard_of(lake, study, version, document_id)
    where = {"shard": shard} if shard else None
    asked = {"method": method, "query_id": query_id, "document_id": document_id}
    rows = lake.collect(table, lake.scan(table, version=version, where=where, allow_empty=True).filter(**asked))
    if rows.is_empty():
        raise BadInput(_unknown(lake, study, version, asked, shard))
    row = rows.row(0, named=True)
    return Lineage(study, query_id, document_id, method, row["score"], row["fingerprint"], version, row["shard"])


def studies_in(lake: Lake) -> list[str]:
    """Names of the studies that have scores in the lake."""
    names = [info.base_name for info in lake.place.listed("study") if not info.is_file]
    return [name for name in names if lake.place.listed(f"study/{name}/influence")]


def _corpus_of(lake: Lake, study: str, version: int) -> str | None:
    """The corpus whose documents the newest scores were computed from."""
    written = TableLog(lake.place, influence_table(study).path).newest_write(version)
    for path in written.inputs if written else ():
        family, name, table = path.split("/")
        if (family, table) == ("corpus", "documents"):
            return name
    return None


def _shard_of(lake: Lake, study: str, version: int, document_id: str) -> str | None:
    """Where the corpus has the document now: looked up by its sorted id, instead of in every shard's scores."""
    corpus = _corpus_of(lake, study, version)
    if corpus is None or lake.version(documents_table(corpus)) is None:
        return None
    table = documents_table(corpus)
    frame = lake.scan(table, allow_empty=True).filter(document_id=document_id).select("shard")
    found = lake.collect(table, frame)
    return found.item() if len(found) == 1 else None


def _unknown(lake: Lake, study: str, version: int, asked: Mapping[str, str], shard: str | None) -> str:
    """Which part of the question names nothing, and what may have been meant."""
    table = influence_table(study)
    if (queries := _values(lake, completions_table(study), "query_id")) and asked["query_id"] not in queries:
        near = near_matches(asked["query_id"], queries, "queries")
        return f"study {study}: has no query {asked['query_id']!r}; {near}"
    if shard is None:
        close = _close_documents(lake, study, version, asked["document_id"])
        near = near_matches(asked["document_id"], close, "documents like it")
        return f"study {study}: has no scores of document {asked['document_id']!r}; {near}"
    methods = _values(lake, table, "method", {"shard": shard}, version)
    if methods and asked["method"] not in methods:
        near = known_methods(asked["method"], methods)
        return f"study {study}: has no scores by method {asked['method']!r}; {near}"
    return (
        f"study {study}: document {asked['document_id']} of shard {shard} is not scored for query "
        f"{asked['query_id']} yet; materialize study/{study}/influence for this shard"
    )


def _values(lake: Lake, table, column: str, where: Mapping[str, str] | None = None, version: int | None = None) -> list:
    if lake.version(table) is None:
        return []
    frame = lake.scan(table, version=version, where=where, allow_empty=True).select(column).unique().sort(column)
    return lake.collect(table, frame)[column].to_list()


def _close_documents(lake: Lake, study: str, version: int, document_id: str) -> list[str]:
    """Ids that begin like the one asked for: of its record first, then of ever shorter beginnings."""
    import polars as pl

    corpus = _corpus_of(lake, study, version)
    table = documents_table(corpus) if corpus else None
    if table is None or lake.version(table) is None:
        return []
    ids = lake.scan(table, allow_empty=True).select("document_id")
    for beginning in dict.fromkeys((f"{document_id.split('#')[0]}#", document_id, document_id[:-2], document_id[:1])):
        close = ids.filter(pl.col("document_id").str.starts_with(beginning)).head(CLOSE_IDS)
        if found := lake.collect(table, close)["document_id"].to_list():
            return found
    return []


class _Walk:
    """Follows commits to what they were computed from, each once."""

    def __init__(self, lake: Lake, origins: dict[str, Origin]) -> None:
        self.lake, self.origins = lake, origins
        self.logs: dict[str, TableLog] = {}

    def visit(self, path: str, version: int, where: Mapping[str, str]) -> str:
        """The id of the origin of the rows that `version` of a table has in a partition."""
        entry = self._log(path).newest_write(version, where)
        sharded = entry is not None and "shard" in entry.partition
        origin = Origin(path, (where.get("shard") or ALL_SHARDS) if sharded else None, entry)
        if origin.id not in self.origins:
            self.origins[origin.id] = origin
            for read, at in self._inputs(path, entry):
                origin.inputs[self.visit(read, at, where if sharded else {})] = at
        return origin.id

    def _inputs(self, path: str, entry: Entry | None) -> Iterable[tuple[str, int]]:
        """A list of shards goes on from its own earlier version; this is its history and not where it came from."""
        return sorted((read, at) for read, at in (entry.inputs if entry else {}).items() if read != path)

    def _log(self, path: str) -> TableLog:
        return self.logs.setdefault(path, TableLog(self.lake.place, path))
