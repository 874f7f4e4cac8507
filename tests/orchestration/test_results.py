"""The lake's tables as views across studies: from Python, by SQL that can do nothing but read, and on the terminal."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.queries.queries import queries_table
from assets.study.influence import influence_table
from compute.errors import BadInput
from orchestration.results import Limits, Moment, Results
from tests.orchestration.tiny_study import headwater

HOSTILE = "\x1b[31m<script>alert(1)</script>\x07"
COMMIT = {"fingerprint": "0" * 16}


def scores(shard: str, *, of: int, factor: float) -> pa.Table:
    rows = [
        {
            "shard": shard,
            "method": "ekfac",
            "query_id": query,
            "document_id": f"{shard}-{number}",
            "score": factor * number,
            "fingerprint": "0" * 16,
        }
        for query in ("one", "two")
        for number in range(of)
    ]
    return pa.Table.from_pylist(rows, influence_table("a").schema)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A lake in which two studies have scores: `a` has two versions of its second shard."""
    home = tmp_path_factory.mktemp("results") / "home"
    lake = Lake(uri=str(home / "lake"))
    for study, factor in (("a", 1.0), ("b", -1.0)):
        for shard in ("00000", "00001"):
            lake.overwrite(
                influence_table(study), scores(shard, of=10, factor=factor), where={"shard": shard}, commit=COMMIT
            )
    time.sleep(0.01)
    between = datetime.now(UTC)
    time.sleep(0.01)
    lake.overwrite(influence_table("a"), scores("00001", of=4, factor=2.0), where={"shard": "00001"}, commit=COMMIT)
    (home / "between").write_text(between.isoformat())
    return home


@pytest.fixture
def results(home):
    return Results(Lake(uri=str(home / "lake")))


def between(home) -> datetime:
    return datetime.fromisoformat((home / "between").read_text())


def test_tables_of_one_name_are_one_view(results):
    assert list(results.views) == ["influence"] and list(results.views["influence"].paths) == ["a", "b"]
    frame = results.table("influence")
    assert isinstance(frame, pl.LazyFrame) and frame.collect_schema().names()[0] == "study"
    counted = dict(frame.group_by("study").len().collect().iter_rows())
    assert counted == {"a": 28, "b": 40}
    by_sql = results.sql("SELECT study, count(*) FROM influence GROUP BY study").collect()
    assert dict(by_sql.iter_rows()) == counted


def test_sql_and_frames_give_the_same_rows(results):
    query = "SELECT study, query_id, document_id, score FROM influence WHERE score > 3 ORDER BY ALL"
    frame = results.table("influence").filter(pl.col("score") > 3).select("study", "query_id", "document_id", "score")
    assert results.sql(query).collect().equals(frame.sort(pl.all()).collect())


def test_a_table_alone_is_read_by_its_path(results):
    assert results.sql('SELECT count(*) FROM "study/b/influence"').collect().item() == 40


def test_columns_of_one_name_are_numbered(results, home):
    query = "SELECT 1 AS score, 2 AS score, 3 AS score_1, 4 AS Score, count(*), count(*) FROM influence"
    frame = results.sql(query).collect()
    assert frame.columns == ["score", "score_1", "score_1_1", "Score_2", "count_star()", "count_star()_1"]
    assert frame.row(0) == (1, 2, 3, 4, 68, 68)
    joined = "SELECT * FROM influence a JOIN influence b USING (study, query_id, document_id) ORDER BY ALL LIMIT 1"
    asked = headwater(home, "sql", joined, "--json")
    assert asked.returncode == 0 and {"score", "score_1"} <= json.loads(asked.stdout)[0].keys(), asked.stderr


def test_columns_that_only_one_study_has_are_null_in_the_others(tmp_path):
    lake = Lake(uri=str(tmp_path))
    for study, more in (("a", ()), ("b", (Column("extra", pa.int64(), "Something new."),))):
        columns = (Column("value", pa.int64(), "A value."), *more)
        table = Table(("study", study, "things"), "one row per thing", columns)
        row = {"value": 1, "extra": 2} if more else {"value": 1}
        lake.overwrite(table, pa.Table.from_pylist([row], table.schema), commit=COMMIT)
    results = Results(lake)
    expected = [("a", 1, None), ("b", 1, 2)]
    assert results.table("things").sort("study").collect().rows() == expected
    assert results.sql("SELECT study, value, extra FROM things ORDER BY study").collect().rows() == expected


