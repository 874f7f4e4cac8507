"""The lake among processes: concurrent writers, a writer that is killed, and memory that does not grow with
the rows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from assets.lake.lake import Lake
from assets.lake.tables import Column, Table

ROOT = Path(__file__).parents[2]
TABLE = Table(
    key=("study", "demo", "influence"),
    grain="one row per method, query and document",
    columns=(
        Column("shard", pa.string(), "the slice of the corpus"),
        Column("row", pa.int64(), "position in the shard"),
        Column("vector", pa.list_(pa.float32()), "numbers"),
        Column("fingerprint", pa.string(), "what the rows were computed from"),
    ),
    partition_by=("shard",),
    row_group_rows=1000,
)

PRELUDE = """
    import resource, sys, threading, time
    import numpy as np, pyarrow as pa
    from assets.lake.lake import Lake
    from tests.assets.test_lake_processes import TABLE, blocks
    lake = Lake(uri=sys.argv[1])
"""


def blocks(shard: str, count: int, *, rows: int = 256, width: int = 4):
    """`count` record batches; 1 MiB each at a width of 1,024."""
    import numpy as np

    for index in range(count):
        values = np.random.default_rng(index).standard_normal((rows, width), dtype=np.float32)
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32)), values.ravel()
        )
        numbers = pa.array(np.arange(index * rows, (index + 1) * rows))
        columns = [pa.array([shard] * rows), numbers, lists, pa.array(["f" * 16] * rows)]
        yield pa.record_batch(columns, schema=TABLE.schema)


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return output


def counts(lake: Lake) -> dict[str, int]:
    frame = lake.collect(TABLE, lake.scan(TABLE, allow_empty=True).group_by("shard").len())
    return dict(zip(frame["shard"], frame["len"], strict=True))


def test_concurrent_writers_of_different_partitions_lose_nothing(tmp_path):
    """Eight writers in four processes, on a lake and a table that none of them finds: each writes its
    partition twice.
    """
    script = """
        def work(name):
            for _ in range(2):
                commit = lake.overwrite(TABLE, blocks(name, 2), where={"shard": name}, commit={"writer": name})
                print(commit.version, name, flush=True)
        threads = [threading.Thread(target=work, args=(f"{sys.argv[2]}-{i}",)) for i in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    lake = Lake(uri=str(tmp_path / "lake"))
    reported = [
        line.split()
        for process in [start(script, lake.uri, i) for i in range(4)]
        for line in finish(process).splitlines()
    ]
    assert counts(lake) == {f"{i}-{j}": 512 for i in range(4) for j in range(2)}
    assert sorted(int(version) for version, _ in reported) == list(range(1, 17))
    written = {str(entry["version"]): entry.get("writer") for entry in lake.history(TABLE)}
    assert all(written[version] == name for version, name in reported)  # each commit reports its own version
    assert json.loads((tmp_path / "lake" / "_headwater.json").read_text()) == {"layout": 1}


def test_processes_that_write_one_partition_at_once_never_duplicate(tmp_path):
    script = """
        from assets.lake.lake import WriteConflict
        rows = pa.Table.from_batches(blocks("same", int(sys.argv[2])))
        for _ in range(6):
            try:
                lake.overwrite(TABLE, rows, where={"shard": "same"}, commit={})
            except WriteConflict as error:
                assert "shard 'same' at the same time" in str(error)
    """
    lake = Lake(uri=str(tmp_path))
    for process in [start(script, lake.uri, size) for size in (1, 2, 3)]:
        finish(process)
    assert counts(lake)["same"] in (256, 512, 768)


def test_a_writer_killed_halfway_leaves_the_table_and_a_rerun_completes_it(tmp_path):
    """Killed while the rows are made, and killed while delta-rs writes its files, before the commit."""
    lake = Lake(uri=str(tmp_path))
    lake.overwrite(TABLE, blocks("a", 1), where={"shard": "a"}, commit={})
    while_made = """
        def halfway():
            yield from blocks("a", 8, width=1024)
            print("ready", flush=True)
            time.sleep(60)
        lake.overwrite(TABLE, halfway(), where={"shard": "a"}, commit={})
    """
    while_written = """
        import assets.lake.lake, contextlib
        def stalling():
            yield from blocks("a", 128, width=1024)  # more than one file
            print("ready", flush=True)
            time.sleep(60)
        @contextlib.contextmanager
        def set_aside(table, data, where):
            yield lambda: pa.RecordBatchReader.from_batches(TABLE.schema, stalling())
        assets.lake.lake.set_aside = set_aside
        lake.overwrite(TABLE, blocks("a", 1), where={"shard": "a"}, commit={})
    """
    for script in (while_made, while_written):
        process = start(script, lake.uri)
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert (lake.version(TABLE), counts(lake)) == (1, {"a": 256})
    assert len(list((tmp_path / TABLE.path).glob("shard=a/*"))) > 1  # the orphans that a full vacuum collects
    lake.overwrite(TABLE, blocks("a", 2), where={"shard": "a"}, commit={})
    assert (lake.version(TABLE), counts(lake)) == (2, {"a": 512})


@pytest.mark.slow
def test_a_streamed_partition_does_not_have_to_fit_into_memory(tmp_path):
    """900 MiB written in less memory than that, and read in far less, imports not counted."""
    peak = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    written = 'lake.overwrite(TABLE, blocks("a", 900, width=1024), where={"shard": "a"}, commit={})\n' + peak
    read = 'print(sum(batch.num_rows for batch in lake.read_batches(TABLE, where={"shard": "a"})))\n' + peak
    lake = Lake(uri=str(tmp_path))
    baseline = int(finish(start("import polars\nlake.version(TABLE)\n" + peak, lake.uri)))
    write_peak = int(finish(start(written, lake.uri)))
    rows, read_peak = map(int, finish(start(read, lake.uri)).split())
    print(f"peak MiB: imports {baseline}, writing {write_peak}, reading {read_peak}")
    assert rows == 900 * 256
    assert write_peak - baseline < 750
    assert read_peak - baseline < 300
