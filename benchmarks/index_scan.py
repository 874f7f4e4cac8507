"""How long one question takes over an index of many documents: python -m benchmarks.index_scan [--documents 100000]

Generated codes in shards of 20,000 documents, written and read as the lake's own; the scan alone, without the model and
without the exact scores of what it proposes. A warm process; the median of five questions, with the processor's seconds
beside it (`work`), and both for a million documents in proportion. One JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from assets.lake.lake import Lake
from assets.step.reading import Reading
from assets.study import index_search
from assets.study.document_index import document_index_table

SHARD, BATCH, REPETITIONS, CANDIDATES = 20_000, 2_000, 5, 400


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--documents", type=int, default=100_000)
    asked.add_argument("--dimensions", type=int, default=32_768)
    asked.add_argument("--directory", type=Path, help="Where the table is written; a temporary one if left out.")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        lake = Lake(uri=directory)
        _generate(lake, options.documents, options.dimensions)
        taken = [_ask(lake, options.dimensions, seed) for seed in range(REPETITIONS + 1)][1:]
        size = sum(file.stat().st_size for file in Path(directory).rglob("*.parquet"))
    seconds, work = (median(each) for each in zip(*taken, strict=True))
    million = 1_000_000 / options.documents
    told = {"documents": options.documents, "dimensions": options.dimensions, "threads": torch.get_num_threads()}
    told |= {"bytes a document": round(size / options.documents), "seconds": seconds, "work": work}
    print(json.dumps(told | {"seconds for a million": seconds * million, "work for a million": work * million}))


def _generate(lake: Lake, documents: int, dimensions: int) -> None:
    table = document_index_table("scale")
    for number, start in enumerate(range(0, documents, SHARD)):
        rows = _rows(f"{number:05}", min(SHARD, documents - start), dimensions)
        lake.overwrite(table, rows, where={"shard": f"{number:05}"}, commit={})


def _rows(shard: str, count: int, dimensions: int) -> Iterator[pa.RecordBatch]:
    table, draw = document_index_table("scale"), np.random.default_rng(int(shard))
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        columns = {
            "shard": pa.array([shard] * size),
            "document_id": pa.array([f"{shard}-{number}#0" for number in range(start, start + size)]),
            "code": pa.array([draw.bytes(dimensions // 8) for _ in range(size)], pa.binary()),
            "factor": pa.array(draw.random(size), pa.float32()),
            "norm": pa.array(1 + draw.random(size), pa.float32()),
            "fingerprint": pa.array(["0" * 16] * size),
        }
        yield pa.RecordBatch.from_arrays([columns[name] for name in table.schema.names], schema=table.schema)


def _ask(lake: Lake, dimensions: int, seed: int) -> tuple[float, float]:
    """Seconds that passed and seconds of work of one scan."""
    query = torch.randn(dimensions, generator=torch.Generator().manual_seed(seed))
    study, sketch = SimpleNamespace(name="scale"), SimpleNamespace(of_direction=lambda _: query)
    opened = SimpleNamespace(reading=Reading(lake), study=study, sketch=sketch)
    started, worked = time.perf_counter(), time.process_time()
    found = index_search.scan_index(opened, {}, normed=True, count=CANDIDATES)
    assert len(found) == CANDIDATES
    return time.perf_counter() - started, time.process_time() - worked


if __name__ == "__main__":
    main()
