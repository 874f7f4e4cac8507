"""Scoring several shards in one step, with the next one read and the last one written meanwhile."""

from __future__ import annotations

import threading
from functools import partial

import polars as pl
import pytest

from assets.lake.lake import Lake
from assets.step.report import Report
from assets.study.shards_in_flight import BESIDE, NORMED
from assets.tracking.tracked_run import StepRun
from tests.orchestration.test_bounded_memory import failure
from tests.orchestration.test_failures import SCORES, reported
from tests.orchestration.tiny_study import QUERIES

ALL = ("00000", "00002")


def rows(study) -> list[pl.DataFrame]:
    return [table.sort(table.columns) for table in map(study.table, SCORES)]


def overwrites(monkeypatch, instead) -> None:
    """`instead` gets the usual overwrite, its table and the shard, and what else it was called with."""
    usual = Lake.overwrite

    def overwrite(lake, table, data, *, where, **options):
        return instead(partial(usual, lake, table, data, where=where, **options), table, (where or {}).get("shard"))

    monkeypatch.setattr(Lake, "overwrite", overwrite)


def test_several_shards_at_once_have_the_rows_of_one_at_a_time(copied):
    empty = [table.clear() for table in rows(copied)]
    for shard in ("00000", "00001", "00002"):
        assert copied.materialize(*SCORES, shards=(shard, shard)).success
    one_by_one = rows(copied)
    result = copied.materialize(*SCORES, shards=ALL)
    assert result.success and all(reported(result, path) == {"00000", "00001", "00002"} for path in SCORES)
    for alone, together, none in zip(one_by_one, rows(copied), empty, strict=True):
        assert together.equals(alone) and together.height > none.height  # to the last digit


def test_threads_touch_the_lake_and_nothing_else(copied, monkeypatch):
    told, wrote = [], set()

    def noting(method):
        def noted(self, *arguments, **options):
            told.append(threading.current_thread().name)
            return method(self, *arguments, **options)

        return noted

    def overwrite(write, table, shard):
        wrote.add(threading.current_thread().name.rstrip("_0"))
        return write()

    monkeypatch.setattr(StepRun, "attempt", noting(StepRun.attempt))
    for name in ("add", "check", "look", "expect"):
        monkeypatch.setattr(Report, name, noting(getattr(Report, name)))
    overwrites(monkeypatch, overwrite)
    assert copied.materialize(*SCORES, shards=ALL).success
    assert wrote == {"write-behind"}
    assert set(told) - {"machine-metrics"} == {threading.main_thread().name}


@pytest.mark.slow
@pytest.mark.parametrize("table", ["document_norms", "candidates", "influence"])
def test_a_shard_that_cannot_be_written_is_done_again_whole(copied, monkeypatch, table):
    """The others are written, and reported; of this one nothing is reported, and the next run does it anew."""
    full = [True]
    done: list[tuple[str, str]] = []

    def overwrite(write, into, shard):
        if full[0] and (into.key[-1], shard) == (table, "00001"):
            raise OSError("no space left on device")
        done.append((into.key[-1], shard))
        return write()

    overwrites(monkeypatch, overwrite)
    monkeypatch.setattr("assets.step.declaring.AfterACrash.calculate_delay", lambda *_: 0)
    before = rows(copied)
    result = copied.materialize(*SCORES, shards=ALL)
    assert "no space left on device" in failure(result)
    assert reported(result, "study/tiny/influence") == {"00000", "00002"}
    assert ("influence", "00001") not in done
    full[0] = False
    del done[:]
    assert copied.materialize(*SCORES, shards=ALL).success
    in_turn = [name for name, shard in done if shard == "00001"]
    assert in_turn == ["document_norms", "candidates", "influence"]
    assert all(after.equals(rows_before) for after, rows_before in zip(rows(copied), before, strict=True))


def test_documents_of_another_tokenizer_are_told_of_their_shard(copied):
    from assets.corpus.documents import documents_table

    table, other = documents_table("tiny"), pl.lit("x").alias("tokenizer_fingerprint")
    foreign = copied.table("corpus/tiny/documents").filter(shard="00001").with_columns(other)
    data = foreign.select(table.schema.names).to_arrow().cast(table.schema)
    copied.lake.overwrite(table, data, where={"shard": "00001"}, commit={})
    result = copied.materialize(*SCORES, shards=ALL)
    assert "corpus tiny: shard 00001 was cut with another tokenizer" in failure(result)
    assert reported(result, "study/tiny/influence") == {"00000", "00002"}


def test_documents_are_written_behind_too_and_a_shard_that_cannot_be_keeps_no_other(copied, monkeypatch):
    wrote = []

    def overwrite(write, table, shard):
        if (table.key[-1], shard) == ("documents", "00001"):
            raise OSError("no space left on device")
        wrote.append((threading.current_thread().name.rstrip("_0"), table.key[-1], shard))
        return write()

    overwrites(monkeypatch, overwrite)
    monkeypatch.setattr("assets.step.declaring.AfterACrash.calculate_delay", lambda *_: 0)
    before = copied.table("corpus/tiny/documents").sort("shard", "position")
    result = copied.materialize("corpus/tiny/documents", shards=ALL)
    assert "no space left on device" in failure(result)
    assert reported(result, "corpus/tiny/documents") == {"00000", "00002"}
    tables = [("rejected", "00000"), ("documents", "00000"), ("rejected", "00001")]
    tables += [("rejected", "00002"), ("documents", "00002")]
    assert wrote[:5] == [("write-behind", *each) for each in tables]
    assert set(wrote[5:]) == {("write-behind", "rejected", "00001")}  # which is tried again, and the others kept
    assert copied.table("corpus/tiny/documents").sort("shard", "position").equals(before)


def test_the_memory_of_the_shards_beside_is_looked_at(copied, monkeypatch):
    """Of several shards; one has none beside it. Scores are counted of one too."""
    asked = []
    monkeypatch.setattr("assets.model.memory.refuse_parts", lambda study, stage, parts: asked.append(parts))
    assert copied.materialize(*SCORES, shards=ALL).success
    assert copied.materialize(*SCORES, shards=("00001", "00001")).success
    several, one = asked
    assert several.pop(BESIDE) > 0 and several.keys() == one.keys()
    (rows,) = copied.table("corpus/tiny/documents").group_by("shard").len()["len"].top_k(1)
    directions = len(QUERIES) * len(copied.study.spec.options.methods)
    assert one["scores"] <= 4 * rows * directions and one[NORMED] == 2 * one["scores"] > 0
