"""What the findings cost over millions of documents: python -m benchmarks.findings_at_scale [DOCUMENTS] [QUERIES]

Scores are generated, one shard of 50,000 documents at a time: heavy-tailed, two kinds of query with five tasks each,
ten sources. Their statistics are written to a temporary lake, and the analyses that need nothing else are made of them.
Only the raw ranking is written; a study writes a second one, of normed scores, which doubles the tables and what is
read through, and not what is held. Of every stage: seconds, and the process's peak memory so far.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from assets.findings.correlation import CORRELATION
from assets.findings.evidence import evidence_rows
from assets.findings.magnitude import MAGNITUDE
from assets.findings.power_law import POWER_LAW
from assets.findings.score_statistics import (
    score_statistics_rows,
    score_statistics_table,
    source_statistics_rows,
    source_statistics_table,
)
from assets.findings.sources import SOURCES
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.study import Study, StudySpec
from assets.study.completions import completions_table

DOCUMENTS, QUERIES, SHARD_DOCUMENTS = 5_000_000, 100, 50_000
SOURCES_OF_CORPUS = np.array([f"source {number}" for number in range(10)])
METHOD, TASKS = "ekfac", 5
STAMP = "0" * 16


def main(documents: int, queries: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        bench = Bench.of(root, queries)
        for number, start in enumerate(range(0, documents, SHARD_DOCUMENTS)):
            bench.write_shard(number, min(SHARD_DOCUMENTS, documents - start))
        for stage, seconds in bench.seconds.items():
            print(json.dumps({"stage": stage, "seconds": round(seconds, 1)} | memory()), flush=True)
        for table in (score_statistics_table("scale"), source_statistics_table("scale")):
            print(json.dumps({"table": table.key[-1], "rows": bench.rows[table.key[-1]], "bytes": size(root, table)}))
        for analysis in (CORRELATION, MAGNITUDE, POWER_LAW, SOURCES):
            found = bench.timed(analysis.name, lambda find=analysis.find: find(bench, bench.study))
            told = {"rows": len(found.rows), "evidence": evidence_rows(analysis.name, found.evidence, STAMP).num_rows}
            seconds = round(bench.seconds[analysis.name], 1)
            print(json.dumps({"stage": analysis.name, "seconds": seconds} | told | memory()), flush=True)


@dataclass
class Bench:
    """The lake and the study, in place of the step that an analysis is run in."""

    lake: Lake
    study: Study
    keys: list[tuple[str, str]]
    draw: np.random.Generator
    seconds: dict[str, float]
    rows: dict[str, int]

    @classmethod
    def of(cls, root: str, queries: int) -> Bench:
        lake, table = Lake(uri=root), completions_table("scale")
        rows = list(query_rows(queries))
        lake.overwrite(table, pa.Table.from_pylist(rows, schema=table.schema), commit={})
        keys = [(METHOD, row["query_id"]) for row in rows]
        return cls(lake, study(), keys, np.random.default_rng(0), defaultdict(float), defaultdict(int))

    def version(self, table: Table) -> int | None:
        return self.lake.version(table)

    def scan(self, table: Table) -> pl.LazyFrame:
        return self.lake.scan(table)

    def timed(self, stage: str, work: Callable):
        started = time.monotonic()
        done = work()
        self.seconds[stage] += time.monotonic() - started
        return done

    def write_shard(self, number: int, documents: int) -> None:
        """Generates a shard's scores and writes their statistics."""
        shard, ids = f"{number:05d}", [f"document-{number:05d}-{each:06d}" for each in range(documents)]
        sources, scores = self.timed("scores are generated", lambda: self.scores(documents))
        depth = self.study.spec.findings.depth
        made = {
            score_statistics_table: lambda: score_statistics_rows(shard, "raw", self.keys, ids, scores, depth, STAMP),
            source_statistics_table: lambda: source_statistics_rows(shard, "raw", self.keys, sources, scores, STAMP),
        }
        for table, make in made.items():
            name = table("scale").key[-1]
            rows = self.timed(f"{name} are made", make)
            write = lambda rows=rows, table=table: self.lake.overwrite(  # noqa: E731
                table("scale"), rows, where={"shard": shard}, commit={}
            )
            self.timed(f"{name} are written", write)
            self.rows[name] += rows.num_rows

    def scores(self, documents: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents' sources, and scores of tails with exponent 3 to which each task adds what its queries share;
        of documents of the first source the second kind's are doubled."""
        codes, queries = self.draw.integers(0, len(SOURCES_OF_CORPUS), documents), len(self.keys)
        own = self.draw.standard_normal((queries, documents), np.float32)
        shared = self.draw.standard_normal((2 * TASKS, documents), np.float32)
        own += 0.5 * shared[np.arange(queries) % (2 * TASKS)]
        scores = own / np.sqrt(self.draw.standard_exponential(documents, np.float32) + np.float32(1e-6))
        scores[1::2, codes == 0] *= 2
        return SOURCES_OF_CORPUS[codes], scores * np.float32(1e-3)


def query_rows(queries: int) -> Iterator[dict]:
    for number in range(queries):
        task = number % (2 * TASKS)
        yield {
            "position": number,
            "query_id": f"q{number:04d}",
            "prompt": "?",
            "completion": "!",
            "generated": True,
            "prompt_token_ids": [0],
            "completion_token_ids": [1],
            "nats": 2.0,
            "loss": 2.0,
            "task": f"task {task}",
            "kind": ("factual", "reasoning")[task % 2],
            "answer": None,
            "is_right": None,
            "fingerprint": STAMP,
        }


def study() -> Study:
    """A study whose sources are ranked as its statistics are: raw."""
    spec = {
        "study": "scale",
        "corpus": {"name": "scale", "path": ["*.jsonl"], "max_tokens": 512},
        "model": {"name": "scale", "path": "model"},
        "curvature": {"name": "scale", "sample_documents": 1000},
        "queries": {"name": "scale", "path": "queries.jsonl"},
        "findings": {"ranking": "raw"},
    }
    return Study(StudySpec.model_validate(spec), ".")


def size(root: str, table: Table) -> int:
    return sum(each.stat().st_size for each in Path(root, table.path).rglob("*.parquet"))


def memory() -> dict[str, float]:
    return {"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


if __name__ == "__main__":
    asked = [int(each) for each in sys.argv[1:]]
    main(*asked, *(DOCUMENTS, QUERIES)[len(asked) :])
