"""Maintenance against real Delta tables: what is joined, removed and kept, next to a writer at work."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake

from assets.lake.lake import Lake
from assets.lake.log import TableLog
from assets.lake.maintenance import maintain, maintain_lake, table_paths
from assets.lake.tables import Column, Table
from compute.errors import BadInput

DOCUMENTS = Table(
    key=("corpus", "demo", "documents"),
    grain="one row per document",
    columns=(
        Column("shard", pa.string(), "the slice of the corpus"),
        Column("row", pa.int64(), "position in the shard"),
        Column("fingerprint", pa.string(), "what the rows were computed from"),
    ),
    partition_by=("shard",),
    sort_by=("row",),
    row_group_rows=100,
)
SAMPLE = Table(
    key=("curvature", "fit", "sample"),
    grain="one row per document of the sample",
    columns=(
        Column("documents_version", pa.int64(), "version of the documents"),
        Column("fingerprint", pa.string(), "state"),
    ),
)
MONTH = 720


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def rows(shard: str, mark: str, *, count: int = 300, first: int = 0) -> pa.Table:
    columns = {"shard": [shard] * count, "row": range(first, first + count), "fingerprint": [mark * 16] * count}
    return pa.table({name: pa.array(values) for name, values in columns.items()}, schema=DOCUMENTS.schema)


def write(lake: Lake, shard: str, mark: str, **options) -> int:
    return lake.overwrite(
        DOCUMENTS,
        rows(shard, mark, **options),
        where={"shard": shard},
        commit={"dagster_run_id": f"run-{mark}", "partition": json.dumps({"shard": shard})},
    ).version


def write_in_small_files(lake: Lake, shard: str, mark: str, files: int) -> None:
    write(lake, shard, mark)
    small = WriterProperties(compression="ZSTD", max_row_group_size=DOCUMENTS.row_group_rows)
    for number in range(1, files):
        data = rows(shard, mark, first=300 * number)
        write_deltalake(directory(lake), data, mode="append", writer_properties=small)


def directory(lake: Lake, table: Table = DOCUMENTS) -> Path:
    return Path(lake.uri) / table.path


def content(lake: Lake, version: int | None = None) -> pl.DataFrame:
    return pl.scan_delta(str(directory(lake)), version=version).sort("shard", "row").collect()


def data_files(lake: Lake) -> list[Path]:
    return sorted(directory(lake).rglob("*.parquet"))


def grow_older(lake: Lake, hours: float, table: Table = DOCUMENTS) -> None:
    """As if everything had happened that much earlier: times of files, and of removals in the log."""
    for path in directory(lake, table).rglob("*"):
        if path.suffix == ".json":
            _date_back(path, hours)
        if path.is_file():
            at = path.stat().st_mtime - hours * 3600
            os.utime(path, (at, at))


def _date_back(path: Path, hours: float) -> None:
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        if "remove" in action:
            action["remove"]["deletionTimestamp"] -= int(hours * 3_600_000)
    path.write_text("".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions))


def test_codes_are_written_and_joined_without_a_dictionary(tmp_path):
    """Strings, which repeat, have one."""
    columns = (DOCUMENTS.columns[0], Column("code", pa.binary(), "bytes that never repeat"), DOCUMENTS.columns[2])
    table = Table(key=("codes",), grain="one row per code", columns=columns, partition_by=("shard",))
    lake = Lake(uri=str(tmp_path))
    data = {"shard": ["a"] * 4, "code": [bytes([number]) * 64 for number in range(4)], "fingerprint": ["x" * 16] * 4}
    rows_of_shard = pa.table(data, schema=table.schema)
    plain = pa.schema([field.remove_metadata() for field in table.schema])
    lake.overwrite(table, rows_of_shard, where={"shard": "a"}, commit={})
    written = set(directory(lake, table).rglob("*.parquet"))
    write_deltalake(directory(lake, table), rows_of_shard.cast(plain), mode="append")
    maintain(lake, table.path)
    joined = set(directory(lake, table).rglob("*.parquet")) - written
    assert has_dictionary(written) == {"code": False, "fingerprint": True}
    assert has_dictionary([max(joined, key=lambda path: path.stat().st_mtime)]) == {"code": False, "fingerprint": True}


def has_dictionary(files) -> dict[str, bool]:
    found = {}
    for file in files:
        group = pq.ParquetFile(file).metadata.row_group(0)
        for number in range(group.num_columns):
            column = group.column(number)
            found[column.path_in_schema] = column.has_dictionary_page
    return found


def test_small_files_are_joined_and_rows_fingerprints_and_row_groups_stay(lake):
    write_in_small_files(lake, "00000", "a", files=4)
    write(lake, "00001", "b")
    before, version = content(lake), lake.version(DOCUMENTS)
    report = maintain(lake, DOCUMENTS.path, commit={"dagster_run_id": "night"})
    assert (report.files_before, report.files_after, report.files_removed, report.note) == (5, 2, 0, "")
    assert content(lake).equals(before) and content(lake, version).equals(before)
    assert lake.fingerprints(DOCUMENTS) == {"00000": "a" * 16, "00001": "b" * 16}
    joined = max(data_files(lake), key=lambda path: path.stat().st_size)
    parts = [pq.ParquetFile(joined).metadata.row_group(number) for number in range(12)]
    assert {part.num_rows for part in parts} == {100} and {part.column(0).compression for part in parts} == {"ZSTD"}
    assert lake.history(DOCUMENTS, 1)[0]["dagster_run_id"] == "night"


def test_maintaining_again_makes_no_new_version(lake):
    write_in_small_files(lake, "00000", "a", files=3)
    maintain(lake, DOCUMENTS.path)
    version = lake.version(DOCUMENTS)
    maintain(lake, DOCUMENTS.path)
    assert lake.version(DOCUMENTS) == version


def test_earlier_versions_are_read_within_the_retention_and_removed_after_it(lake):
    for mark in "abc":
        version = write(lake, "00000", mark)
    (before,) = maintain_lake(lake)
    assert before.files_removed == 0
    for earlier, mark in ((version - 2, "a"), (version - 1, "b"), (version, "c")):
        assert set(content(lake, earlier)["fingerprint"]) == {mark * 16}
    grow_older(lake, MONTH - 1)
    assert maintain(lake, DOCUMENTS.path).files_removed == 0
    grow_older(lake, 2)
    size = sum(path.stat().st_size for path in data_files(lake))
    report = maintain(lake, DOCUMENTS.path)
    assert (report.files_removed, report.files_after) == (2, 1)
    assert report.bytes_removed == size - sum(path.stat().st_size for path in data_files(lake)) > 0
    assert set(content(lake)["fingerprint"]) == {"c" * 16}
    with pytest.raises(BadInput, match=f"version {version - 1} cannot be read|cannot be read"):
        lake.collect(DOCUMENTS, lake.scan(DOCUMENTS, version=version - 1))


def test_what_a_row_came_from_is_told_however_old_it_is(lake):
    version = write(lake, "00000", "a")
    write(lake, "00001", "b", count=1)
    grow_older(lake, 50 * 365 * 24)
    maintain(lake, DOCUMENTS.path)
    DeltaTable(str(directory(lake))).create_checkpoint()  # entries of the log before it may expire
    DeltaTable(str(directory(lake))).cleanup_metadata()
    write(lake, "00001", "c", count=1)
    entry = TableLog(lake.place, DOCUMENTS.path).newest_write(lake.version(DOCUMENTS), {"shard": "00000"})
    assert (entry.version, entry.metadata["dagster_run_id"]) == (version, "run-a")


def test_the_versions_that_samples_name_are_kept(lake):
    pinned = write(lake, "00000", "a")
    for mark in "bc":
        write(lake, "00000", mark)
    sample = pa.table({"documents_version": [pinned], "fingerprint": ["s" * 16]}, schema=SAMPLE.schema)
    lake.overwrite(SAMPLE, sample, commit={"inputs": json.dumps({DOCUMENTS.path: pinned})})
    grow_older(lake, MONTH + 1)
    report = next(report for report in maintain_lake(lake) if report.table == DOCUMENTS.path)
    assert (report.files_removed, report.versions_kept) == (1, (pinned,))
    assert set(content(lake, pinned)["fingerprint"]) == {"a" * 16}


@pytest.mark.parametrize("inputs", ["{}", ""])
def test_a_sample_that_does_not_say_its_corpus_keeps_that_version_of_each(lake, inputs):
    pinned = write(lake, "00000", "a")
    write(lake, "00000", "b")
    sample = pa.table({"documents_version": [pinned, 999], "fingerprint": ["s" * 16] * 2}, schema=SAMPLE.schema)
    lake.overwrite(SAMPLE, sample, commit={"inputs": inputs})
    grow_older(lake, MONTH + 1)
    report = next(report for report in maintain_lake(lake) if report.table == DOCUMENTS.path)
    assert (report.files_removed, report.versions_kept) == (0, (pinned,))


def test_files_of_killed_writers_go_once_they_are_older_than_the_retention(lake):
    write(lake, "00000", "a")
    old, fresh = (directory(lake) / "shard=00000" / f"part-{name}.parquet" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half a file")
    at = time.time() - (MONTH + 1) * 3600
    os.utime(old, (at, at))
    report = maintain(lake, DOCUMENTS.path)
    assert (report.files_removed, report.bytes_removed) == (1, 11)
    assert fresh.exists() and not old.exists()


def test_nothing_is_removed_while_a_run_that_is_older_than_the_retention_is_unfinished(lake):
    for mark in "ab":
        write(lake, "00000", mark)
    grow_older(lake, MONTH + 1)
    now = datetime.now(UTC)
    (report,) = maintain_lake(lake, now - timedelta(hours=MONTH + 1))
    assert report.files_removed == 0 and "longer ago than the retention, is unfinished" in report.note
    (report,) = maintain_lake(lake, now - timedelta(hours=MONTH - 1))
    assert report.files_removed == 1 and not report.note


@pytest.mark.parametrize("hours", [0, -1])
def test_a_retention_of_no_time_is_refused(tmp_path, hours):
    lake = Lake(uri=str(tmp_path), retention_hours=hours)
    write(lake, "00000", "a")
    for work in (lambda: maintain(lake, DOCUMENTS.path), lambda: maintain_lake(lake)):
        with pytest.raises(BadInput, match=f"retention_hours is {hours}: it must be at least 1"):
            work()


def test_tables_of_an_earlier_configuration_get_the_present_one(lake):
    write(lake, "00000", "a")
    old = {"delta.logRetentionDuration": "interval 1 hours", "delta.deletedFileRetentionDuration": "interval 1 hours"}
    DeltaTable(str(directory(lake))).alter.set_table_properties(old)
    maintain(lake, DOCUMENTS.path)
    configuration = DeltaTable(str(directory(lake))).metadata().configuration
    assert lake.retention().items() <= configuration.items()
    assert configuration["delta.dataSkippingStatsColumns"] == "row,fingerprint"


def test_a_writer_at_work_loses_nothing(lake):
    write(lake, "00000", "a")
    done = threading.Event()

    def work() -> None:
        for number in range(30):
            write_in_small_files(lake, f"{number % 3:05d}", "abcdef"[number % 6], files=2)
        done.set()

    writer = threading.Thread(target=work)
    writer.start()
    notes = set()
    while not done.is_set():
        notes.add(maintain(lake, DOCUMENTS.path).note)
    writer.join()
    assert notes <= {"", "its files were not joined, since a run wrote them meanwhile"}
    held = content(lake)
    assert len(held) == 3 * 600 and held.select("shard", "row").is_unique().all()
    assert lake.fingerprints(DOCUMENTS) == {"00000": "d" * 16, "00001": "e" * 16, "00002": "f" * 16}


def test_all_tables_are_found_and_a_damaged_one_leaves_the_others(lake):
    assert table_paths(lake) == [] and maintain_lake(lake) == []
    for mark in "ab":
        write(lake, "00000", mark)
    grow_older(lake, MONTH + 1)
    lake.ensure(SAMPLE)
    (Path(lake.uri) / "notes").mkdir()
    assert table_paths(lake) == ["corpus/demo/documents", "curvature/fit/sample"]
    assert table_paths(lake, "curvature") == ["curvature/fit/sample"]
    for path in directory(lake, SAMPLE).rglob("*.json"):
        path.write_text("{")
    seen = []
    reports = maintain_lake(lake, on_table=lambda report, number, total: seen.append((report.table, number, total)))
    assert seen == [("corpus/demo/documents", 1, 2), ("curvature/fit/sample", 2, 2)]
    assert reports[0].note == "nothing removed: curvature/fit/sample cannot be read, and may name versions of it"
    assert reports[1].note.startswith("not maintained: ")
