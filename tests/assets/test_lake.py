"""The lake against real Delta tables: atomic partitions, refused rows, versions, fingerprints, damage and layout."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pydantic import PrivateAttr

from assets.lake.columns import METHOD
from assets.lake.lake import CONFLICT_ATTEMPTS, Lake, WriteConflict
from assets.lake.tables import Column, Table, WrongRows
from assets.specs.methods import METHODS
from compute.errors import BadInput

TABLE = Table(
    key=("corpus", "demo", "documents"),
    grain="one row per document",
    columns=(
        Column("shard", pa.string(), "the slice of the corpus"),
        Column("row", pa.int64(), "position in the shard"),
        Column("text", pa.string(), "the document's text", nullable=True),
        Column("loss", pa.float64(), "summed token loss in nats"),
        Column("vector", pa.list_(pa.float32()), "numbers", nullable=True),
        Column("fingerprint", pa.string(), "what the rows were computed from"),
    ),
    partition_by=("shard",),
    sort_by=("row",),
    row_group_rows=1000,
)
WHOLE = Table(
    key=("queries", "demo", "queries"),
    grain="one row per query",
    columns=(Column("id", pa.string(), "the query's id"), Column("fingerprint", pa.string(), "state")),
)
WEIRD = [
    "it's",
    "''; DROP TABLE x; --",
    "a/b c",
    "100%",
    "ünï",
    "x=y",
    "back\\slash",
    "new\nline",
    '"q"',
    "$1",
    " lead",
    "..",
    "NULL",
]


@pytest.fixture(params=["lake", "a=1 läke 100%"])  # a directory's name may hold what a URI may not
def lake(tmp_path, request) -> Lake:
    return Lake(uri=str(tmp_path / request.param))


def rows(shard: str, count: int = 3, *, loss: float = 1.0, mark: str = "0123456789abcdef") -> pa.Table:
    columns = {
        "shard": [shard] * count,
        "row": list(range(count)),
        "text": [f"text {i}" for i in range(count)],
        "loss": [loss] * count,
        "vector": [[0.5, 1.5]] * count,
        "fingerprint": [mark] * count,
    }
    return pa.table(columns, schema=TABLE.schema)


def write(lake: Lake, shard: str, data: pa.Table | None = None, **options):
    return lake.overwrite(
        TABLE, data if data is not None else rows(shard, **options), where={"shard": shard}, commit={}
    )


def counts(lake: Lake, table: Table = TABLE) -> dict[str, int]:
    frame = lake.collect(table, lake.scan(table, allow_empty=True).group_by("shard").len())
    return dict(zip(frame["shard"], frame["len"], strict=True))


# -- writes


def test_the_column_method_names_every_method():
    assert all(re.search(rf"\b{method}\b", METHOD.description) for method in METHODS)


def test_a_rerun_replaces_its_partition_and_nothing_else(lake):
    write(lake, "a", count=5)
    write(lake, "b", count=2)
    write(lake, "a", count=5)
    assert counts(lake) == {"a": 5, "b": 2}
    write(lake, "a", count=1)
    assert counts(lake) == {"a": 1, "b": 2}
    write(lake, "a", count=0)
    assert counts(lake) == {"b": 2}


def test_a_commit_reports_what_it_added(lake):
    write(lake, "a", count=5)
    commit = write(lake, "b", count=7)
    files = list((lake_dir(lake) / "shard=b").glob("*.parquet"))
    assert (commit.version, commit.rows, commit.files) == (2, 7, 1)
    assert commit.bytes == sum(file.stat().st_size for file in files)
    assert commit.seconds > 0
    assert pq.ParquetFile(files[0]).metadata.row_group(0).column(0).compression == "ZSTD"


def test_without_where_the_whole_table_is_replaced(lake):
    for ids in (["q1", "q2"], ["q3"]):
        data = pa.table({"id": ids, "fingerprint": ["f" * 16] * len(ids)})
        lake.overwrite(WHOLE, data, commit={})
    assert lake.collect(WHOLE, lake.scan(WHOLE))["id"].to_list() == ["q3"]
    write(lake, "a")
    lake.overwrite(TABLE, pa.concat_tables([rows("b"), rows("c")]), commit={})
    assert counts(lake) == {"b": 3, "c": 3}


def test_metadata_of_the_newest_write_is_kept(lake):
    lake.ensure(TABLE)
    assert lake.last_commit(TABLE) == {}
    lake.overwrite(TABLE, rows("a"), where={"shard": "a"}, commit={"dagster_run_id": "r1", "code_version": "7"})
    assert lake.last_commit(TABLE) == {"dagster_run_id": "r1", "code_version": "7"}
    newest = lake.history(TABLE, 1)[0]
    assert newest["version"] == 1 and newest["dagster_run_id"] == "r1"


@pytest.mark.parametrize("shard", WEIRD)
def test_any_partition_value_comes_back_as_it_went_in(lake, shard):
    write(lake, "other", count=2)
    write(lake, shard, count=4)
    write(lake, shard, count=3)
    assert counts(lake) == {"other": 2, shard: 3}
    assert lake.collect(TABLE, lake.scan(TABLE, where={"shard": shard})).height == 3
    assert sum(batch.num_rows for batch in lake.read_batches(TABLE, where={"shard": shard})) == 3
    assert set(lake.fingerprints(TABLE)) == {"other", shard}


@pytest.mark.parametrize("shard", ["", "__HIVE_DEFAULT_PARTITION__", "a\0b"])
def test_names_that_delta_reads_back_as_null_are_refused(lake, shard):
    with pytest.raises(BadInput, match="cannot name a partition"):
        write(lake, shard)
    assert lake.version(TABLE) is None


def test_a_stream_that_spills_to_disk_keeps_every_row(lake, monkeypatch):
    monkeypatch.setattr("assets.lake.writing.MEMORY_BYTES", 50_000)
    for _ in range(2):
        commit = lake.overwrite(
            TABLE, iter(rows("a", 9500).to_batches(max_chunksize=300)), where={"shard": "a"}, commit={}
        )
    assert commit.rows == 9500
    back = lake.collect(TABLE, lake.scan(TABLE)).sort("row").select(TABLE.schema.names).to_arrow()
    assert (
        back["row"].to_pylist() == list(range(9500)) and back["text"].to_pylist() == rows("a", 9500)["text"].to_pylist()
    )


def test_rows_are_sorted_into_narrow_row_groups(lake):
    shuffled = rows("a", 4000).sort_by([("text", "descending")])
    for data in (shuffled, iter(rows("b", 4000).to_batches(max_chunksize=64))):  # a stream comes sorted
        lake.overwrite(TABLE, data, where={"shard": "b" if data is not shuffled else "a"}, commit={})
    for shard in "ab":
        (file,) = (lake_dir(lake) / f"shard={shard}").glob("*.parquet")
        parquet = pq.ParquetFile(file)
        spans = [pc_span(parquet.read_row_group(i)["row"]) for i in range(parquet.num_row_groups)]
        assert len(spans) >= 4 and all(high - low <= 1100 for low, high in spans)


def pc_span(column) -> tuple[int, int]:
    values = column.to_pylist()
    return min(values), max(values)


# -- refused rows


def test_rows_outside_of_the_partition_are_refused(lake):
    write(lake, "a")
    for data in (rows("b"), iter(rows("b").to_batches()), pa.concat_tables([rows("a"), rows("b")])):
        with pytest.raises(WrongRows, match=r"3 rows have shard = 'b', outside of the partition shard = 'a'"):
            lake.overwrite(TABLE, data, where={"shard": "a"}, commit={})
    assert counts(lake) == {"a": 3} and lake.version(TABLE) == 1


def wrong_schemas():
    good = rows("a")
    yield "column row should be int64, but the rows have double", good.set_column(1, "row", pa.array([0.5, 1.5, 2.0]))
    yield (
        "column row should be int64, but the rows have int32",
        good.set_column(1, "row", pa.array([0, 1, 2], pa.int32())),
    )
    yield "column loss should be double", good.set_column(3, "loss", pa.array([1, 2, 3]))
    yield "column vector should be list", good.set_column(4, "vector", pa.array([[1.0]] * 3, pa.list_(pa.float64())))
    yield "the rows lack the column text", good.drop_columns(["text"])
    yield "have a column extra that the table does not declare", good.append_column("extra", pa.array([1, 2, 3]))
    yield "column row is required, but 1 of 3 rows are null", good.set_column(1, "row", pa.array([0, None, 2]))


@pytest.mark.parametrize(("message", "data"), wrong_schemas())
def test_rows_of_another_schema_are_refused_by_column(lake, message, data):
    write(lake, "a")
    for given in (data, iter(data.to_batches())):
        with pytest.raises(WrongRows, match=message):
            lake.overwrite(TABLE, given, where={"shard": "a"}, commit={})
    assert counts(lake) == {"a": 3}


def test_polars_layouts_column_order_nulls_and_nan_are_taken(lake):
    frame = pl.from_arrow(rows("a", loss=float("nan"))).select(reversed(TABLE.schema.names)).with_columns(text=None)
    frame = frame.with_columns(pl.col("text").cast(pl.String))
    assert frame.to_arrow().schema.field("shard").type == pa.large_string()
    lake.overwrite(TABLE, frame.to_arrow(), where={"shard": "a"}, commit={})
    back = lake.collect(TABLE, lake.scan(TABLE))
    assert back["loss"].is_nan().all() and back["text"].null_count() == 3
    assert back.columns == TABLE.schema.names


def test_one_partition_has_one_fingerprint(lake):
    mixed = pa.concat_tables([rows("a", mark="a" * 16), rows("a", mark="b" * 16)])
    with pytest.raises(WrongRows, match="one fingerprint"):
        lake.overwrite(TABLE, mixed, where={"shard": "a"}, commit={})


def test_a_table_of_other_columns_in_the_lake_is_refused(lake):
    write(lake, "a")
    columns = tuple(c for c in TABLE.columns if c.name != "text")
    with pytest.raises(BadInput, match="corpus/demo/documents: column text is only in the lake"):
        lake.ensure(Table(TABLE.key, TABLE.grain, columns, TABLE.partition_by))
    changed = (Column("shard", pa.string(), "s"), Column("row", pa.int32(), "r"), *TABLE.columns[2:])
    with pytest.raises(BadInput, match="column row is int64 not null in the lake, not int32 not null"):
        lake.ensure(Table(TABLE.key, TABLE.grain, changed, TABLE.partition_by))
    with pytest.raises(BadInput, match="is partitioned by"):
        lake.ensure(Table(TABLE.key, TABLE.grain, TABLE.columns))
    with pytest.raises(ValueError, match="'row' is not one of the partition columns"):
        lake.overwrite(TABLE, rows("a"), where={"row": "1"}, commit={})


def test_columns_carry_their_sentences_into_delta(lake):
    lake.ensure(TABLE)
    lake.ensure(TABLE)
    assert lake.version(TABLE) == 0
    first = (lake_dir(lake) / "_delta_log" / f"{0:020}.json").read_text().splitlines()
    (metadata,) = [json.loads(line)["metaData"] for line in first if "metaData" in line]
    fields = json.loads(metadata["schemaString"])["fields"]
    assert fields[3]["metadata"] == {"comment": "summed token loss in nats"}
    assert metadata["description"] == "one row per document"
    assert metadata["configuration"]["delta.deletedFileRetentionDuration"] == "interval 720 hours"


def test_a_sentence_that_is_worded_anew_does_not_keep_rows_out(lake):
    write(lake, "a")
    columns = tuple(Column(c.name, c.type, c.description + "!", c.nullable) for c in TABLE.columns)
    worded_anew = replace(TABLE, columns=columns)
    lake.overwrite(worded_anew, rows("b"), where={"shard": "b"}, commit={})
    lake.overwrite(worded_anew, iter(rows("c").to_batches()), where={"shard": "c"}, commit={})
    assert counts(lake, worded_anew) == {"a": 3, "b": 3, "c": 3}


def test_a_step_opens_each_version_of_a_table_once(lake, monkeypatch):
    write(lake, "a")
    opened = []
    whole = DeltaTable.__init__

    def counted(self, uri, version=None, **options):
        opened.append(version)
        whole(self, uri, version=version, **options)

    monkeypatch.setattr(DeltaTable, "__init__", counted)
    with lake.opening_once():
        first = lake.version(TABLE)
        for _ in range(3):
            assert lake.scan(TABLE, version=first).collect().height == 3
            lake.fingerprints(TABLE, version=first)
        write(lake, "b")
        assert lake.count(TABLE) == 6
        assert lake.version(TABLE) == first + 1
        write(Lake(uri=lake.uri), "c")  # another process, which opens for itself
        theirs = len(opened)
        assert lake.partition_rows(TABLE) == {"a": 3, "b": 3, "c": 3}
        assert len(opened) == theirs
        assert lake.partition_rows(TABLE, version=first) == {"a": 3}
    assert opened.count(first) == 1
    lake.version(TABLE)
    assert len(opened) == theirs + 1  # outside of a step, every question opens the table anew


def test_creators_at_once_make_one_table(lake):
    threads = [threading.Thread(target=Lake(uri=lake.uri).ensure, args=(TABLE,)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert lake.version(TABLE) == 0


# -- abandoned and conflicting writes


def test_an_error_while_batches_are_made_leaves_the_table_as_it_was(lake):
    write(lake, "a")

    def failing():
        yield from rows("a", 5000).to_batches()
        raise RuntimeError("the model met a NaN")

    with pytest.raises(RuntimeError, match="the model met a NaN"):
        lake.overwrite(TABLE, failing(), where={"shard": "a"}, commit={})
    assert counts(lake) == {"a": 3} and lake.version(TABLE) == 1


def test_an_interrupt_while_batches_are_made_leaves_the_table_as_it_was(lake):
    write(lake, "a")

    def interrupted():
        yield from rows("a", 2000).to_batches()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.overwrite(TABLE, interrupted(), where={"shard": "a"}, commit={})
    assert counts(lake) == {"a": 3} and lake.version(TABLE) == 1


def test_a_stream_may_read_and_write_the_lake_while_it_is_made(lake):
    write(lake, "a", count=4)

    def made_from_the_lake():
        write(lake, "b")
        yield from lake.read_batches(TABLE, where={"shard": "a"}, batch_rows=1)

    lake.overwrite(TABLE, made_from_the_lake(), where={"shard": "a"}, commit={})
    assert counts(lake) == {"a": 4, "b": 3}


def test_a_write_that_fails_leaves_the_table_as_it_was(lake):
    write(lake, "a")
    (lake_dir(lake) / "shard=x").write_text("a file where the partition's directory should be")
    with pytest.raises(Exception, match=r"(?i)not a directory|exists"):
        write(lake, "x")
    assert counts(lake) == {"a": 3} and lake.version(TABLE) == 1


class Overtaken(Lake):
    """A lake in which another writer commits the same partition between this writer's opening and its commit."""

    _left: int = PrivateAttr(default=0)

    def _committed(self, target, *rest) -> bool:
        if self._left:
            self._left -= 1
            write(Lake(uri=self.uri), "a", count=7)
        return super()._committed(target, *rest)


