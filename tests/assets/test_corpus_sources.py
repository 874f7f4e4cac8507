"""Readers: the same records from every format, wherever a slice begins, and one sentence for each unreadable file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from assets.corpus.sources import open_corpus
from assets.specs.corpus import CorpusSpec
from compute.errors import BadInput
from tests.assets.corpus_files import (
    RECORDS,
    lines,
    truncate,
    write_dataset,
    write_gzip,
    write_jsonl,
    write_parquet,
    write_zstd,
)

WRITERS = {
    "a.jsonl": write_jsonl,
    "a.jsonl.gz": write_gzip,
    "a.jsonl.zst": write_zstd,
    "a.parquet": write_parquet,
    "saved": write_dataset,
}
NOBODY = 65534
FIELDS = {"text": "text", "id": "id", "source": "source"}


def corpus(path, **options):
    return CorpusSpec(**{"name": "demo", "path": path, "fields": FIELDS, **options})


def rows(spec, base, start=0, stop=None):
    source = open_corpus(spec, base)
    return [row for file in source.files for row in source.reader.read(file, start, stop)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = rows(corpus(name), tmp_path)
    assert [row.record for row in found] == RECORDS
    assert [row.position for row in found] == list(range(25))
    assert found[4].name == f"{name}:5"
    assert found[4].location in (f"{name}:5", f"{name} row 5")


@pytest.mark.parametrize("name", WRITERS)
def test_measured_extents_can_be_read_on_their_own(tmp_path, name):
    WRITERS[name](tmp_path / name)
    source = open_corpus(corpus(name), tmp_path)
    extents = list(source.reader.measure(source.files[0], count(10, 10)))
    assert [(each.start, each.stop, each.records) for each in extents] == [(0, 10, 10), (10, 20, 10), (20, 25, 5)]
    for extent in extents:
        found = list(source.reader.read(source.files[0], extent.start, extent.stop, extent.offset))
        assert [row.record for row in found] == RECORDS[extent.start : extent.stop]
        assert [row.position for row in found] == list(range(extent.start, extent.stop))


def test_only_mapped_columns_are_decoded(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{**record, "embedding": [0.0] * 10} for record in RECORDS])
    assert set(rows(corpus("a.parquet"), tmp_path)[0].record) == {"id", "text", "source"}


def test_blank_lines_count_as_lines_but_not_as_records(tmp_path):
    first, second = lines(RECORDS[:1]), lines(RECORDS[1:2]).replace(b"\n", b"\r\n")
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + first + b"\n  \r\n" + second)
    found = rows(corpus("a.jsonl"), tmp_path)
    assert [(row.location, row.record) for row in found] == [("a.jsonl:1", RECORDS[0]), ("a.jsonl:4", RECORDS[1])]


def test_a_folder_of_text_files(tmp_path):
    for name in ("texts/maths/b.txt", "texts/a.txt", "texts/.hidden.txt", "texts/.git/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"This is {name}.\r\nReally.", newline="")
    found = rows(corpus("texts", fields={}), tmp_path)
    assert [row.record for row in found] == [
        {"text": "This is texts/a.txt.\r\nReally.", "id": "a.txt", "source": "texts"},
        {"text": "This is texts/maths/b.txt.\r\nReally.", "id": "maths/b.txt", "source": "maths"},
    ]


def test_format_text_takes_any_suffix(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/__init__.py").write_text("x = 1")
    assert [row.name for row in rows(corpus("code", format="text", fields={}), tmp_path)] == ["__init__.py"]


def test_a_split_of_a_saved_dataset_dict(tmp_path):
    import datasets

    parts = {"train": datasets.Dataset.from_list(RECORDS[:3]), "test": datasets.Dataset.from_list(RECORDS[3:5])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert [row.record for row in rows(corpus("saved", split="test"), tmp_path)] == RECORDS[3:5]
    with pytest.raises(BadInput, match=r"saved has no split 'validation' but: test, train; correct split"):
        rows(corpus("saved", split="validation"), tmp_path)


def test_globs_directories_and_lists_name_each_file_once_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "_SUCCESS"):
        write_jsonl(tmp_path / "corpus" / name, RECORDS[:1])

    def names(path):
        return [file.path for file in open_corpus(corpus(path), tmp_path).files]

    assert names("corpus/*.jsonl") == ["corpus/a.jsonl", "corpus/b.jsonl"]
    assert names("corpus/**/*.jsonl") == names("corpus") == ["corpus/a.jsonl", "corpus/b.jsonl", "corpus/sub/c.jsonl"]
    assert names(["corpus/b.jsonl", "corpus/*.jsonl"]) == ["corpus/a.jsonl", "corpus/b.jsonl"]
    assert names(str(tmp_path / "corpus/a.jsonl")) == ["corpus/a.jsonl"]


def test_a_path_outside_the_base_is_named_in_full(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl")
    (tmp_path / "study").mkdir()
    for path in (str(tmp_path / "data/a.jsonl"), "../data/a.jsonl"):
        assert open_corpus(corpus(path), tmp_path / "study").files[0].path == str(tmp_path / "data/a.jsonl")


@pytest.mark.parametrize(
    "path, other, keys",
    [
        ("data/*.jsonl", "../data/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("data", "../data/", ["a.jsonl", "b.jsonl", "sub/c.jsonl"]),
        ("data/a.jsonl", "../data/a.jsonl", ["a.jsonl"]),
        (["data/sub/*.jsonl", "data/a.*"], ["../data/sub/c.jsonl", "../study/../data/a.*"], ["a.jsonl", "sub/c.jsonl"]),
        (["data/a.jsonl", "memory://keys/d.jsonl"], ["../data/a.jsonl", "memory:///keys/d.jsonl"],
         ["a.jsonl", "memory:///keys/d.jsonl"]),
        ("memory://keys/*.jsonl", "memory://keys/d.jsonl", ["d.jsonl"]),
    ],
)  # fmt: skip
def test_files_are_stored_by_the_same_names_whichever_study_reads_them(tmp_path, path, other, keys):
    import fsspec

    fsspec.filesystem("memory").pipe("/keys/d.jsonl", lines(RECORDS[:1]))
    for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl"):
        write_jsonl(tmp_path / "data" / name, RECORDS[:1])
    (tmp_path / "study").mkdir()
    for paths, base in ((path, tmp_path), (other, tmp_path / "study")):
        assert [file.key for file in open_corpus(corpus(paths), base).files] == keys


def test_file_names_with_signs_of_globs_and_uris(tmp_path):
    write_jsonl(tmp_path / "a[1]::b.jsonl", RECORDS[:2])
    assert [row.record for row in rows(corpus("a[1]::b.jsonl"), tmp_path)] == RECORDS[:2]


def test_other_file_systems_by_uri():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/headwater/corpus/a.jsonl", lines(RECORDS))
    for path, base in (("memory://headwater/corpus/*.jsonl", "/"), ("corpus", "memory://headwater")):
        assert [row.record for row in rows(corpus(path), base)] == RECORDS
    assert open_corpus(corpus("corpus"), "memory://headwater").files[0].path.endswith("corpus/a.jsonl")


def test_a_hub_data_set_is_streamed(tmp_path, monkeypatch):
    """`datasets` takes an existing directory for the hub's id, which stands in for the hub here."""
    write_jsonl(tmp_path / "owner/data/a.jsonl")
    monkeypatch.chdir(tmp_path)
    spec = CorpusSpec(name="demo", hub="owner/data", max_records=20, revision="a" * 40, fields=FIELDS)
    source = open_corpus(spec, tmp_path)
    assert [(file.path, file.uri) for file in source.files] == [("owner/data/train", "a" * 40)]
    extents = list(source.reader.measure(source.files[0], count(15, 15)))
    assert [(extent.start, extent.stop, extent.digest) for extent in extents] == [(0, 15, "a" * 40), (15, 20, "a" * 40)]
    assert [row.record for row in source.reader.read(source.files[0], 15, 20)] == RECORDS[15:20]


