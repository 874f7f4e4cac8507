"""Shards: what is known keeps its place, whatever is added, changed, removed or put back."""

from __future__ import annotations

import os
import random

import pytest

from assets.corpus.parsing import parse_shard
from assets.corpus.shards import plan_shards, shard_rows, shards_from_rows
from assets.specs.corpus import CorpusSpec, FieldMapping
from compute.errors import BadInput
from tests.assets.corpus_files import RECORDS, lines, write_dataset, write_gzip, write_jsonl, write_parquet

SPEC = CorpusSpec(name="demo", path="*.jsonl", shard_records=10, fields={"id": "id"})


def layout(shards):
    return {shard.key: [(piece.file, piece.start, piece.stop) for piece in shard.slices] for shard in shards}


def prints(shards):
    return {shard.key: shard.fingerprint for shard in shards}


def ids(shard, base, spec=SPEC):
    return [record.record_id for record in parse_shard(spec, base, shard).records]


@pytest.fixture
def planned(tmp_path):
    """Two full shards of a file of 25 and the rest with all of a small file."""
    write_jsonl(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "b.jsonl", [{**record, "id": "b" + record["id"]} for record in RECORDS[:4]])
    return plan_shards(SPEC, tmp_path)


def test_big_files_are_cut_and_small_ones_share(tmp_path, planned):
    assert layout(planned) == {
        "00000": [("a.jsonl", 0, 10)],
        "00001": [("a.jsonl", 10, 20)],
        "00002": [("a.jsonl", 20, 25), ("b.jsonl", 0, 4)],
    }
    assert [shard.records for shard in planned] == [10, 10, 9]
    assert [ids(shard, tmp_path) for shard in planned] == [
        [f"r{n}" for n in range(10)],
        [f"r{n}" for n in range(10, 20)],
        [f"r{n}" for n in range(20, 25)] + [f"br{n}" for n in range(4)],
    ]


def test_rows_round_trip_in_any_order(planned):
    rows = shard_rows(planned)
    assert set(rows[0]) >= {"shard", "file", "start", "stop", "records", "bytes", "mtime_ns", "digest", "state"}
    random.Random(0).shuffle(rows)
    assert shards_from_rows(rows) == planned


def test_planning_again_changes_nothing_and_reads_nothing(tmp_path, planned):
    assert plan_shards(SPEC, tmp_path, planned) == planned
    path = tmp_path / "a.jsonl"
    before = path.stat()
    path.write_bytes(b"X" * before.st_size)  # same size and time: must not be read
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plan_shards(SPEC, tmp_path, planned) == planned


def test_a_touched_file_keeps_its_fingerprints(tmp_path, planned):
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    again = plan_shards(SPEC, tmp_path, planned)
    assert prints(again) == prints(planned)
    assert again[0].slices[0].mtime_ns == 1


def test_a_new_file_makes_new_shards_only(tmp_path, planned):
    write_jsonl(tmp_path / "0-sorts-first.jsonl", RECORDS[:12])
    again = plan_shards(SPEC, tmp_path, planned)
    assert again[:3] == planned
    assert layout(again[3:]) == {"00003": [("0-sorts-first.jsonl", 0, 10)], "00004": [("0-sorts-first.jsonl", 10, 12)]}


def test_appended_lines_make_a_new_shard_and_leave_the_others(tmp_path, planned):
    path = tmp_path / "a.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # the last line has no line end yet
    short = plan_shards(SPEC, tmp_path, planned)
    assert prints(short) == prints(planned)
    with path.open("ab") as file:
        file.write(b"\n" + lines([{"id": "new", "text": "New."}]))
    again = plan_shards(SPEC, tmp_path, short)
    assert layout(again) == {**layout(planned), "00003": [("a.jsonl", 25, 26)]}
    assert [prints(again)[key] for key in prints(planned)] == list(prints(planned).values())
    assert ids(again[3], tmp_path) == ["new"]


def test_a_changed_line_changes_its_shard_only(tmp_path, planned):
    records = [dict(record) for record in RECORDS]
    records[3]["text"] = "Quite another text, of another length."
    write_jsonl(tmp_path / "a.jsonl", records)
    again = plan_shards(SPEC, tmp_path, planned)
    assert layout(again) == layout(planned)
    assert [key for key in prints(again) if prints(again)[key] != prints(planned)[key]] == ["00000"]
    assert ids(again[1], tmp_path) == [f"r{n}" for n in range(10, 20)]  # found at its new offset


