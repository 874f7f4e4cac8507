"""`headwater run` on real files: what it leaves in the lake, in Dagster and in MLflow, and what a second run does."""

from __future__ import annotations

import json

import dagster as dg
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from assets.study.routes_told import FILE
from tests.orchestration.tiny_study import QUERIES, headwater, records, write_checkpoint, write_jsonl, write_study

KEYS = ("method", "query_id", "document_id")
SHARDED = ("corpus/tiny/records", "corpus/tiny/documents", "study/tiny/influence", "study/tiny/document_norms")


def test_every_document_is_scored_once_for_every_query_and_method(finished):
    documents = finished.table("corpus/tiny/documents")
    influence = finished.table("study/tiny/influence")
    assert len(influence) == len(documents) * len(QUERIES) * 2
    assert influence.select(KEYS).is_unique().all()
    assert set(influence["document_id"]) == set(documents["document_id"])
    assert influence["score"].is_finite().all()
    assert finished.table("study/tiny/document_norms")["norm"].min() > 0


def test_documents_tile_their_records(finished):
    documents = finished.table("corpus/tiny/documents").sort("record_id", "window")
    texts = documents.group_by("record_id", maintain_order=True).agg(pl.col("text").str.join())
    assert dict(texts.iter_rows()) == {record["id"]: record["text"] for record in records()}
    assert documents["tokens"].max() == 32


def test_completions_carry_nats_and_whether_they_are_right(finished):
    completions = finished.table("study/tiny/completions").sort("position")
    assert completions["query_id"].to_list() == ["given", "own", "plain"]
    assert completions["generated"].to_list() == [False, True, False]
    assert completions["is_right"].to_list() == [True, False, None]
    lengths = completions["completion_token_ids"].list.len()
    assert np.allclose(completions["nats"], completions["loss"] * lengths)
    assert lengths[1] <= 4


def test_rankings_agree_with_the_influence_table(finished):
    rankings = finished.table("study/tiny/rankings")
    influence = finished.table("study/tiny/influence")
    assert len(rankings) == 2 * len(QUERIES) * 2 * 2 * 5
    for (method, query_id), part in influence.group_by("method", "query_id"):
        expected = part.sort(["score", "document_id"], descending=[True, False])["document_id"].head(5).to_list()
        listed = rankings.filter(method=method, query_id=query_id, ranking="raw", end="top").sort("rank")
        assert listed["document_id"].to_list() == expected


def test_exact_scores_are_the_sums_of_their_shares_and_close_to_low_rank_ones(finished):
    rankings = finished.table("study/tiny/rankings")
    for shares in ("token_scores", "module_scores"):
        np.testing.assert_allclose(rankings[shares].list.sum(), rankings["exact_score"], rtol=1e-3, atol=1e-2)
    assert rankings.select(pl.corr("score", "exact_score")).item() > 0.95
    assert (rankings["tokens"].list.len() == rankings["token_scores"].list.len()).all()


def test_commits_name_their_runs_and_versions(finished):
    for path in SHARDED:
        newest = DeltaTable(str(finished.home / "lake" / path)).history(1)[0]
        assert newest["dagster_run_id"] and newest["mlflow_run_id"] and newest["code_version"] == "1"
        assert newest["operation"] == "WRITE"
    inputs = json.loads(DeltaTable(str(finished.home / "lake/study/tiny/influence")).history(1)[0]["inputs"])
    assert {"corpus/tiny/documents", "study/tiny/query_gradients", "model/tiny/checkpoint"} <= set(inputs)


def test_dagster_shows_rows_versions_and_a_link(finished):
    with dg.DagsterInstance.from_config(str(finished.home / "dagster")) as instance:
        key = dg.AssetKey(["study", "tiny", "influence"])
        assert instance.get_materialized_partitions(key) == {"00000", "00001", "00002"}
        event = instance.get_latest_materialization_event(key)
        metadata = event.asset_materialization.metadata
    assert metadata["dagster/row_count"].value > 0
    assert metadata["Delta version"].value >= 1
    assert "/runs/" in metadata["MLflow run"].value
    assert "| modules | first | outputs × inputs | route |" in metadata["routes"].value


