"""Influence clustered by query: merging against a sort of everything, what a commit tells, and reading both ends."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import polars as pl
import pyarrow.parquet as pq
import pytest

from assets.lake.log import TableLog
from assets.study.clustered_reading import standing_in
from assets.study.clustered_runs import Run, influence_by_query_table, live_runs, run_name
from assets.study.influence import influence_table
from assets.study.run_merging import query_ranges
from assets.study.run_plan import planned
from tests.assets.clustered_study import COLUMNS, KEYS, ClusteredStudy, StoppedHere, best

TABLE = influence_by_query_table("any")


@pytest.mark.parametrize("run_rows", [150, 1_000_000])
def test_many_rounds_of_changes_give_the_rows_of_influence(tmp_path, run_rows):
    study, draw = ClusteredStudy.at(tmp_path, run_rows=run_rows), random.Random(run_rows)
    for number in range(12):
        for _ in range(draw.randint(1, 3)):  # added, changed, or emptied
            study.score(f"{draw.randrange(8):05d}", draw.choice([0, 3, 8, 21]), number)
        clustering = study.cluster()
        assert clustering.is_whole()
        assert study.clustered().equals(study.scores())
        runs = standing_in(study.lake, "any")
        for method, query in KEYS:
            for bottom in (False, True):
                found = runs.end_of_query(method, query, 7, bottom=bottom).rows()
                assert found == best(study.scores(), method, query, 7, bottom)
        assert all(run.rows <= max(run_rows, 21 * len(KEYS)) for run in clustering.live.values())
        assert study.lake.partition_rows(TABLE) == {name: run.rows for name, run in sorted(clustering.live.items())}


def test_rows_lie_by_method_query_and_falling_score(tmp_path):
    study = ClusteredStudy.at(tmp_path, held_rows=40)  # several readings of the sources
    for number in range(5):
        study.score(f"{number:05d}", 30, 0)
    (run,) = study.cluster().live
    (file,) = (tmp_path / TABLE.path / f"run={run}").glob("*.parquet")
    rows = pl.from_arrow(pq.read_table(file, partitioning=None))
    expected = rows.sort("method", "query_id", "score", descending=[False, False, True])
    assert rows.select("method", "query_id", "score").equals(expected.select("method", "query_id", "score"))


def test_no_more_rows_are_held_at_once_than_allowed_or_than_one_query_has():
    rows = {("dot", "a"): 5, ("dot", "b"): 5, ("dot", "c"): 1, ("ekfac", "a"): 3, ("ekfac", "b"): 40, ("ekfac", "c"): 2}
    scores = pl.LazyFrame(
        [key for key, count in rows.items() for _ in range(count)], ("method", "query_id"), orient="row"
    )
    parts = [("dot", "a", "b"), ("dot", "c", "c"), ("ekfac", "a", "a"), ("ekfac", "b", "b"), ("ekfac", "c", "c")]
    assert list(query_ranges(scores, 10)) == parts


def test_a_shard_more_costs_its_own_rows_and_a_share_of_the_merges(tmp_path):
    shards, rows = {}, {}
    live, written = [], 0
    for number in range(1_000):
        shards[f"{number:05d}"], rows[f"{number:05d}"] = "a", 10
        (merge,) = planned(live, shards, rows, 1_000_000)
        held = {shard: "a" for shard in merge.all_shards}
        live = [run for run in live if run.name not in merge.runs] + [Run(run_name(held), held, merge.rows, 0)]
        written += merge.rows
        assert len(live) <= math.log2(number + 1) + 1
    assert written <= 10 * 1_000 * math.log2(1_000)
    assert {shard for run in live for shard in run.shards} == shards.keys()


def test_the_cost_of_a_shard_is_bounded_by_a_run(tmp_path):
    study = ClusteredStudy.at(tmp_path, run_rows=200)
    for number in range(12):
        study.score(f"{number:05d}", 10, 0)
    study.cluster()
    study.written = 0
    study.score("00003", 10, 1)
    study.cluster()
    assert study.written <= 2 * 200
    assert study.clustered().equals(study.scores())


def test_nothing_is_written_where_nothing_changed(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    study.score("00000", 5, 0)
    version = study.lake.version(study.cluster().table)
    assert not study.cluster().planned()
    assert study.lake.version(TABLE) == version


def test_commits_tell_the_live_runs_and_their_shards(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    for number, documents in enumerate((40, 4)):
        study.score(f"{number:05d}", documents, 0)
        study.cluster()
    stamps = study.lake.fingerprints(influence_table("any"))
    runs = live_runs(study.lake, TABLE, study.lake.version(TABLE))
    assert sorted(run.rows for run in runs.values()) == [20, 200]
    assert {shard: stamp for run in runs.values() for shard, stamp in run.shards.items()} == stamps
    newest = TableLog(study.lake.place, TABLE.path).newest_write(study.lake.version(TABLE))
    assert "00001" in newest.metadata["run_shards"] and "00000" not in newest.metadata["run_shards"]


def test_between_the_commits_readers_see_the_live_runs_alone(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    for number in range(2):
        study.score(f"{number:05d}", 10, 0)
        if not number:
            study.cluster()
    before = study.lake.version(TABLE)

    def stop(run):
        raise StoppedHere

    with pytest.raises(StoppedHere):
        study.cluster(after=stop)  # the merged run is there, and the one that it replaced still has its rows
    assert len(study.lake.partition_rows(TABLE)) == 2
    assert study.clustered().equals(study.scores())
    assert standing_in(study.lake, "any") is not None
    assert study.lake.version(TABLE) == before + 1
    assert not study.cluster().planned()
    assert len(study.lake.partition_rows(TABLE)) == 1
    assert study.clustered().equals(study.scores())


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.assets.clustered_study import ClusteredStudy

study = ClusteredStudy.at(Path(sys.argv[1]), run_rows=100)
study.cluster(after=lambda run: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_step_leaves_a_table_that_the_next_completes(tmp_path):
    study = ClusteredStudy.at(tmp_path, run_rows=100)
    for number in range(4):
        study.score(f"{number:05d}", 10, 0)
    study.cluster()
    for number in (1, 2):
        study.score(f"{number:05d}", 9, 1)  # two runs are dead, and only the first new one gets written
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert standing_in(study.lake, "any") is None  # behind: influence is read
    assert study.clustered().select("method", "query_id", "document_id").is_unique().all()
    study.cluster()
    assert study.clustered().equals(study.scores())
    assert standing_in(study.lake, "any") is not None


def test_a_run_that_another_step_emptied_is_not_believed(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    study.score("00000", 10, 0)
    clustering = study.cluster()
    (run,) = clustering.live.values()
    study.score("00001", 3, 0)
    slow = study.clustering()  # sees the run, and is overtaken by one that merges it
    (merge,) = slow.planned()
    study.score("00001", 10, 0)
    study.cluster()
    assert run.name not in study.lake.partition_rows(TABLE)
    slow.merge(merge)
    assert not slow.is_whole()
    assert standing_in(study.lake, "any") is None
    study.cluster()
    assert study.clustered().equals(study.scores())


def test_it_stands_in_only_where_it_holds_every_shard_as_it_is(tmp_path):
    study = ClusteredStudy.at(tmp_path)
    study.score("00000", 5, 0)
    assert standing_in(study.lake, "any") is None  # there is no such table
    study.cluster()
    assert standing_in(study.lake, "any") is not None
    for shard, documents, seed in (("00000", 5, 1), ("00001", 5, 0), ("00000", 0, 0)):
        study.score(shard, documents, seed)
        assert standing_in(study.lake, "any") is None
        study.cluster()
        assert standing_in(study.lake, "any").frame().select(COLUMNS).collect().height == len(study.scores())