@pytest.mark.parametrize("rows_come", ["as a table", "as a stream", "as a stream that spills"])
def test_a_write_that_is_overtaken_is_done_again_or_raises(lake, rows_come, monkeypatch):
    if rows_come == "as a stream that spills":
        monkeypatch.setattr("assets.lake.writing.MEMORY_BYTES", 10)
    write(lake, "a")
    other = Overtaken(uri=lake.uri)
    for left, expected in ((1, 5), (CONFLICT_ATTEMPTS, 7)):
        other._left = left
        data = rows("a", 5) if rows_come == "as a table" else iter(rows("a", 5).to_batches(max_chunksize=2))
        if left == CONFLICT_ATTEMPTS:
            with pytest.raises(WriteConflict, match="shard 'a' at the same time"):
                write(other, "a", data)
        else:
            write(other, "a", data)
        assert counts(lake) == {"a": expected}


def test_writers_of_one_partition_at_once_leave_one_result(lake):
    lake.ensure(TABLE)
    threads = [threading.Thread(target=write, args=(lake, "a"), kwargs={"count": n}) for n in (4, 5, 6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert counts(lake)["a"] in (4, 5, 6) and lake.version(TABLE) == 3


# -- reads


def test_a_reader_names_its_version(lake):
    write(lake, "a", count=2)
    pinned = lake.scan(TABLE, version=1)
    write(lake, "a", count=9)
    assert lake.collect(TABLE, pinned).height == 2
    assert lake.collect(TABLE, lake.scan(TABLE)).height == 9
    assert sum(batch.num_rows for batch in lake.read_batches(TABLE, version=1)) == 2
    with pytest.raises(BadInput, match="there is no version 9; the newest is 2"):
        lake.scan(TABLE, version=9)


def test_a_missing_or_empty_table_names_what_to_materialize(lake):
    for read in (lake.scan, lake.read_batches, lake.history, lake.fingerprints):
        with pytest.raises(
            BadInput, match=r"corpus/demo/documents: is not in the lake .* materialize the asset corpus/demo"
        ):
            read(TABLE)
    assert lake.version(TABLE) is None
    assert not lake.place.is_local or not lake_dir(lake).exists()
    lake.ensure(TABLE)
    with pytest.raises(BadInput, match="corpus/demo/documents: has no rows"):
        lake.scan(TABLE)
    assert lake.collect(TABLE, lake.scan(TABLE, allow_empty=True)).height == 0
    assert list(lake.read_batches(TABLE)) == [] and lake.fingerprints(TABLE) == {}


def test_batches_are_bounded_and_keep_the_declared_types(lake):
    write(lake, "a", count=2500)
    batches = list(lake.read_batches(TABLE, columns=["shard", "row", "vector"], batch_rows=400))
    assert sum(batch.num_rows for batch in batches) == 2500 and max(batch.num_rows for batch in batches) <= 400
    assert [batch.schema.field(i).type for batch in batches[:1] for i in range(3)] == [
        pa.string(),
        pa.int64(),
        pa.list_(pa.float32()),
    ]
    assert sorted(row for batch in batches for row in batch["row"].to_pylist()) == list(range(2500))


def test_fingerprints_come_from_the_log_alone(lake):
    write(lake, "a", mark="a" * 16, count=2500)
    write(lake, "it's", mark="b" * 16)
    write(lake, "empty", count=0)
    assert lake.fingerprints(TABLE) == {"a": "a" * 16, "it's": "b" * 16}
    write(lake, "a", mark="c" * 16)
    for file in lake_dir(lake).glob("shard=*/*.parquet"):
        file.unlink()
    assert lake.fingerprints(TABLE) == {"a": "c" * 16, "it's": "b" * 16}
    assert lake.fingerprints(TABLE, version=2)["a"] == "a" * 16


def test_fingerprints_of_unpartitioned_and_mixed_tables(lake):
    lake.overwrite(WHOLE, pa.table({"id": ["q1"], "fingerprint": ["d" * 16]}), commit={})
    assert lake.fingerprints(WHOLE) == {"": "d" * 16}
    mixed = pa.concat_tables([rows("a", mark="a" * 16), rows("a", mark="b" * 16), rows("b", mark="c" * 16)])
    lake.overwrite(TABLE, mixed, commit={})
    assert lake.fingerprints(TABLE) == {"b": "c" * 16}


# -- damage


@pytest.mark.parametrize("damage", ["truncated", "emptied", "overwritten", "removed"])
def test_a_damaged_file_is_a_sentence_and_not_a_panic(lake, damage):
    write(lake, "a", count=3000)
    (file,) = (lake_dir(lake) / "shard=a").glob("*.parquet")
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        half = len(content) // 2
        file.write_bytes(
            {
                "truncated": content[:half],
                "emptied": b"",
                "overwritten": content[:9] + b"\xff" * half + content[half + 9 :],
            }[damage]
        )
    for read in (lambda: lake.collect(TABLE, lake.scan(TABLE)), lambda: list(lake.read_batches(TABLE))):
        with pytest.raises(BadInput, match="corpus/demo/documents") as caught:
            read()
        assert "materialize" in str(caught.value) and "\n" not in str(caught.value)
        if damage in ("truncated", "emptied"):
            assert f"{file.name} has {file.stat().st_size} bytes instead of {len(content)}" in str(caught.value)


def test_other_errors_and_interrupts_pass_unchanged(lake):
    write(lake, "a")
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        lake.collect(TABLE, lake.scan(TABLE).select("nothing"))
    for error in (KeyboardInterrupt, SystemExit, FileNotFoundError):
        with pytest.raises(error), lake.reading([TABLE]):
            raise error


# -- layout


def test_a_newer_layout_is_refused_by_readers_and_writers(lake):
    write(lake, "a")
    mark = lake_root(lake) / "_headwater.json"
    assert json.loads(mark.read_text()) == {"layout": 1}
    for text, message in (('{"layout": 2}', "has layout 2, and this Headwater reads layout 1"), ("", "should read")):
        mark.write_text(text)
        for act in (
            lambda other: other.scan(TABLE),
            lambda other: write(other, "a"),
            lambda other: other.version(TABLE),
        ):
            with pytest.raises(BadInput, match=message):
                act(Lake(uri=lake.uri))


def test_reading_does_not_mark_a_lake_and_a_file_uri_is_a_directory(lake, tmp_path):
    assert lake.version(TABLE) is None and not lake_root(lake).exists()
    other = Lake(uri=(tmp_path / "x y").as_uri())
    write(other, "a")
    assert (tmp_path / "x y" / "_headwater.json").exists() and counts(Lake(uri=str(tmp_path / "x y"))) == {"a": 3}
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="a file of that name is in the way"):
        write(Lake(uri=str(tmp_path / "file")), "a")


@pytest.mark.parametrize("name", ["lake[1]", "#1", "a?", "a|b", "p%20x"])
def test_a_directory_that_delta_mistakes_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="Delta cannot use a directory with"):
        write(Lake(uri=str(tmp_path / name)), "a")
    assert not list(tmp_path.iterdir())


