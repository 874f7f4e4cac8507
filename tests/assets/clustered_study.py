"""Small tables of scores that change from round to round, and the clustered table made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from assets.lake.lake import Lake
from assets.step.fingerprints import fingerprint
from assets.study.clustered_reading import live_version
from assets.study.clustered_runs import influence_by_query_table
from assets.study.clustering import Clustering
from assets.study.influence import influence_table, score_rows

KEYS = [("dot", "q0"), ("ekfac", "q1"), ("ekfac", "q0"), ("ekfac", "q" * 90 + "x"), ("ekfac", "q" * 90 + "y")]
COLUMNS = ("shard", "method", "query_id", "document_id", "score", "fingerprint")


class StoppedHere(Exception):
    """Raised by a test between two commits."""


def best(scores: pl.DataFrame, method: str, query: str, count: int, bottom: bool) -> list[tuple]:
    """The oracle: everything sorted."""
    rows = scores.filter(method=method, query_id=query).sort("score", "document_id", descending=[not bottom, False])
    return rows.head(count).select("document_id", "shard", "score").rows()


@dataclass
class ClusteredStudy:
    """Scores of the study `any`; `written` counts the rows that went into runs."""

    lake: Lake
    run_rows: int = 1_000_000
    held_rows: int = 100
    written: int = 0
    merges: list = field(default_factory=list)

    @classmethod
    def at(cls, directory: Path, **settings) -> ClusteredStudy:
        return cls(Lake(uri=str(directory)), **settings)

    def score(self, shard: str, documents: int, seed: int) -> None:
        """Influence of one shard, anew; without documents it has no rows."""
        table, draw = influence_table("any"), np.random.default_rng((int(shard), seed))
        scores = draw.integers(-20, 20, (len(KEYS), documents)).astype(np.float32)  # with ties
        ids = [f"{shard}-{number}#0" for number in range(documents)]
        rows = score_rows(table, shard, KEYS, ids, scores, fingerprint(shard, seed, documents))
        self.lake.overwrite(table, rows, where={"shard": shard}, commit={})

    def clustering(self, after=lambda run: None) -> Clustering:
        table = influence_by_query_table("any")

        def write(run, rows, told, facts):
            commit = self.lake.overwrite(table, rows, where={"run": run}, commit=told)
            self.written += commit.rows
            after(run)
            return commit

        settings = {"run_rows": self.run_rows, "held_rows": self.held_rows}
        return Clustering(self.lake, "any", self.lake.version(influence_table("any")), write, **settings)

    def cluster(self, after=lambda run: None) -> Clustering:
        clustering = self.clustering(after)
        self.merges = clustering.planned()
        for merge in self.merges:
            clustering.merge(merge)
        clustering.empty_dead()
        return clustering

    def scores(self) -> pl.DataFrame:
        return self.lake.scan(influence_table("any"), allow_empty=True).select(COLUMNS).sort(COLUMNS).collect()

    def clustered(self) -> pl.DataFrame:
        return live_version(self.lake, "any").frame().select(COLUMNS).sort(COLUMNS).collect()