def test_a_shrunk_file_and_its_return(tmp_path, planned):
    write_jsonl(tmp_path / "a.jsonl", RECORDS[:15])
    shrunk = plan_shards(SPEC, tmp_path, planned)
    assert layout(shrunk) == layout(planned)
    assert [shard.records for shard in shrunk] == [10, 5, 4]
    assert [piece.state for piece in shrunk[2].slices] == ["removed", "present"]
    assert ids(shrunk[1], tmp_path) == [f"r{n}" for n in range(10, 15)]
    write_jsonl(tmp_path / "a.jsonl")
    back = plan_shards(SPEC, tmp_path, shrunk)
    assert (layout(back), prints(back)) == (layout(planned), prints(planned))


def test_a_removed_file_and_its_return(tmp_path, planned):
    (tmp_path / "a.jsonl").rename(tmp_path / "a.away")
    without = plan_shards(SPEC, tmp_path, planned)
    assert layout(without) == layout(planned)
    assert [shard.state for shard in without] == ["removed", "removed", "present"]
    assert ids(without[0], tmp_path) == [] and ids(without[2], tmp_path) == [f"br{n}" for n in range(4)]
    write_jsonl(tmp_path / "c.jsonl", RECORDS[:1])
    assert layout(plan_shards(SPEC, tmp_path, without))["00003"] == [("c.jsonl", 0, 1)]
    (tmp_path / "a.away").rename(tmp_path / "a.jsonl")
    back = plan_shards(SPEC, tmp_path, without)
    assert prints(back[:3]) == prints(planned) and back[0].state == "present"


def test_studies_in_different_directories_share_a_corpus(tmp_path):
    write_jsonl(tmp_path / "corpus/a.jsonl")
    write_jsonl(tmp_path / "corpus/b.jsonl", [{**record, "id": "b" + record["id"]} for record in RECORDS[:4]])
    (tmp_path / "studies").mkdir()
    first = SPEC.model_copy(update={"path": ("corpus/*.jsonl",)})
    second = SPEC.model_copy(update={"path": ("../corpus/*.jsonl",)})
    shards = plan_shards(first, tmp_path)
    assert plan_shards(second, tmp_path / "studies", shards) == shards
    assert plan_shards(second, tmp_path / "studies") == shards
    for shard in shards:
        assert ids(shard, tmp_path / "studies", second) == ids(shard, tmp_path, first)
    unnamed = {"fields": FieldMapping()}  # records named by their place
    assert ids(shards[2], tmp_path / "studies", second.model_copy(update=unnamed))[4:6] == ["a.jsonl:25", "b.jsonl:1"]


def test_a_corpus_that_moves_with_its_study_keeps_its_fingerprints(tmp_path):
    spec = SPEC.model_copy(update={"path": ("*.jsonl", "more/*.jsonl"), "fields": FieldMapping()})
    write_jsonl(tmp_path / "here/a.jsonl")
    write_jsonl(tmp_path / "here/more/b.jsonl")
    shards = plan_shards(spec, tmp_path / "here")
    before = [ids(shard, tmp_path / "here", spec) for shard in shards]
    (tmp_path / "here").rename(tmp_path / "there")
    assert plan_shards(spec, tmp_path / "there", shards) == shards
    assert [ids(shard, tmp_path / "there", spec) for shard in shards] == before


def test_another_split_of_a_saved_dataset_dict(tmp_path):
    import datasets

    parts = {"train": datasets.Dataset.from_list(RECORDS[:10]), "test": datasets.Dataset.from_list(RECORDS[10:20])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    train = SPEC.model_copy(update={"path": ("saved",)})
    test = train.model_copy(update={"split": "test"})
    shards = plan_shards(train, tmp_path)
    again = plan_shards(test, tmp_path, shards)
    assert layout(again) == {"00000": [("saved/train", 0, 10)], "00001": [("saved/test", 0, 10)]}
    assert [shard.state for shard in again] == ["removed", "present"]
    assert ids(again[1], tmp_path, test) == [f"r{n}" for n in range(10, 20)]
    unnamed = test.model_copy(update={"fields": FieldMapping()})
    assert {record.source for record in parse_shard(unnamed, tmp_path, again[1]).records} == {"saved"}


def test_another_shard_size_holds_for_new_rows_only(tmp_path, planned):
    write_jsonl(tmp_path / "c.jsonl", RECORDS)
    again = plan_shards(SPEC.model_copy(update={"shard_records": 20}), tmp_path, planned)
    assert again[:3] == planned
    assert [shard.records for shard in again[3:]] == [20, 5]


def test_trailing_blank_lines_make_no_shard(tmp_path, planned):
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b"\n" * 30)
    again = plan_shards(SPEC, tmp_path, planned)
    assert (layout(again), prints(again)) == (layout(planned), prints(planned))