def test_mlflow_has_a_parent_per_dagster_run_and_a_child_per_step(finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.home / 'mlflow' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 2
    assert {run.data.tags["asset"] for run in children} >= {"curvature/tiny/covariances", "study/tiny/rankings"}
    assert all(run.info.status == "FINISHED" for run in runs)
    scored = [run.info.run_id for run in children if run.data.tags["asset"] == "study/tiny/influence"]
    assert FILE in {file.path for run_id in scored for file in client.list_artifacts(run_id)}


def test_a_second_run_changes_nothing(finished):
    before = {path: DeltaTable(str(finished.home / "lake" / path)).version() for path in SHARDED}
    result = headwater(finished.home, "run", finished.study)
    assert result.returncode == 0, result.stderr
    assert {path: DeltaTable(str(finished.home / "lake" / path)).version() for path in SHARDED} == before


def test_scores_depend_on_neither_shards_nor_batches(finished, tmp_path):
    study = write_study(tmp_path, corpus={"shard_records": 7}, options={"token_budget": 64})
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    other = pl.scan_delta(str(tmp_path / "home/lake/study/tiny/influence")).collect()
    both = finished.table("study/tiny/influence").join(other, on=KEYS, suffix="_other", how="full")
    assert both["score_other"].null_count() == both["score"].null_count() == 0
    scale = both["score"].abs().max()
    np.testing.assert_allclose(both["score"], both["score_other"], atol=2e-4 * scale)


def test_a_new_file_adds_a_shard_and_leaves_the_fit_alone(tmp_path):
    study, home = write_study(tmp_path), tmp_path / "home"
    assert headwater(home, "run", study).returncode == 0
    lake = home / "lake"
    before = {path: DeltaTable(str(lake / path)).version() for path in ("curvature/tiny/covariances", *SHARDED)}
    (tmp_path / "corpus/part3.jsonl").write_text(json.dumps({"id": "new", "text": "the new river", "source": "code"}))
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    assert DeltaTable(str(lake / "curvature/tiny/covariances")).version() == before["curvature/tiny/covariances"]
    for path in SHARDED:
        assert DeltaTable(str(lake / path)).version() == before[path] + 1, path
    assert "new#0" in set(pl.scan_delta(str(lake / "study/tiny/influence")).collect()["document_id"])


@pytest.mark.slow
def test_a_model_is_trained_on_the_corpus_and_traced(tmp_path):
    training = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "context": 48, "epochs": 2}
    study = write_study(
        tmp_path,
        model={"name": "own", "path": None, "train": training},
        corpus={"tokenizer": {"train": {"vocab_size": 320}}, "end_of_text": True},
    )
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    lake = tmp_path / "home/lake"
    checkpoint = pl.scan_delta(str(lake / "model/own/checkpoint")).collect()
    assert "model.safetensors" in set(checkpoint["file"])
    assert len(pl.scan_delta(str(lake / "study/tiny/rankings")).collect()) == 2 * len(QUERIES) * 2 * 2 * 5


@pytest.mark.slow
def test_a_query_side_checkpoint_gives_completions_and_query_gradients(finished, tmp_path):
    write_checkpoint(tmp_path / "tuned", seed=1)
    study = write_study(tmp_path, query_model={"name": "tuned", "path": "tuned"})
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    lake = tmp_path / "home/lake"
    norms = pl.scan_delta(str(lake / "study/tiny/document_norms")).collect()
    both = finished.table("study/tiny/document_norms").join(norms, on="document_id", suffix="_other")
    np.testing.assert_allclose(both["norm"], both["norm_other"], rtol=1e-5)  # documents: the base model's gradients
    nats = pl.scan_delta(str(lake / "study/tiny/completions")).collect().sort("position")["nats"]
    assert not np.allclose(nats, finished.table("study/tiny/completions").sort("position")["nats"])


@pytest.mark.slow
def test_refit_draws_the_samples_again_and_fits_on_them(tmp_path):
    study, home = write_study(tmp_path), tmp_path / "home"
    assert headwater(home, "run", study).returncode == 0
    lake = home / "lake"
    more = [record | {"id": f"more-{record['id']}"} for record in records()]
    write_jsonl(tmp_path / "corpus/part9.jsonl", more)
    result = headwater(home, "run", study, "--refit")
    assert result.returncode == 0, result.stderr
    sample = pl.scan_delta(str(lake / "curvature/tiny/sample")).collect()
    assert any(document.startswith("more-") for document in sample["document_id"])
    for path in ("curvature/tiny/covariances", "curvature/tiny/eigenvalues", "study/tiny/query_gradients"):
        assert DeltaTable(str(lake / path)).version() == 2, path


@pytest.mark.slow
def test_names_with_a_dash_and_documents_of_one_length(tmp_path):
    rows = [{"id": f"r{number}", "text": "the cat sits on a mat", "source": "prose"} for number in range(9)]
    study = write_study(
        tmp_path,
        study="my-study",
        corpus={"name": "my-corpus", "path": "same.jsonl"},
        model={"name": "my-model"},
        options={"rank": "full"},
    )
    write_jsonl(tmp_path / "same.jsonl", rows)
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    rankings = pl.scan_delta(str(tmp_path / "home/lake/study/my-study/rankings")).collect()
    np.testing.assert_allclose(rankings["score"], rankings["exact_score"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions(finished, tmp_path, dtype):
    study = write_study(tmp_path, model={"dtype": dtype})
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    other = pl.scan_delta(str(tmp_path / "home/lake/study/tiny/influence")).collect()
    both = (
        finished.table("study/tiny/influence").filter(query_id="given", method="dot").join(other, on=KEYS, suffix="_o")
    )
    compared = tmp_path / "home/lake/study/tiny/ablation"
    assert compared.exists() == (dtype == "bfloat16")  # with float32, without being asked
    if compared.exists():
        rows = pl.scan_delta(str(compared)).collect()
        assert {"full rank", "rank 8, model in bfloat16", "model in bfloat16"} <= set(rows["variant"])
        assert rows.filter(variant="model in bfloat16")["pearson"].min() > 0.95
        assert (
            "Of that, model in bfloat16 alone"
            in pl.read_delta(str(tmp_path / "home/lake/study/tiny/report"))["html"][0]
        )
    assert both.select(pl.corr("score", "score_o")).item() > {"float64": 0.999999, "bfloat16": 0.99}[dtype]