def test_the_modules_import_nothing_heavy():
    code = "import sys, assets.corpus.preflight, assets.queries.reading, compute.windows; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "assets.corpus.sources" in loaded
    assert not {"torch", "transformers", "tokenizers", "datasets", "pyarrow", "polars"} & set(loaded)


def test_reading_is_bounded(tmp_path):
    """A file of 40 MB is read in a small part of that."""
    record = {"id": "r", "text": "x" * 10_000, "source": "s"}
    write_gzip(tmp_path / "a.jsonl.gz", [record] * 4000)
    source = open_corpus(corpus("a.jsonl.gz"), tmp_path)
    tracemalloc.start()
    assert sum(1 for _ in source.reader.read(source.files[0])) == 4000
    assert sum(extent.records for extent in source.reader.measure(source.files[0], count(1000, 1000))) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("a.jsonl.gz", "a.jsonl.gz is truncated"),
        ("a.jsonl.zst", "a.jsonl.zst is truncated"),
        ("a.parquet", "a.parquet is no readable Parquet file .truncated or damaged."),
    ],
)
@pytest.mark.parametrize("keep", [0, 0.6, 0.99])
def test_truncated_files(tmp_path, name, sentence, keep):
    truncate(WRITERS[name](tmp_path / name), keep)
    with pytest.raises(BadInput, match=f"corpus demo: {sentence}.*again"):
        rows(corpus(name), tmp_path)
    source = open_corpus(corpus(name), tmp_path)
    with pytest.raises(BadInput, match=sentence):
        list(source.reader.measure(source.files[0], count(10, 10)))