def test_earlier_versions_by_number_and_by_time(results, home):
    count = "SELECT count(*) FROM influence WHERE study = 'a'"
    for moment, rows in (
        (Moment(), 28),
        (Moment(versions={"study/a/influence": 2}), 40),
        (Moment(versions={"study/a/influence": 1}), 20),
        (Moment(at=between(home)), 40),
        (Moment(at=between(home), versions={"study/a/influence": 3}), 28),
    ):
        assert results.sql(count, moment).collect().item() == rows
        assert results.table("influence", moment).filter(study="a").collect().height == rows


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (Moment(versions={"study/a/influence": 99}), ["study/a/influence", "no version 99", "newest is 3"]),
        (Moment(versions={"study/a/influenc": 1}), ["no table study/a/influenc", "did you mean study/a/influence"]),
        (Moment(at=datetime.now(UTC) - timedelta(days=999)), ["study/a/influence", "no such table at"]),
    ],
)
def test_versions_that_are_not_there(results, moment, words):
    for read in (lambda: results.sql("SELECT * FROM influence", moment), lambda: results.table("influence", moment)):
        with pytest.raises(BadInput) as caught:
            read()
        assert all(word in str(caught.value) for word in words)


def beyond(directory) -> list[str]:
    """What would read or write outside of the lake's tables, or change how the engine works."""
    secret, target = directory / "secret.csv", directory / "written"
    return [
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_blob('{secret}')",
        f"SELECT * FROM read_parquet('{directory}/*')",
        f"SELECT * FROM glob('{directory}/*')",
        f"SELECT * FROM sniff_csv('{secret}')",
        f"SELECT * FROM parquet_metadata('{directory}/*')",
        f"WITH a AS (SELECT * FROM read_csv('{secret}')) SELECT * FROM a",
        f"SELECT * FROM query('SELECT * FROM read_csv(''{secret}'')')",
        f"SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_csv(''{secret}'')'))",
        f"EXPLAIN ANALYZE SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_csv('https://127.0.0.1:9/x.csv')",
        "SELECT * FROM read_parquet('s3://bucket/x')",
        f"COPY influence TO '{target}'",
        f"COPY (SELECT 1) TO '{target}' (FORMAT csv)",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{target}'",
        f"EXPORT DATABASE '{target}'",
        f"ATTACH '{target}'",
        f"SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{target}'}})",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE mine AS SELECT 1",
        "DROP VIEW influence",
        "DELETE FROM influence",
        "UPDATE influence SET score = 0",
        "INSERT INTO influence SELECT * FROM influence",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "BEGIN TRANSACTION",
        "SELECT 1; SELECT 2",
        "SELECT * FROM frame_of_the_caller",
        "SELECT getenv('HOME')",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT nothing FROM influence",
    ]


def test_a_query_reaches_nothing_but_the_tables(results, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    frame_of_the_caller = pl.DataFrame({"a": [1]})  # which DuckDB would find by its name
    before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
    for query in beyond(tmp_path):
        with pytest.raises(BadInput) as caught:
            results.sql(query).collect()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400, query
    assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before
    assert results.table("influence").collect().height == 68 and len(frame_of_the_caller) == 1


@pytest.mark.parametrize(
    ("query", "limits", "words"),
    [
        ("SELECT count(*) FROM range(999999) a, range(999999) b, range(9999)", {"seconds": 0.5}, "0.5 s"),
        ("SELECT list(range) FROM range(200000000)", {"memory_bytes": 100 << 20}, "GiB of memory"),
        ("SELECT * FROM influence", {"rows": 10}, "more than 10 rows"),
        ("SELECT * FROM range(100000000000)", {"rows": 1000}, "more than 1,000 rows"),
    ],
)  # fmt: skip
def test_limits(results, query, limits, words):
    started = time.monotonic()
    with pytest.raises(BadInput, match=words):
        results.sql(query, limits=Limits(**limits))
    assert time.monotonic() - started < 10


def test_a_damaged_file_is_a_sentence(tmp_path):
    lake = Lake(uri=str(tmp_path))
    lake.overwrite(influence_table("a"), scores("00000", of=50, factor=1.0), where={"shard": "00000"}, commit=COMMIT)
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"study/a/influence.*bytes instead of"):
        Results(lake).sql("SELECT sum(score) FROM influence")
    file.unlink()
    with pytest.raises(BadInput, match=r"study/a/influence.*is missing"):
        Results(lake).sql("SELECT sum(score) FROM influence")


