"""Records and rejected rows: nothing is lost, each reason is a sentence, and too many of them are an error."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from assets.corpus.parsing import Rejected, parse_shard, rejected_share_problem
from assets.corpus.preflight import preflight_corpus
from assets.corpus.shards import plan_shards
from assets.specs.corpus import CorpusSpec
from compute.errors import BadInput
from tests.assets.corpus_files import (
    RECORDS,
    truncate,
    write_dataset,
    write_gzip,
    write_jsonl,
    write_parquet,
    write_zstd,
)


def corpus(path="a.jsonl", **options):
    return CorpusSpec(**{"name": "demo", "path": path, **options})


def parsed(spec, base):
    shards = plan_shards(spec, base)
    assert len(shards) == 1
    return parse_shard(spec, base, shards[0])


def parsed_lines(tmp_path, *rows: bytes, **options):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return parsed(corpus(**options), tmp_path)


def test_mapped_fields(tmp_path):
    write_jsonl(
        tmp_path / "a.jsonl", [{"key": 7, "body": "Hello.", "meta": {"from": "web"}}, {"key": 8, "body": "Bye."}]
    )
    result = parsed(corpus(fields={"text": "body", "id": "key", "source": "meta.from"}), tmp_path)
    assert [(r.record_id, r.text, r.source, r.location, r.position) for r in result.records] == [
        ("7", "Hello.", "web", "a.jsonl:1", 0),
        ("8", "Bye.", "a", "a.jsonl:2", 1),  # without a source of its own: the file's stem
    ]


def test_without_mapping_the_place_is_the_id_and_the_file_the_source(tmp_path):
    write_gzip(tmp_path / "web.2024.jsonl.gz", RECORDS[:3])
    records = parsed(corpus("web.2024.jsonl.gz"), tmp_path).records
    assert [record.record_id for record in records] == [f"web.2024.jsonl.gz:{n}" for n in (1, 2, 3)]
    assert {record.source for record in records} == {"web.2024"}


@pytest.mark.parametrize(
    "row, reason",
    [
        (b'{"id": "x", "text": "cut of', "The line is not valid JSON."),
        (b"[" * 100_000, "The line is not valid JSON."),
        (b'["a", "b"]', "The line is JSON but not an object."),
        (b'{"id": "x", "text": "caf\xe9"}', "The line is not valid UTF-8."),
        (
            b'{"id": "x", "text": "\\ud83d half"}',
            "The line escapes half of a surrogate pair, which is no Unicode character.",
        ),
        (b'{"id": "x", "body": "No text."}', "The text field 'text' is missing or null."),
        (b'{"id": "x", "text": null}', "The text field 'text' is missing or null."),
        (b'{"id": "x", "text": 12}', "The text field 'text' is not a string."),
        (b'{"id": "x", "text": " \\n\\u00a0"}', "The text field 'text' is empty or only white space."),
        (b'{"text": "No id."}', "The id field 'id' is missing or empty."),
        (b'{"id": null, "text": "No id."}', "The id field 'id' is missing or empty."),
        (b'{"id": "", "text": "No id."}', "The id field 'id' is missing or empty."),
        (b'{"id": ["x"], "text": "A list."}', "The id field 'id' is no string or number."),
        (b'{"id": "first", "text": "Again."}', "The id occurs earlier in the shard."),
    ],
)
def test_rejected_rows(tmp_path, row, reason):
    first, last = b'{"id": "first", "text": "First."}', b'{"id": "last", "text": "Last \\ud83d\\ude00."}'
    result = parsed_lines(tmp_path, first, row, last, fields={"id": "id"})
    assert [(record.record_id, record.position) for record in result.records] == [("first", 0), ("last", 1)]
    (rejected,) = result.rejected
    assert (rejected.location, rejected.reason) == ("a.jsonl:2", reason)
    assert rejected.excerpt == row.decode(errors="replace")[:200]
    json.dumps(rejected.excerpt, ensure_ascii=False).encode()  # can be stored


def test_a_rejected_row_keeps_its_id(tmp_path):
    (rejected,) = parsed_lines(
        tmp_path, b'{"key": 5, "text": ""}', b'{"key": 6, "text": "x"}', fields={"id": "key"}
    ).rejected
    assert rejected.record_id == "5"


def test_a_rejected_parquet_row(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"text": "x"}, {"text": None}])
    (rejected,) = parsed(corpus("a.parquet"), tmp_path).rejected
    assert (rejected.location, rejected.excerpt) == ("a.parquet row 2", '{"text": null}')


def test_a_text_file_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_text("café", encoding="utf-8")
    result = parsed(corpus("*.txt"), tmp_path)
    assert [record.record_id for record in result.records] == ["b.txt"]
    assert [(row.location, row.reason) for row in result.rejected] == [("a.txt", "The file is not valid UTF-8.")]


def test_rejected_share(tmp_path):
    result = parsed_lines(tmp_path, *[b'{"text": "x"}'] * 97, b"{", b"{", b'{"text": 1}')
    assert rejected_share_problem(corpus(max_rejected=0.03), len(result.records), result.rejected) is None
    problem = rejected_share_problem(corpus(max_rejected=0.02), len(result.records), result.rejected)
    assert problem.startswith(
        "corpus demo: 3 of 100 records were rejected, more than max_rejected 0.02 allows; "
        "2 because: The line is not valid JSON. (for example a.jsonl:98); mend"
    )


def test_no_tolerance_and_full_tolerance():
    one = [Rejected("a.jsonl:1", None, "The line is not valid JSON.", "{")]
    assert rejected_share_problem(corpus(max_rejected=0), 0, one)
    assert rejected_share_problem(corpus(max_rejected=1), 0, one) is None
    assert rejected_share_problem(corpus(max_rejected=0), 0, []) is None


# Preflight


@pytest.mark.parametrize(
    "name, write",
    [
        ("a.jsonl", write_jsonl),
        ("a.jsonl.zst", write_zstd),
        ("a.parquet", write_parquet),
        ("saved", write_dataset),
    ],
)
def test_preflight_passes_and_names_a_wrong_field(tmp_path, name, write):
    write(tmp_path / name)
    preflight_corpus(corpus(name, fields={"text": "text", "id": "id"}), tmp_path)
    with pytest.raises(BadInput) as error:
        preflight_corpus(corpus(name, fields={"text": "body"}), tmp_path)
    message = str(error.value)
    assert message.startswith(
        "corpus demo: field 'body' (fields.text) is not in any of the first 25 records of " + name
    )
    assert message.endswith("id, source, text; correct fields.text") or message.endswith(
        "id, text, source; correct fields.text"
    )


def test_preflight_names_the_first_record(tmp_path):
    write_jsonl(tmp_path / "corpus/a.jsonl", [{"id": 1, "text": "x"}])
    with pytest.raises(BadInput) as error:
        preflight_corpus(corpus("corpus/a.jsonl", fields={"text": "body"}), tmp_path)
    assert str(error.value) == (
        "corpus demo: field 'body' (fields.text) is not in the first record of corpus/a.jsonl, "
        "which has: id, text; correct fields.text"
    )


def test_preflight_lets_a_single_bad_record_pass(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"id": 1}, *RECORDS])
    preflight_corpus(corpus(fields={"id": "id"}), tmp_path)


def test_preflight_reads_nested_fields(tmp_path):
    write_parquet(tmp_path / "a.parquet", [{"text": "x", "meta": {"source": "web"}}])
    preflight_corpus(corpus("a.parquet", fields={"source": "meta.source"}), tmp_path)
    with pytest.raises(BadInput, match=r"field 'meta\.origin' \(fields\.source\)"):
        preflight_corpus(corpus("a.parquet", fields={"source": "meta.origin"}), tmp_path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "a.jsonl holds no records; add records, or correct path"),
        (b"\n \n", "a.jsonl holds no records"),
        (b'[{"text": "x"}]', "a.jsonl begins with a JSON array; write one JSON object per line"),
        (
            b"id,text\n1,x\n",
            r"none of the first 2 rows of a.jsonl is a record \(a.jsonl:1: The line is not valid JSON.\)",
        ),
    ],
)
def test_preflight_of_files_without_records(tmp_path, content, sentence):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=f"corpus demo: {sentence}"):
        preflight_corpus(corpus(), tmp_path)


def test_preflight_skips_empty_files(tmp_path):
    (tmp_path / "0.jsonl").write_bytes(b"")
    write_jsonl(tmp_path / "a.jsonl")
    preflight_corpus(corpus("*.jsonl"), tmp_path)


def test_preflight_looks_at_every_footer(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    truncate(write_parquet(tmp_path / "b.parquet"))
    with pytest.raises(BadInput, match=r"b\.parquet is no readable Parquet file"):
        preflight_corpus(corpus("*.parquet"), tmp_path)


def test_preflight_of_an_empty_parquet_file(tmp_path):
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"a\.parquet holds no records"):
        preflight_corpus(corpus("a.parquet"), tmp_path)


def test_preflight_of_a_hub_that_cannot_be_reached(tmp_path):
    spec = CorpusSpec(name="demo", hub="owner/data", max_records=10, revision="v1")
    with pytest.raises(
        BadInput, match=r"corpus demo: Hugging Face data set 'owner/data' at revision 'v1' cannot be opened"
    ):
        preflight_corpus(spec, tmp_path)


def test_preflight_of_a_hub_data_set(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "owner/data/a.jsonl")
    monkeypatch.chdir(tmp_path)
    hub = {"name": "demo", "hub": "owner/data", "max_records": 10, "revision": "a" * 40}
    preflight_corpus(CorpusSpec(**hub), tmp_path)
    with pytest.raises(
        BadInput, match=r"field 'body' \(fields\.text\).* of owner/data/train, which has: id, text, source"
    ):
        preflight_corpus(CorpusSpec(**hub, fields={"text": "body"}), tmp_path)
    records = parsed(CorpusSpec(**hub, fields={"id": "id"}), tmp_path).records
    assert [record.record_id for record in records] == [f"r{n}" for n in range(10)]
    assert {record.source for record in records} == {"owner/data"}
