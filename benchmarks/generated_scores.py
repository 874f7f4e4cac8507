"""Scores of generated documents, written through the tables' own classes, as many as a measurement of reading wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from assets.lake.lake import Lake
from assets.step.fingerprints import fingerprint
from assets.study.clustered_runs import Run, influence_by_query_table, run_name, told_of
from assets.study.clustering import Clustering
from assets.study.influence import influence_table, score_rows

METHOD = "ekfac"


@dataclass(frozen=True)
class GeneratedScores:
    """`shards` of `documents` each, scored for `queries` by one method: heavy-tailed, and all of one seed."""

    lake: Lake
    study: str
    shards: int
    documents: int
    queries: int

    @property
    def keys(self) -> list[tuple[str, str]]:
        return [(METHOD, f"q{number:03d}") for number in range(self.queries)]

    def write_shard(self, number: int, seed: int = 0) -> None:
        """One shard of influence."""
        table, shard = influence_table(self.study), f"{number:05d}"
        scores = self._scores(np.random.default_rng((seed, number)), self.documents)
        rows = score_rows(table, shard, self.keys, self._ids(number), scores, self.stamp(number, seed))
        self.lake.overwrite(table, rows, where={"shard": shard}, commit={})

    def cluster(self) -> int:
        """Brings the clustered table up to date; the number of runs that are written."""
        table = influence_by_query_table(self.study)

        def write(run, rows, told, facts):
            return self.lake.overwrite(table, rows, where={"run": run}, commit=told)

        clustering = Clustering(self.lake, self.study, self.lake.version(influence_table(self.study)), write)
        merges = clustering.planned()
        for merge in merges:
            clustering.merge(merge)
        clustering.empty_dead()
        return len(merges)

    def write_runs(self, shards_per_run: int) -> Iterator[int]:
        """The clustered table alone, run by run, for more scores than are worth writing twice: influence gets one row
        of each shard, with the fingerprint by which the one is known to hold the other. Yields the rows so far."""
        table, live = influence_by_query_table(self.study), []
        for first in range(0, self.shards, shards_per_run):
            numbers = range(first, min(first + shards_per_run, self.shards))
            shards = {f"{number:05d}": self.stamp(number, 0) for number in numbers}
            rows = len(numbers) * self.documents * self.queries
            name = run_name(shards)
            told = told_of(live, name, shards, rows)
            commit = self.lake.overwrite(table, self._run_rows(name, numbers), where={"run": name}, commit=told)
            live.append(Run(name, shards, rows, commit.version))
            yield sum(run.rows for run in live)
        self.write_marks()

    def write_marks(self) -> None:
        """One row of each shard in influence."""
        one = {"method": METHOD, "query_id": "q000", "score": 0.0}
        rows = [
            one | {"shard": f"{number:05d}", "document_id": f"r{number}#0", "fingerprint": self.stamp(number, 0)}
            for number in range(self.shards)
        ]
        table = influence_table(self.study)
        self.lake.overwrite(table, pa.Table.from_pylist(rows, table.schema), commit={})

    def stamp(self, number: int, seed: int) -> str:
        return fingerprint("generated", number, seed)

    def _run_rows(self, name: str, numbers: range) -> Iterator[pa.RecordBatch]:
        table, count = influence_by_query_table(self.study), len(numbers) * self.documents
        shard_of = np.repeat(np.array(numbers), self.documents)
        ids = pa.array([each for number in numbers for each in self._ids(number)])
        names = pa.array([f"{number:05d}" for number in shard_of])
        stamps = pa.array([self.stamp(number, 0) for number in numbers]).take(pa.array(shard_of - numbers[0]))
        rng = np.random.default_rng(numbers[0])
        for method, query in self.keys:
            scores = rng.standard_t(3, count).astype(np.float32)
            order = pa.array(np.argsort(-scores))
            constant = {"run": name, "method": method, "query_id": query}
            columns = {each: pa.repeat(pa.scalar(value), count) for each, value in constant.items()}
            columns |= {"score": pa.array(scores).take(order), "document_id": ids.take(order)}
            columns |= {"shard": names.take(order), "fingerprint": stamps.take(order)}
            yield pa.RecordBatch.from_arrays([columns[each] for each in table.schema.names], schema=table.schema)

    def _scores(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.standard_t(3, (self.queries, count)).astype(np.float32)

    def _ids(self, number: int) -> list[str]:
        return [f"r{number:05d}-{each:06d}#0" for each in range(self.documents)]
