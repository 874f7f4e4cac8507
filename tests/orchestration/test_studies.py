"""Studies as files: mistakes by file, line and field; one bad study leaves the others; conflicts; registration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from assets.specs.mistakes import validated
from assets.specs.yaml_positions import read_yaml
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.studies import load_studies, open_study, read_study

GOOD = """\
study: {name}
corpus:
  name: demo
  path: corpus/*.jsonl
  max_tokens: 128
model: {{name: small, path: model}}
curvature: {{name: fit}}
queries: {{name: asked, path: queries.jsonl}}
options:
  rank: 8
"""


def write(directory: Path, name: str = "demo", text: str | None = None, **replacements: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    text = GOOD.format(name=name) if text is None else text
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    path = directory / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    return Home.from_environment().prepare()


def mistakes(directory: Path, text: str) -> list[str]:
    """The lines of the error, each without the file's name."""
    path = write(directory, text=text)
    with pytest.raises(BadInput) as caught:
        read_study(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path.resolve()}:") for line in lines)
    return [line.removeprefix(f"{path.resolve()}:") for line in lines]


def test_a_study_is_read_with_the_directory_that_its_paths_start_from(tmp_path):
    study = read_study(write(tmp_path))
    assert study.name == "demo" and study.spec.corpus.max_tokens == 128 and study.spec.options.rank == 8
    assert study.base == str(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("max_tokens: 128", "max_tokns: 128", 5, "corpus.max_tokns: is not a known field; did you mean max_tokens?"),
        ("max_tokens: 128", "zzz: 1", 5, "corpus.zzz: is not a known field; known: name, path, "),
        ("max_tokens: 128", "max_tokens: many", 5, "corpus.max_tokens: should be a whole number, not 'many'"),
        ("max_tokens: 128", "max_tokens: 1", 5, "corpus.max_tokens: should be at least 2, not 1"),
        ("max_tokens: 128", "max_tokens:", 5, "corpus.max_tokens: should be a whole number, not nothing"),
        (
            "max_tokens: 128",
            "tokenizer: {train: {vocabsize: 9}}",
            5,
            "tokenizer.train.vocabsize: is not a known field; did you",
        ),
        ("rank: 8", "rank: high", 10, "options.rank: should be a whole number, 'full' or 'auto', not 'high'"),
        (
            "rank: 8",
            "methods: [ekfac, bm25]",
            10,
            "options.methods.1: should be 'ekfac', 'dot', 'kfac', 'cosine', 'trackstar' or 'astra', not 'bm25'",
        ),
        ("path: model", "hub: a/b, revision: 2024-01-01", 6, "model.revision: should be text (in quotes"),
        ("path: model", "hub: a/b", 6, "model: a hub id needs a revision"),
        ("study: demo", "study: My Demo", 1, "study: should be lower-case letters, digits"),
        ("curvature: {name: fit}", "curvature: fit", 7, "curvature: should be fields of its own, not 'fit'"),
        ("curvature: {name: fit}\n", "", 1, "curvature: is missing; declare it"),
        ("  name: demo\n", "", 2, "corpus.name: is missing; declare it"),
    ],
)
def test_a_mistake_is_told_by_line_field_and_reason(tmp_path, old, new, line, reason):
    text = GOOD.format(name="demo")
    assert old in text
    (only,) = mistakes(tmp_path, text.replace(old, new))
    assert only.startswith(f"{line} ") and reason in only


def test_every_mistake_is_told_at_once(tmp_path):
    text = GOOD.format(name="demo").replace("rank: 8", "rnk: 8\n  top_k: x").replace("curvature: {name: fit}\n", "")
    found = [line.split(":")[0] for line in mistakes(tmp_path, text)]
    assert sorted(found) == ["1 curvature", "10 options.top_k", "9 options.rnk"]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("study: demo\ncorpus: [\n", "3: is not valid YAML"),
        ("study: demo\n\tcorpus: 1\n", "2: is not valid YAML"),
        ("study: demo\nstudy: demo\n", "2 study: stands there twice"),
        ("study: demo\ncorpus:\n  name: a\n  name: b\n", "4 corpus.name: stands there twice"),
        ("study: demo\noptions: !!python/object/apply:os.getcwd []\n", "2: is not valid YAML: could not determine"),
        ("study: demo\n---\nstudy: other\n", "2: is not valid YAML"),
        ("study: demo\n# \x07\n", "2: is not valid YAML: holds the control character"),
        ("study: demo\n? [a]\n: b\n", "2: is not valid YAML: a field's name is plain text"),
        ("- a\n- b\n", "1: holds no fields"),
        ("", "1: holds no fields"),
        ("a: " + "[" * 3000 + "]" * 3000, "1: is nested too deeply"),
        ("study: &a [*a]\n", "1 study: should be text"),
    ],
)
def test_what_is_not_a_document_of_fields_is_told_by_line(tmp_path, text, start):
    assert mistakes(tmp_path, text)[0].startswith(start)


def test_files_that_cannot_be_read(tmp_path):
    for path, reason in [
        (tmp_path / "no.yaml", "no such file"),
        (tmp_path, "cannot be read"),
        (tmp_path / "b.yaml", "UTF-8"),
    ]:
        (tmp_path / "b.yaml").write_bytes(b"study: \xff\xfe\n")
        with pytest.raises(BadInput, match=reason):
            read_study(path)


def test_anchors_and_merges_work(tmp_path):
    text = GOOD.format(name="demo").replace("model: {name: small", "model: &m {name: small")
    study = read_study(write(tmp_path, text=text + "query_model: {<<: *m, name: tuned}\n"))
    assert study.spec.query_model.path == "model" and study.spec.query_model.name == "tuned"


def test_any_pydantic_model_can_be_a_document(tmp_path):
    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = Field(gt=0)
        ratio: float = 0.5

    class Outer(BaseModel):
        model_config = ConfigDict(extra="forbid")
        inner: tuple[Inner, ...]
        on: bool = False

    path = write(tmp_path, text="inner:\n  - {size: 3}\n  - size: 0\n    ration: 1\n'on': maybe\n")
    with pytest.raises(BadInput) as caught:
        validated(read_yaml(path), Outer)
    assert str(caught.value).replace(str(path), "").splitlines() == [
        ":3 inner.1.size: should be greater than 0, not 0",
        ":4 inner.1.ration: is not a known field; did you mean ratio?",
        ":5 on: should be true or false, not 'maybe'",
    ]


# -- a directory of studies


def test_one_bad_study_leaves_the_others_working(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", text="study: [\n")
    (tmp_path / "c.yaml").symlink_to(tmp_path / "gone.yaml")
    write(tmp_path, "d")
    (tmp_path / "notes.txt").write_text("no study")
    loaded = load_studies(tmp_path)
    assert [each.study and each.study.name for each in loaded] == ["a", None, None, "d"]
    assert "b.yaml:2: is not valid YAML" in loaded[1].error and "gone.yaml: there is no such file" in loaded[2].error
    assert load_studies(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_tokens: 128", "max_tokens: 64", "5 corpus.max_tokens: is 64 for corpus demo, and 128 in {a}:5; declare"),
        ("max_tokens: 128", "format: parquet", "5 corpus.format: is 'parquet' for corpus demo, and left out in {a}:2;"),
        (
            "max_tokens: 128",
            "fields: {text: body}",
            "5 corpus.fields.text: is 'body' for corpus demo, and 'text' in {a}:2",
        ),
        (
            "corpus/*.jsonl",
            "other/*.jsonl",
            "4 corpus.path: is {tmp}/other/*.jsonl for corpus demo, and {tmp}/corpus/*",
        ),
        (
            "path: model",
            "path: elsewhere",
            "6 model.path: is {tmp}/elsewhere for model small, and {tmp}/model in {a}:6",
        ),
        ("{name: fit}", "{name: fit, seed: 1}", "7 curvature.seed: is 1 for curvature fit, and 0 in {a}:7"),
        (
            "path: queries.jsonl",
            "path: q2.jsonl",
            "8 queries.path: is {tmp}/q2.jsonl for queries asked, and {tmp}/quer",
        ),
        (
            "name: small",
            "name: big",
            "6 model.name: is big, and small in {a}:6, but curvature fit is fitted on one model",
        ),
        (
            "name: demo",
            "name: rest",
            "3 corpus.name: is rest, and demo in {a}:3, but curvature fit is fitted on one corp",
        ),
        (
            "rank: 8",
            "rank: 8\nquery_model: {name: small, path: tuned}",
            "11 query_model.path: is {tmp}/tuned for query_model small, and {tmp}/model in {a}:6",
        ),
    ],
)
def test_what_two_studies_name_alike_must_be_declared_alike(tmp_path, old, new, message):
    write(tmp_path, "a")
    write(tmp_path, "b", **{old: new})
    first, second = load_studies(tmp_path)
    assert first.error is None
    expected = message.replace("{tmp}", str(tmp_path)).replace("{a}", f"{tmp_path}/a.yaml")
    assert second.error.startswith(f"{tmp_path}/b.yaml:{expected}")
    assert "\n" not in second.error


def test_studies_that_share_parts_or_differ_in_options_get_along(tmp_path):
    write(tmp_path / "x", "a")
    write(
        tmp_path / "y",
        "b",
        **{
            "rank: 8": "rank: 16",
            "corpus/*.jsonl": "../x/corpus/*.jsonl",
            "path: model": f"path: {tmp_path}/x/model",
            "queries.jsonl": "../x/./queries.jsonl",
        },
    )
    for each in ("x/a", "y/b"):
        (tmp_path / f"{each[-1]}.yaml").symlink_to(tmp_path / f"{each}.yaml")
    assert [each.error for each in load_studies(tmp_path)] == [None, None]
    same_words = tmp_path / "same words, other directory"
    for each in ("x/a", "z/c"):
        path = write(tmp_path / each[0], each[-1])
        same_words.mkdir(exist_ok=True)
        (same_words / path.name).symlink_to(path)
    assert load_studies(same_words)[1].error.startswith(f"{tmp_path}/z/c.yaml:4 corpus.path: is {tmp_path}/z/corpus")


def test_two_files_of_one_study_name(tmp_path):
    directory = tmp_path / "my studies"
    write(directory, "a")
    (directory / "b.yaml").write_text("# a copy\n" + GOOD.format(name="a"))
    expected = (
        f"{directory}/b.yaml:2 study: a is already declared by {directory}/a.yaml:1; give one of them another name"
    )
    assert load_studies(directory)[1].error == expected


@pytest.mark.parametrize(
    ("line", "field", "name"),
    [
        (1, "study", "study: one"),
        (3, "corpus.name", "name: demo"),
        (6, "model.name", "name: small"),
        (7, "curvature.name", "name: fit"),
        (8, "queries.name", "name: asked"),
    ],
)
def test_names_that_only_dashes_tell_apart_are_refused(tmp_path, line, field, name):
    """To Dagster, in groups, jobs and operations, they would be one."""
    word = name.split()[0]
    for file, study, given in (("a", "one", "x-y"), ("b", "one" if field == "study" else "two", "x_y")):
        (tmp_path / f"{file}.yaml").write_text(GOOD.format(name=study).replace(name, f"{word} {given}"))
    first, second = load_studies(tmp_path)
    assert first.error is None
    assert second.error == (
        f"{tmp_path}/b.yaml:{line} {field}: x_y and x-y in {tmp_path}/a.yaml:{line} are one name to Dagster, "
        "which knows no dash; write both alike, or give one of them another name"
    )


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("small", "tuned", "6 model.path: is {tmp}/model for model small, and {tmp}/tuned in {tmp}/demo.yaml:11; "),
        ("small", "model", None),
        ("other", "tuned", None),
    ],
)
def test_a_query_model_called_like_the_model_is_the_model(tmp_path, name, path, message):
    write(tmp_path, **{"rank: 8": f"rank: 8\nquery_model: {{name: {name}, path: {path}}}"})
    (loaded,) = load_studies(tmp_path)
    if message is None:
        assert loaded.error is None
    else:
        assert loaded.error.startswith(f"{tmp_path}/demo.yaml:{message.replace('{tmp}', str(tmp_path))}")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("study: demo", f"study: {'a' * 101}", "1 study: has 101 characters; use at most 100"),
        ("name: fit", f"name: {'a' * 300}", "7 curvature.name: has 300 characters; use at most 100"),
        ("corpus/*.jsonl", r'"a\0b"', r"4 corpus.path.0: holds a character that no text can hold: 'a\x00b'; write"),
        ("corpus/*.jsonl", r'"\ud800"', r"4 corpus.path.0: holds a character that no text can hold: '\ud800'; write"),
        ("study: demo", "study: demo\nowners: [team:a, a@b.c.]", "2 owners.1: 'a@b.c.' is no owner to Dagster; write"),
    ],
)
def test_names_and_texts_that_would_fail_later_are_told_at_once(tmp_path, old, new, told):
    (only,) = mistakes(tmp_path, GOOD.format(name="demo").replace(old, new))
    assert only.startswith(told)


def test_names_as_long_as_may_be_are_taken(tmp_path):
    assert read_study(write(tmp_path, text=GOOD.format(name="a" * 100))).name == "a" * 100


def test_no_file_takes_the_others_down(home, tmp_path):
    """Whatever lies among the studies is a sentence of its own, in one line."""
    write(home.studies, "good")
    (home.studies / "date.yaml").write_text("study: 2024-13-45\n")
    (home.studies / "long.yaml").write_text(f"study: {'9' * 5000}\n")
    (home.studies / "loop.yaml").symlink_to("loop.yaml")
    (home.studies / "directory.yaml").mkdir()
    (home.studies / "half.yaml").write_text('"\\ud800": 1\n')
    os.mkfifo(home.studies / "pipe.yaml")
    with open(os.fsencode(home.studies) + b"/\xff.yaml", "w") as file:
        file.write(GOOD.format(name="bytes"))
    told = {each.path.name: each.error for each in load_studies(home.studies)}
    assert told.pop("good.yaml") is None and len(told) == 7
    for name, error in told.items():
        assert error.startswith(str(home.studies)) and "\n" not in error and error.encode(), name
    assert "month must be in 1..12" in told["date.yaml"] and "rename the file" in told["\udcff.yaml"]
    (home.studies / "good.yaml").unlink()
    open_study(write(tmp_path / "mine", "demo"), home)  # none of them is in the way of a new one


# -- registration


def test_a_study_from_elsewhere_is_linked_into_the_directory(home, tmp_path):
    path = write(tmp_path / "mine", "demo")
    for _ in range(2):
        assert open_study(path, home).base == str(tmp_path / "mine")
    link = home.studies / "demo.yaml"
    assert (
        link.is_symlink()
        and link.resolve() == path
        and load_studies(home.studies)[0].study.base == str(tmp_path / "mine")
    )
    inside = write(
        home.studies,
        "other",
        **{
            "name: demo": "name: own",
            "{name: fit}": "{name: own}",
            "name: small": "name: own",
            "name: asked": "name: own",
        },
    )
    open_study(inside, home)
    assert sorted(each.name for each in home.studies.iterdir()) == ["demo.yaml", "other.yaml"]


def test_another_file_of_the_same_study_is_refused_until_the_first_is_gone(home, tmp_path):
    first, second = write(tmp_path / "one", "demo"), write(tmp_path / "two", "demo")
    open_study(first, home)
    with pytest.raises(
        BadInput, match=r"demo.yaml:1 study: demo is already declared by .*demo.yaml:1; give one of them"
    ):
        open_study(second, home)
    first.write_text("broken: [")  # it may not be read at the moment, but it is still that study's file
    with pytest.raises(BadInput, match=f"study: demo is already declared by {first}"):
        open_study(second, home)
    first.unlink()
    open_study(second, home)
    assert (home.studies / "demo.yaml").resolve() == second


def test_a_bad_study_is_not_registered(home, tmp_path):
    with pytest.raises(BadInput):
        open_study(write(tmp_path, text="study: demo\n"), home)
    assert not list(home.studies.iterdir())
