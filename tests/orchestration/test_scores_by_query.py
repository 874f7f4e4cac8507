"""Scores read from the clustered table: by SQL, as frames, by `Results.top` and `headwater top`; and its asset."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from assets.specs.study import StudyOptions
from assets.study.clustered_runs import influence_by_query_table
from assets.study.influence import influence_table
from compute.errors import BadInput
from orchestration.automation import study_keys
from orchestration.graph import study_assets, study_tables
from orchestration.results import Moment, Results, ranked
from orchestration.results.export import export_study
from tests.assets.clustered_study import COLUMNS, KEYS, ClusteredStudy, StoppedHere, best
from tests.orchestration.test_shards_that_change import OVER_ALL, PER_SHARD
from tests.orchestration.tiny_study import headwater, records

SCORES, BY_QUERY = influence_table("any"), influence_by_query_table("any")
PATH = "study/tiny/influence_by_query"


@pytest.fixture
def study(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    for number in range(4):
        study.score(f"{number:05d}", 12, 0)
    study.cluster()
    return study


def remove_files(root: str, path: str) -> None:
    """The table's data files: what is read from it fails from then on."""
    for file in Path(root, path).rglob("*.parquet"):
        file.unlink()


def sql(results: Results, query: str) -> pl.DataFrame:
    return results.sql(query).collect()


def test_the_view_influence_is_read_from_it_and_has_the_same_columns_and_rows(study):
    scores = study.scores()
    remove_files(study.lake.uri, SCORES.path)
    results = Results(study.lake)
    for name in ("influence", f'"{SCORES.path}"'):
        rows = sql(results, f"SELECT * FROM {name}")
        assert rows.columns[-6:] == SCORES.schema.names
        assert rows.select(COLUMNS).sort(COLUMNS).equals(scores)
    frame = results.table("influence").collect()
    assert frame.columns == ["study", *SCORES.schema.names]
    assert frame.select(COLUMNS).sort(COLUMNS).equals(scores)


def test_where_it_is_behind_influence_is_read(study):
    study.score("00002", 5, 1)
    remove_files(study.lake.uri, BY_QUERY.path)
    results = Results(study.lake)
    assert sql(results, "SELECT * FROM influence").select(COLUMNS).sort(COLUMNS).equals(study.scores())
    assert results.table("influence").select(COLUMNS).sort(COLUMNS).collect().equals(study.scores())
    for method, query in KEYS:
        rows = results.top("any", query, method, 9).drop("rank").rows()
        assert rows == best(study.scores(), method, query, 9, False)


def test_an_earlier_version_is_of_influence_itself(study):
    then, version = study.scores(), study.lake.version(SCORES)
    study.score("00002", 5, 1)
    study.cluster()
    remove_files(study.lake.uri, BY_QUERY.path)
    moment = Moment(versions={SCORES.path: version})
    assert Results(study.lake).table("influence", moment).select(COLUMNS).sort(COLUMNS).collect().equals(then)
    rows = Results(study.lake).sql("SELECT * FROM influence", moment).collect()
    assert rows.select(COLUMNS).sort(COLUMNS).equals(then)


def test_of_the_table_itself_the_live_runs_are_shown(study):
    def stop(run):
        raise StoppedHere

    study.score("00009", 60, 0)
    with pytest.raises(StoppedHere):
        study.cluster(after=stop)
    assert len(study.lake.partition_rows(BY_QUERY)) == 2
    count = sql(Results(study.lake), "SELECT count(*) FROM influence_by_query").item()
    assert count == len(study.scores()) == Results(study.lake).table("influence_by_query").collect().height


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_of_the_table_itself_the_live_runs_are_exported(study, tmp_path, form):
    def stop(run):
        raise StoppedHere

    study.score("00009", 60, 0)
    with pytest.raises(StoppedHere):
        study.cluster(after=stop)
    names = ["influence", "influence_by_query"]
    for file in export_study(Results(study.lake), "any", tmp_path / "files", form, names):
        read = pl.read_parquet(file) if form == "parquet" else pl.read_csv(file, schema_overrides=study.scores().schema)
        columns = [name for name in COLUMNS if name != "fingerprint"]
        assert read.select(columns).sort(columns).equals(study.scores().select(columns).sort(columns))


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_top_gives_the_ends_of_all_scores(study, end):
    scores = study.scores()
    remove_files(study.lake.uri, SCORES.path)
    for method, query in KEYS:
        rows = Results(study.lake).top("any", query, method, 30, end)
        assert rows["rank"].to_list() == list(range(1, 31))
        assert rows.drop("rank").rows() == best(scores, method, query, 30, end == "bottom")