# -- declarations


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (pa.uint32(), "signed integer"),
        (pa.float16(), "float32"),
        (pa.list_(pa.float32(), 3), "fixed-size"),
        (pa.timestamp("ns", tz="UTC"), "microseconds"),
        (pa.list_(pa.large_string()), "rather than"),
    ],
)
def test_types_that_delta_or_polars_would_change_cannot_be_declared(kind, reason):
    with pytest.raises(ValueError, match=reason):
        Column("x", kind, "a value")


def test_a_table_is_declared_whole():
    column = Column("x", pa.int64(), "a value")
    for arguments, reason in [
        ({"key": ("Bad",)}, "table key"),
        ({"grain": "rows"}, "one row per"),
        ({"columns": (column, column)}, "twice"),
        ({"partition_by": ("y",)}, "not among"),
        ({"partition_by": ("x",)}, "required string"),
    ]:
        with pytest.raises(ValueError, match=reason):
            Table(**{"key": ("a",), "grain": "one row per x", "columns": (column,)} | arguments)
    with pytest.raises(ValueError, match="what a value means"):
        Column("x", pa.int64(), " ")


def test_dagster_shows_the_columns_and_their_sentences():
    schema = TABLE.dagster_columns()
    assert [column.name for column in schema.columns] == TABLE.schema.names
    assert schema.columns[3].description == "summed token loss in nats" and schema.columns[3].type == "double"
    assert TABLE.asset_key.path == ["corpus", "demo", "documents"]


def lake_root(lake: Lake):
    from pathlib import Path

    return Path(lake.place.root)


def lake_dir(lake: Lake):
    return lake_root(lake) / TABLE.path
