"""A study whose scores are generated: their statistics and queries as Delta tables, for the analyses to be run over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from assets.findings.analysis import Analysis
from assets.findings.evidence import evidence_rows
from assets.findings.score_statistics import (
    score_statistics_rows,
    score_statistics_table,
    source_statistics_rows,
    source_statistics_table,
)
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.study import Study, StudySpec
from assets.study.completions import completions_table

STAMP = "f" * 16
METHOD = "ekfac"


@dataclass(frozen=True)
class Query:
    """A query as the analyses see it."""

    id: str
    task: str | None = None
    kind: str | None = None
    is_right: bool | None = None
    nats: float = 2.0


def several(kind: str, tasks: Sequence[str], each: int, **given) -> list[Query]:
    """Queries of one kind, `each` for every task; controls are named so."""
    word = "control" if kind == "control" else "query"
    return [Query(f"{task} {word} {number:02d}", task, kind, **given) for task in tasks for number in range(each)]


class FindingsStudy:
    """A study and the lake with its tables, in place of the step that an analysis is run in."""

    def __init__(self, root: Path, queries: Sequence[Query], **findings) -> None:
        self.lake = Lake(uri=str(root / "lake"))
        # As the tables' keys are sorted, so that the rows of the scores are in the order of the queries.
        self.queries = sorted(queries, key=lambda query: query.id)
        self.study = Study(StudySpec.model_validate(_spec(findings)), str(root))
        self.put(completions_table("s"), [_completion(number, query) for number, query in enumerate(self.queries)])

    def version(self, table: Table) -> int | None:
        return self.lake.version(table)

    def scan(self, table: Table) -> pl.LazyFrame:
        return self.lake.scan(table)

    def put(self, table: Table, rows: list[dict], **where: str) -> None:
        data = pa.Table.from_pylist([row | {"fingerprint": STAMP} for row in rows], schema=table.schema)
        self.lake.overwrite(table, data, where=where or None, commit={})

    def put_scores(
        self,
        raw: Mapping[str, np.ndarray],
        normed: Mapping[str, np.ndarray] | None = None,
        *,
        sources: np.ndarray | None = None,
        shards: Sequence[int] = (),
    ) -> None:
        """The statistics of scores by method, of both rankings or the raw one; `shards` are the documents of each shard
        but the last."""
        rankings = {"normed": normed, "raw": raw} if normed else {"raw": raw}
        documents = next(iter(raw.values())).shape[1]
        sources = np.full(documents, "books") if sources is None else sources
        ends = np.cumsum([0, *shards, documents - sum(shards)])
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            self._put_shard(f"{number:05d}", slice(start, end), rankings, document_ids(documents), sources)

    def _put_shard(self, shard: str, cut: slice, rankings: dict, ids: list[str], sources: np.ndarray) -> None:
        of_scores, of_sources, depth = [], [], self.study.spec.findings.depth
        for ranking, by_method in rankings.items():
            keys = [(method, query.id) for method in sorted(by_method) for query in self.queries]
            scores = np.concatenate([by_method[method] for method in sorted(by_method)])[:, cut].astype(np.float32)
            of_scores.append(score_statistics_rows(shard, ranking, keys, ids[cut], scores, depth, STAMP))
            of_sources.append(source_statistics_rows(shard, ranking, keys, sources[cut], scores, STAMP))
        for table, rows in ((score_statistics_table, of_scores), (source_statistics_table, of_sources)):
            self.lake.overwrite(table("s"), pa.concat_tables(rows), where={"shard": shard}, commit={})

    def found(self, analysis: Analysis) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The analysis's rows and its evidence, both as they would be written."""
        found, table = analysis.find(self, self.study), analysis.table("s")
        evidence = pl.from_arrow(evidence_rows(analysis.name, found.evidence, STAMP))
        rows = found.rows.with_columns(fingerprint=pl.lit(STAMP)).select(table.schema.names)
        self.lake.overwrite(table, rows.to_arrow().cast(table.schema), commit={})
        return rows, evidence


def document_ids(documents: int) -> list[str]:
    return [f"d{number:06d}" for number in range(documents)]


def one(
    evidence: pl.DataFrame, statistic: str, group: str, contrast: str | None = None, method: str = METHOD
) -> dict[str, float]:
    """The one row of the evidence that says this."""
    rows = evidence.filter(statistic=statistic, group=group, method=method).filter(
        pl.col("contrast").eq_missing(pl.lit(contrast, pl.String))
    )
    assert len(rows) == 1, (statistic, group, contrast, rows)
    return rows.row(0, named=True)


def _spec(findings: dict) -> dict:
    return {
        "study": "s",
        "corpus": {"name": "c", "path": ["*.jsonl"], "max_tokens": 512},
        "model": {"name": "m", "path": "model"},
        "curvature": {"name": "f", "sample_documents": 100},
        "queries": {"name": "q", "path": "queries.jsonl"},
        "findings": {"ranking": "raw", "resamples": 2000, **findings},
    }


def _completion(number: int, query: Query) -> dict:
    return {
        "position": number,
        "query_id": query.id,
        "prompt": "?",
        "completion": "!",
        "generated": True,
        "prompt_token_ids": [0],
        "completion_token_ids": [1],
        "nats": query.nats,
        "loss": query.nats,
        "task": query.task,
        "kind": query.kind,
        "answer": None,
        "is_right": query.is_right,
    }