def test_damaged_parquet_pages(tmp_path):
    path = write_parquet(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.parquet is no readable Parquet file"):
        rows(corpus("a.parquet"), tmp_path)


def test_a_damaged_saved_dataset(tmp_path):
    write_dataset(tmp_path / "saved")
    truncate(next((tmp_path / "saved").glob("*.arrow")), 0.3)
    with pytest.raises(BadInput, match=r"saved is no readable directory by save_to_disk.*save it again"):
        rows(corpus("saved"), tmp_path)


def test_a_plain_file_with_a_compressed_name(tmp_path):
    write_jsonl(tmp_path / "a.jsonl.gz")
    with pytest.raises(BadInput, match=r"a\.jsonl\.gz cannot be read .*header"):
        rows(corpus("a.jsonl.gz"), tmp_path)


def test_invalid_utf8_in_parquet_spoils_its_row_only(tmp_path):
    text = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc"))
    pa.parquet.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    found = rows(corpus("a.parquet", fields={}), tmp_path)
    assert [row.record for row in found] == [{"text": "a"}, None, {"text": "c"}]
    assert found[1].location == "a.parquet row 2"
    assert found[1].problem == "The row holds a string that is not valid UTF-8."


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("missing.jsonl", r"path 'missing.jsonl' does not exist \(/.*/missing.jsonl\); correct path"),
        ("*.parquet", r"path '\*.parquet' matches no file \(looked for /.*\); correct path"),
        ("empty", "path 'empty' is a directory without files"),
        ("table.csv", r"the format of .*table.csv cannot be told from its suffix '.csv'; set format to one of"),
        ("mixed", r"files of several formats: jsonl \(a.jsonl\), text \(b.md\); set format"),
    ],
)
def test_paths_that_name_nothing_usable(tmp_path, path, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("id,text")
    write_jsonl(tmp_path / "mixed/a.jsonl")
    (tmp_path / "mixed/b.md").write_text("Hello.")
    with pytest.raises(BadInput, match=f"corpus demo: .*{sentence}"):
        open_corpus(corpus(path), tmp_path)


def test_a_format_without_files_in_a_directory(tmp_path):
    write_jsonl(tmp_path / "corpus/a.jsonl")
    with pytest.raises(BadInput, match="directory 'corpus' holds no parquet file"):
        open_corpus(corpus("corpus", format="parquet"), tmp_path)
    with pytest.raises(BadInput, match="path 'corpus' is no directory written by datasets' save_to_disk"):
        open_corpus(corpus("corpus", format="datasets"), tmp_path)


def test_a_file_without_read_permission():
    with tempfile.TemporaryDirectory() as directory, _as_nobody(directory):
        path = write_jsonl(Path(directory) / "a.jsonl")
        path.chmod(0)
        with pytest.raises(BadInput, match=r"a\.jsonl may not be read \(permission denied\); grant read permission"):
            rows(corpus("a.jsonl"), directory)


@contextmanager
def _as_nobody(directory):
    """Root reads everything: be nobody for a while."""
    if os.geteuid():
        yield
        return
    os.chown(directory, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
