"""Two studies of the same documents: how the scores of the one go with those of the other, query by query."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import dagster as dg
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from orchestration.automation import study_keys
from orchestration.graph import study_assets, study_tables
from orchestration.studies import read_study
from tests.orchestration.copied_study import CopiedStudy, home_at
from tests.orchestration.test_automation import SHARDS, Platform
from tests.orchestration.tiny_study import QUERIES, headwater, write_jsonl, write_study

pytestmark = pytest.mark.slow

PATH = "study/second/comparison_statistics"


OWN_CORPUS = {"corpus": {"name": "again"}, "curvature": {"name": "again"}}
"""The same documents under another name, as a study of another model has them."""


def second_study(directory, **changes):
    """A study beside the first one, on the same model and unless changed the same corpus, that damps more."""
    changes = {"options": {"damping": 5.0}, "findings": {"compare": ["tiny"]}} | changes
    study = write_study(directory, study="second", **changes)
    return study.rename(directory / "second.yaml")


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of the finished study, and beside it the second one, run."""
    directory = tmp_path_factory.mktemp("comparison") / "both"
    shutil.copytree(finished.study.parent, directory, symlinks=True)
    first, home = directory / finished.study.name, directory / "home"
    second, _ = second_study(directory, **OWN_CORPUS), write_study(directory)
    registered = home / "studies/tiny.yaml"
    registered.unlink()
    registered.symlink_to(first)
    result = headwater(home, "run", second)
    assert result.returncode == 0, result.stderr
    table = lambda path: pl.scan_delta(str(home / "lake" / path)).collect()  # noqa: E731
    return SimpleNamespace(directory=directory, home=home, first=first, second=second, table=table)


def test_the_correlation_of_each_query_is_that_of_all_its_scores(run):
    rows = run.table("study/second/correlation").filter(other_study="tiny")
    key = ["method", "query_id", "document_id"]
    own, theirs = (run.table(f"study/{name}/influence").select(*key, "score") for name in ("second", "tiny"))
    both = own.join(theirs, on=key, suffix="_there")
    assert len(rows) == 2 * len(QUERIES) and set(rows["method"]) == {"dot", "ekfac"}
    for (method, query), part in both.group_by("method", "query_id"):
        row = rows.row(by_predicate=(pl.col("method") == method) & (pl.col("query_id") == query), named=True)
        expected = np.corrcoef(part["score"].cast(pl.Float64), part["score_there"].cast(pl.Float64))[0, 1]
        assert row["r"] == pytest.approx(expected, abs=1e-9)
        assert (row["other_query_id"], row["other_method"], row["documents"]) == (query, method, len(part))
    assert rows.filter(method="dot")["r"].to_list() == pytest.approx([1.0] * len(QUERIES))  # not damped at all
    damped = rows.filter(method="ekfac")["r"].to_numpy()
    assert (damped < 1 - 1e-6).all() and (damped > 0.5).all()


def test_other_rows_are_of_the_study_itself(run):
    rows = run.table("study/second/correlation").filter(other_study="second")
    alone = run.table("study/tiny/correlation")
    assert set(alone["other_study"]) == {"tiny"} and len(rows) == len(alone)
    pairs = rows.filter(pl.col("method") == pl.col("other_method"))
    assert (pairs["query_id"] < pairs["other_query_id"]).all()


def test_findings_tell_it(run):
    evidence = run.table("study/second/evidence").filter(statistic="correlation with study tiny")
    rows = run.table("study/second/correlation").filter(other_study="tiny")
    assert set(evidence["method"]) == {"dot", "ekfac"} and evidence["contrast"].null_count() == len(evidence)
    of = rows.filter(method="ekfac", query_id="given")["r"].item()
    assert evidence.filter(method="ekfac", group="factual")["estimate"].item() == pytest.approx(of)
    assert "correlation with study tiny" in run.table("study/second/report")["html"][0].lower()


def test_only_what_is_new_is_compared(run):
    def version() -> int:
        return DeltaTable(str(run.home / "lake" / PATH)).version()

    before = version()
    (run.directory / "corpus/part3.jsonl").write_text('{"id": "new", "text": "the new river runs", "source": "code"}\n')
    result = headwater(run.home, "run", run.second)
    assert result.returncode == 1  # the new shard has no scores in the other study
    assert "study tiny: shard 00003 is not scored" in result.stderr
    for study in (run.first, run.second):
        result = headwater(run.home, "run", study)
        assert result.returncode == 0, result.stderr
    assert version() == before + 1
    rows = run.table("study/second/correlation")
    assert set(rows["documents"]) == {run.table("corpus/tiny/documents").height}


def again(run, **changes) -> CopiedStudy:
    second, _ = second_study(run.directory, **OWN_CORPUS | changes), write_study(run.directory)
    home = home_at(run.home)
    return CopiedStudy(run.directory, read_study(second), home, dg.DagsterInstance.from_config(str(home.dagster)))


def sentence_of(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = result.get_step_failure_events()
    return str(failure.step_failure_data.error)


def test_it_comes_after_what_it_is_compared_with(run):
    not_run = read_study(write_study(run.directory, study="third").rename(run.directory / "third.yaml"))
    other = again(run, findings={"compare": ["third"]})
    with other.instance:
        result = other.materialize(PATH, shards=("00000", "00000"), others=[not_run])
    assert "names third, which has no scores yet; run study third first" in sentence_of(result)


def test_studies_without_a_common_query_are_not_compared(run):
    others = [query | {"id": f"other {query['id']}"} for query in QUERIES]
    write_jsonl(run.directory / "others.jsonl", others)
    other = again(run, queries={"name": "others", "path": "others.jsonl"})
    tiny = read_study(run.first)
    with other.instance:
        assert other.materialize("queries/others/queries", "study/second/completions", others=[tiny]).success
        result = other.materialize(PATH, shards=("00000", "00000"), others=[tiny])
    assert "no query has the same id and prompt in both" in sentence_of(result)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"findings": {"compare": ["nowhere"]}}, ["findings.compare names nowhere"]),
        ({"findings": {"compare": ["second"]}}, ["findings.compare", "names the study itself"]),
        (OWN_CORPUS | {"corpus": {"name": "again", "max_tokens": 16}}, ["findings.compare", "in max_tokens"]),
    ],
)
def test_what_cannot_be_compared_is_told_before_any_work(tmp_path, changes, words):
    home, second = tmp_path / "home", second_study(tmp_path, **changes)
    (home / "studies").mkdir(parents=True)
    (home / "studies/tiny.yaml").symlink_to(write_study(tmp_path))
    result = headwater(home, "run", second)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert not (home / "lake").exists()


def test_no_study_has_it_that_does_not_ask(tmp_path):
    for section, is_there in (({}, False), ({"compare": ["tiny"]}, True)):
        study = read_study(second_study(tmp_path, findings=section))
        keys = {key.to_user_string() for definition in study_assets(study) for key in definition.keys}
        assert (PATH in keys) == (PATH in {table.path for table in study_tables(study)}) == is_there
        assert (PATH in {key.to_user_string() for key in study_keys(study)}) == is_there


@pytest.mark.parametrize("changes", [{}, OWN_CORPUS])
def test_it_follows_the_scores_of_both(tmp_path, changes):
    first = read_study(write_study(tmp_path, automation={"watch": True}))
    second = read_study(second_study(tmp_path, automation={"watch": True}, **changes))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"corpus/{second.spec.corpus.name}", SHARDS)
        platform = Platform(instance, second, first)
        platform.tick(study_keys)
        platform.update("study/tiny/influence", "00001")
        assert (PATH, "00001") in platform.tick(study_keys)
