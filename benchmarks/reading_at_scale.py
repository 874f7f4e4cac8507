"""How long reading takes over many scores: python -m benchmarks.reading_at_scale [--rows 1000000000] [--keep DIR]

Without --rows: 10 million scores (32 queries) in 10 and in 1,000 shards, read through influence alone and through the
clustered table, with what one more shard costs. With --rows: so many scores of 100 queries as sorted runs (some
13 bytes a score on disk). With --keep the lake stays there, and is only read where it is there already. A warm
process; medians of five, over other queries each time, and the processor's seconds beside them (`work`). One JSON
object a line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow as pa
from fastapi.testclient import TestClient

from assets.lake.lake import Lake
from assets.study.completions import completions_table
from assets.study.influence import influence_table
from assets.study.rankings import rankings_table
from benchmarks.generated_scores import METHOD, GeneratedScores
from orchestration.explorer.app import explorer
from orchestration.results import Results

STUDY, REPETITIONS, TOP, RANKED = "scale", 5, 20, 50
SQL = (
    "SELECT document_id, score FROM influence WHERE study = 'scale' AND method = 'ekfac' AND query_id = '{}' "
    "ORDER BY score DESC LIMIT 20"
)
SQL_OF_BOTH_METHODS = SQL.replace("AND method = 'ekfac' ", "")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, help="Scores of the large table.")
    asked.add_argument("--keep", type=Path, help="Where the lake of --rows is written, or is already.")
    arguments = asked.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if arguments.rows:
            large(arguments.keep or Path(root), arguments.rows)
            return
        for shards in (10, 1_000):
            small(Path(root) / str(shards), shards)
            adding(Path(root) / f"adding to {shards}", shards)


def small(root: Path, shards: int) -> None:
    """10 million scores of 32 queries, influence first, then the clustered table."""
    scores = GeneratedScores(Lake(uri=str(root)), STUDY, shards, 10_000_000 // 32 // shards, 32)
    _, times = timed(lambda: [scores.write_shard(number) for number in range(shards)])
    told(shards=shards, step="influence is written", **times)
    write_people_s_tables(scores)
    measure(scores, f"{shards} shards, influence alone")
    runs, times = timed(scores.cluster)
    told(shards=shards, step="and clustered by query", runs=runs, **times)
    measure(scores, f"{shards} shards, clustered")


def adding(root: Path, shards: int) -> None:
    """What one more shard of 10,000 scores costs next to so many, with the merges that it brings about."""
    scores = GeneratedScores(Lake(uri=str(root)), STUDY, shards, 312, 32)
    for number in range(shards):
        scores.write_shard(number)
    scores.cluster()
    for number in range(shards, shards + 8):
        scores.write_shard(number)
        _, times = timed(scores.cluster)
        told(shards=shards, step="one more shard is clustered", rows=scores.documents * 32, **times)


def large(root: Path, rows: int) -> None:
    """The clustered table alone."""
    documents = 10_000
    scores = GeneratedScores(Lake(uri=str(root)), STUDY, rows // 100 // documents, documents, 100)
    if scores.lake.version(influence_table(STUDY)) is None:
        started = time.monotonic()
        for written in scores.write_runs(20):
            told(step="runs are written", rows=written, seconds=time.monotonic() - started)
        write_people_s_tables(scores)
    measure(scores, f"{scores.shards * scores.documents * scores.queries:,} rows, clustered")


def measure(scores: GeneratedScores, setting: str) -> None:
    """Medians of each way to read, over queries that were not read before."""
    results = Results(scores.lake)
    app = TestClient(explorer(results, Path(scores.lake.uri) / "cache"), base_url="http://127.0.0.1")
    address = "/query?study=scale&query={}&ranking=raw"
    ways: dict[str, Callable[[str], object]] = {
        "Results.top": lambda query: Results(scores.lake).top(STUDY, query, METHOD, TOP),
        "Results.top, the lowest": lambda query: Results(scores.lake).top(STUDY, query, METHOD, TOP, "bottom"),
        "SQL, top 20": lambda query: Results(scores.lake).sql(SQL.format(query)).collect(),
        "SQL, top 20 of all methods": lambda query: (
            Results(scores.lake).sql(SQL_OF_BOTH_METHODS.format(query)).collect()
        ),
        "polars, top 20": lambda query: (
            Results(scores.lake)
            .table("influence")
            .filter(study=STUDY, query_id=query)
            .select("document_id", "score")
            .top_k(TOP, by="score")
            .collect()
        ),
        "explorer, list of studies": lambda query: _page(app, "/"),
        "explorer, a query": lambda query: _page(app, address.format(query)),
    }
    queries = [query for _, query in scores.keys]
    for number, (way, read) in enumerate(ways.items()):
        read(queries[-1])
        times = [timed(partial(read, query))[1] for query in queries[number : number + REPETITIONS]]
        seconds, work = zip(*((each["seconds"], each["work"]) for each in times), strict=True)
        told(setting=setting, way=way, seconds=median(seconds), longest=max(seconds), work=median(work))


def write_people_s_tables(scores: GeneratedScores) -> None:
    """Completions and rankings, which the explorer reads: of the latter the first of each query by generated scores."""
    rows = [_completion(place, query) for place, (_, query) in enumerate(scores.keys)]
    table = completions_table(STUDY)
    scores.lake.overwrite(table, pa.Table.from_pylist(rows, table.schema), commit={})
    table = rankings_table(STUDY)
    ranked = [row for _, query in scores.keys for row in _ranked(query)]
    scores.lake.overwrite(table, pa.Table.from_pylist(ranked, table.schema), commit={})


def _completion(place: int, query: str) -> dict:
    row = {field.name: _blank(field) for field in completions_table(STUDY).schema}
    return row | {"query_id": query, "position": place, "prompt": "the river", "completion": f" runs to {query}"}


def _ranked(query: str) -> Iterator[dict]:
    blank = {field.name: _blank(field) for field in rankings_table(STUDY).schema}
    text = ["the", " river", " runs", " to", " the", " mountain"] * 60
    shares = {"tokens": text, "token_scores": [0.1] * len(text), "token_ids": [1] * len(text), "text": "".join(text)}
    for ranking in ("raw", "normed"):
        for end in ("top", "bottom"):
            for rank in range(1, RANKED + 1):
                known = {"method": METHOD, "query_id": query, "ranking": ranking, "end": end, "rank": rank}
                named = {"document_id": f"r00000-{rank:06d}#0", "score": 1.0 / rank, "source": "prose"}
                yield blank | known | named | shares


def _blank(field: pa.Field) -> object:
    if field.nullable:
        return None
    if pa.types.is_list(field.type):
        return []
    return "" if pa.types.is_string(field.type) else field.type.to_pandas_dtype()(0).item()


def _page(app: TestClient, address: str) -> None:
    answer = app.get(address)
    assert answer.status_code == 200, answer.text


def timed(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What it gives, its seconds, and those of the processor in all threads of the process (`work`)."""
    started, busy = time.perf_counter(), time.process_time()
    found = work()
    return found, {"seconds": time.perf_counter() - started, "work": time.process_time() - busy}


def told(**facts: object) -> None:
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in facts.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
