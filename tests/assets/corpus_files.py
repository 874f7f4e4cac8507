"""Writing the same records in every format, for the tests of the corpus's input side."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import zstandard

RECORDS = [
    {"id": f"r{n}", "text": f"Text number {n} — naïve.", "source": "even" if n % 2 == 0 else "odd"} for n in range(25)
]


def lines(records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def write_jsonl(path: Path, records=RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(records))
    return path


def write_gzip(path: Path, records=RECORDS) -> Path:
    """Two members, as from `cat a.gz b.gz`."""
    half = len(records) // 2
    path.write_bytes(gzip.compress(lines(records[:half])) + gzip.compress(lines(records[half:])))
    return path


def write_zstd(path: Path, records=RECORDS) -> Path:
    """Two frames."""
    half = len(records) // 2
    path.write_bytes(zstandard.compress(lines(records[:half])) + zstandard.compress(lines(records[half:])))
    return path


def write_parquet(path: Path, records=RECORDS, *, row_group_size: int = 7) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist(records), path, row_group_size=row_group_size)
    return path


def write_dataset(path: Path, records=RECORDS) -> Path:
    import datasets

    datasets.Dataset.from_list(records).save_to_disk(path)
    return path


def truncate(path: Path, keep: float = 0.6) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path