def test_of_a_query_only_its_row_groups_are_read(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    study.score("00000", 12_000, 0)  # three row groups: the queries q0 begin in the first, and do not reach the last
    study.cluster()
    expected = best(study.scores(), "dot", "q0", 20, False)
    (file,) = (tmp_path / BY_QUERY.path).glob("run=*/*.parquet")
    last = pq.ParquetFile(file).metadata.row_group(2)
    with file.open("r+b") as stream:  # the last is spoilt, in each of its columns
        for column in map(last.column, range(last.num_columns)):
            stream.seek(column.dictionary_page_offset or column.data_page_offset)
            stream.write(b"\xff" * 16)
    results = Results(study.lake)
    rows = sql(
        results,
        "SELECT document_id, shard, score FROM influence WHERE study = 'any' AND query_id = 'q0' AND method = 'dot' "
        "ORDER BY score DESC, document_id LIMIT 20",
    )
    assert rows.rows() == results.top("any", "q0", "dot", 20).drop("rank").rows() == expected
    with pytest.raises(BadInput):
        sql(results, "SELECT sum(score) FROM influence")


def test_a_run_clusters_its_scores_and_keeps_them_where_nothing_changed(copied):
    columns = ("shard", "method", "query_id", "document_id", "score", "fingerprint")
    (copied.directory / "corpus/part2.jsonl").unlink()
    copied.rewrite(1, [row | {"text": "the cat sits on the mat"} for row in records()[30:40]])
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*PER_SHARD, *OVER_ALL, PATH, shards=("00000", "00002"), reuse=True).success
    scores = copied.table("study/tiny/influence").select(columns).sort(columns)
    assert copied.table(PATH).select(columns).sort(columns).equals(scores)

    table = influence_by_query_table("tiny")
    version = copied.lake.version(table)
    result = copied.materialize(PATH, reuse=True)
    assert result.success and copied.lake.version(table) == version
    (told,) = result.asset_materializations_for_node("study__tiny__influence_by_query")
    assert told.metadata["kept"].value and told.metadata["dagster/row_count"].value == len(scores)

    remove_files(str(copied.directory / "home/lake"), PATH)
    assert copied.materialize(PATH).success  # a person asks for it anew, and it is whole again
    assert copied.table(PATH).select(columns).sort(columns).equals(scores)


def test_it_waits_until_every_shard_is_scored(copied):
    copied.rewrite(1, records()[30:40])
    assert copied.materialize("corpus/tiny/shards").success
    assert copied.materialize(*PER_SHARD[:3], shards=("00001", "00001")).success
    assert not copied.materialize(PATH, reuse=True).success


def test_a_study_can_do_without(copied):
    spec = copied.study.spec
    options = StudyOptions(**spec.options.model_dump() | {"by_query": False})
    without = replace(copied.study, spec=spec.model_copy(update={"options": options}))
    key = influence_by_query_table("tiny").asset_key
    for study, has in ((copied.study, True), (without, False)):
        assert (key in {each for asset in study_assets(study) for each in asset.keys}) is has
        assert (key in [table.asset_key for table in study_tables(study)]) is has
        assert (key in study_keys(study)) is has
    assert replace(copied, study=without).materialize("study/tiny/rankings", reuse=True).success


def test_top_goes_on_where_rankings_end(finished):
    told = headwater(finished.home, "top", "tiny", "given", "-n", 40, "--ranking", "raw", "--json")
    rows = json.loads(told.stdout)
    expected = best(finished.table("study/tiny/influence"), "ekfac", "given", 40, False)
    assert [(row["document_id"], row["shard"], row["score"]) for row in rows] == expected
    texts = dict(finished.table("corpus/tiny/documents").select("document_id", "text").iter_rows())
    assert [row["text"] for row in rows] == [texts[row["document_id"]] for row in rows]
    assert [row["rank"] for row in rows] == list(range(1, 41))
    assert rows[4]["exact_score"] is not None and rows[5]["exact_score"] is None
    grid = headwater(finished.home, "top", "tiny", "given", "-n", 7, "--ranking", "raw")
    assert rows[6]["document_id"] in grid.stdout


def test_top_is_of_the_scores_as_they_are_where_rankings_are_behind(changed):
    results, table = Results(changed), influence_table("tiny")
    asked = {"method": "ekfac", "ranking": "raw", "end": "top", "count": 99}
    rows = ranked.ranked_documents(results, "tiny", "given", **asked)
    shard = rows["shard"][0]
    new = {"score": -pl.col("score"), "fingerprint": pl.lit("f" * 16)}
    scores = changed.scan(table, where={"shard": shard}).with_columns(**new).collect()
    commit = {**changed.last_commit(table), "fingerprint": "f" * 16}
    data = scores.to_arrow().cast(table.schema)
    changed.overwrite(table, data, where={"shard": shard}, commit={name: str(each) for name, each in commit.items()})
    shown = ranked.with_unranked(results, "tiny", rows, query="given", end="top", count=40)
    expected = best(changed.scan(table).collect(), "ekfac", "given", 40, False)
    assert shown.select("document_id", "shard", "score").rows() == expected
    assert shown["rank"].to_list() == list(range(1, 41)) and shown["text"].null_count() == 0
    assert set(shown.select("method", "query_id", "ranking", "end").rows()) == {("ekfac", "given", "raw", "top")}
    same = rows.filter(pl.col("shard") != shard).select("document_id", "exact_score")
    assert shown.filter(pl.col("exact_score").is_not_null()).select("document_id", "exact_score").equals(same)


def test_what_is_not_there_is_told(finished):
    from orchestration.results.results import Results
    from tests.orchestration.copied_study import home_at

    results = Results.open(home_at(finished.home))
    for arguments, sentence in (
        (("tiny", "givn"), "there is no query givn; did you mean given"),
        (("tinny", "given"), "declares it; did you mean tiny"),
        (("tiny", "given", "ekfca"), "no document is ranked by ekfca; did you mean ekfac"),
        (("tiny", "given", None, 5, "topp"), "there is no end topp; did you mean top"),
        (("tiny", "given", None, 0), "ask for one document at least"),
    ):
        with pytest.raises(BadInput, match=sentence):
            results.top(*arguments)
    assert results.top("tiny", "given", count=1000).height == finished.table("corpus/tiny/documents").height