@pytest.mark.parametrize(
    "name, write", [("a.parquet", write_parquet), ("a.jsonl.gz", write_gzip), ("saved", write_dataset)]
)
def test_other_formats_are_cut_alike(tmp_path, name, write):
    write(tmp_path / name)
    spec = SPEC.model_copy(update={"path": (name,)})
    shards = plan_shards(spec, tmp_path)
    assert layout(shards) == {"00000": [(name, 0, 10)], "00001": [(name, 10, 20)], "00002": [(name, 20, 25)]}
    assert [record for shard in shards for record in ids(shard, tmp_path, spec)] == [f"r{n}" for n in range(25)]
    assert plan_shards(spec, tmp_path, shards) == shards


def test_text_files_are_grouped(tmp_path):
    for n in range(23):
        (tmp_path / f"{n:02d}.txt").write_text(f"Text {n}.")
    spec = SPEC.model_copy(update={"path": ("*.txt",)})
    shards = plan_shards(spec, tmp_path)
    assert [shard.records for shard in shards] == [10, 10, 3]
    assert ids(shards[2], tmp_path, spec) == ["20.txt", "21.txt", "22.txt"]
    (tmp_path / "20.txt").write_text("Other.")
    again = plan_shards(spec, tmp_path, shards)
    assert [key for key in prints(again) if prints(again)[key] != prints(shards)[key]] == ["00002"]


def test_another_commit_of_a_hub_data_set_keeps_the_shards(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "owner/data/a.jsonl")  # an existing directory stands in for the hub's data set
    monkeypatch.chdir(tmp_path)
    spec = CorpusSpec(name="demo", hub="owner/data", max_records=25, shard_records=10, revision="a" * 40)
    shards = plan_shards(spec, tmp_path)
    assert plan_shards(spec, tmp_path, shards) == shards
    moved = plan_shards(spec.model_copy(update={"revision": "b" * 40}), tmp_path, shards)
    assert layout(moved) == layout(shards) and not set(prints(moved).values()) & set(prints(shards).values())


def test_fewer_records_of_a_hub_data_set(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "owner/data/a.jsonl")
    monkeypatch.chdir(tmp_path)
    spec = CorpusSpec(
        name="demo", hub="owner/data", max_records=25, shard_records=10, revision="a" * 40, fields={"id": "id"}
    )
    fewer = spec.model_copy(update={"max_records": 14})
    shards = plan_shards(spec, tmp_path)
    again = plan_shards(fewer, tmp_path, shards)
    assert [shard.records for shard in again] == [10, 4, 0]
    assert [shard.state for shard in again] == ["present", "present", "removed"]
    assert [key for key in prints(again) if prints(again)[key] != prints(shards)[key]] == ["00001", "00002"]
    assert ids(again[1], tmp_path, fewer) == ["r10", "r11", "r12", "r13"]
    assert prints(plan_shards(spec, tmp_path, again)) == prints(shards)


def test_progress_is_told(tmp_path, planned):
    told = []
    plan_shards(SPEC, tmp_path, on_file=lambda file, number, total: told.append((file.path, number, total)))
    assert told == [("a.jsonl", 1, 2), ("b.jsonl", 2, 2)]


def test_an_empty_corpus(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"\n\n")
    with pytest.raises(
        BadInput, match=r"corpus demo: a\.jsonl, b\.jsonl hold no records; add records, or correct path"
    ):
        plan_shards(SPEC, tmp_path)


def test_a_file_that_changed_after_planning(tmp_path, planned):
    write_jsonl(tmp_path / "a.jsonl", RECORDS[:20])
    with pytest.raises(BadInput, match=r"a\.jsonl changed after its shards were planned .*; run again"):
        parse_shard(SPEC, tmp_path, planned[0])
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(BadInput, match=r"a\.jsonl does not exist"):
        parse_shard(SPEC, tmp_path, planned[0])