def test_a_lake_without_tables(tmp_path):
    results = Results(Lake(uri=str(tmp_path / "none")))
    assert results.views == {} and results.sql("SELECT 1 AS a").collect().item() == 1
    with pytest.raises(BadInput, match="no table influence in the lake"):
        results.table("influence")
    with pytest.raises(BadInput, match="no table influence in the lake"):
        results.sql("SELECT * FROM influence")


# the command line


def test_rows_in_every_form(home, tmp_path):
    query = "SELECT document_id, score, [1, 2] AS list, 'nan'::DOUBLE AS odd FROM influence ORDER BY score LIMIT 2"
    as_json = headwater(home, "sql", "--json", query)
    assert [row["score"] for row in json.loads(as_json.stdout)] == [-9.0, -9.0]
    assert json.loads(as_json.stdout)[0]["odd"] is None and "2 rows in" in as_json.stderr
    as_csv = headwater(home, "sql", "--csv", query)
    assert as_csv.stdout.splitlines()[0] == "document_id,score,list,odd"
    for name, read in (("a.parquet", pl.read_parquet), ("a.csv", pl.read_csv), ("a.jsonl", pl.read_ndjson)):
        result = headwater(home, "sql", "--out", tmp_path / name, query)
        assert result.returncode == 0 and result.stdout == "", result.stderr
        assert read(tmp_path / name)["score"].to_list() == [-9.0, -9.0]
    grid = headwater(home, "sql", query)
    assert grid.stdout.split()[:4] == ["document_id", "score", "list", "odd"]


def test_hostile_text_does_not_reach_the_terminal(home):
    result = headwater(home, "sql", f"SELECT '{HOSTILE}' AS text")
    assert "\x1b" not in result.stdout and "\x07" not in result.stdout and "<script>" in result.stdout


def test_the_list_of_tables(home):
    assert "one row per method, query and document" in headwater(home, "sql").stdout
    (table,) = json.loads(headwater(home, "sql", "--json").stdout)
    assert table["table"] == "influence" and table["of"] == ["a", "b"]
    assert [column["name"] for column in table["columns"]][:2] == ["study", "shard"]
    assert all(column["description"] for column in table["columns"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SELECT * FROM influences"], "no table influences in the lake; did you mean influence?"),
        (["DROP TABLE influence"], "is DROP, and results can only be read"),
        (["--version", "influence", "SELECT 1"], "write a table's path and a number"),
        (["--version", "study/a/influence=7", "SELECT * FROM influence"], "there is no version 7"),
        (["--out", "rows.txt", "SELECT 1"], "rows.txt: end the file's name in"),
        (["--out", "nowhere/rows.csv", "SELECT 1"], "nowhere/rows.csv: cannot be written"),
        (["--json", "--rows", "3", "SELECT * FROM influence"], "more than 3 rows"),
    ],
)
def test_mistakes_are_one_sentence(home, arguments, words):
    result = headwater(home, "sql", *arguments)
    assert result.returncode == 1 and words in result.stderr
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1


def test_queries_and_sets_have_their_column(tmp_path):
    lake = Lake(uri=str(tmp_path))
    lake.ensure(queries_table("exam"))
    assert Results(lake).table("queries").collect_schema().names()[0] == "query_set"
