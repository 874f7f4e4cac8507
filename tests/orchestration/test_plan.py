"""`headwater plan`: from files alone, from what a run left behind, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from assets.tracking.past_steps import PastStep
from compute import hardware
from compute.errors import BadInput
from compute.machine import machine_used
from orchestration.cli import app
from orchestration.plan.page import size
from orchestration.plan.recorded import Recorded, last_work
from orchestration.plan.sizes import Corpus, Queries, changed
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.tiny_study import RECORDS, headwater, write_study

STAGES = ["covariances", "eigenbasis", "eigenvalues", "completions", "query_gradients", "influence", "rankings"]


@pytest.fixture(autouse=True, scope="module")
def measured_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "measure", cache(hardware.measure))
        yield


def plan(home, study, *arguments, tracking: str = "") -> Result:
    """The command in this process, which spares it the imports; the variables are as before afterwards."""
    variables = {"HEADWATER_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "HEADWATER_TRACKING_URI": tracking}
    return CliRunner().invoke(app, ["plan", str(study), *map(str, arguments)], env=variables)


def planned(home, study, *arguments, **where) -> dict:
    result = plan(home, study, "--json", *arguments, **where)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_plan_needs_nothing_but_the_files_and_leaves_nothing(tmp_path):
    study, home = write_study(tmp_path), tmp_path / "home"
    told = planned(home, study, "--hardware", "h100")
    assert not home.exists()
    assert [stage["stage"] for stage in told["stages"]] == STAGES
    assert "estimated from file sizes" in told["corpus"]["origin"] and told["corpus"]["shards"] == 3
    assert RECORDS <= told["corpus"]["documents"] <= 3 * RECORDS
    assert told["queries"]["queries"] == 3 and told["queries"]["generated"] == 1
    assert all("last_time" not in stage for stage in told["stages"])
    for what in ("operations", "seconds", "lake_bytes"):
        assert told["total"][what] == pytest.approx(sum(stage[what] for stage in told["stages"]))
    for stage in told["stages"]:
        assert (
            stage["operations"] == pytest.approx(sum(stage["operations_by_precision"].values())) and stage["operations"]
        )
        assert stage["seconds"] == pytest.approx(sum(stage["seconds_by"].values()))
        assert stage["memory_bytes"] == pytest.approx(sum(stage["memory_by"].values()))


def test_what_ran_here_stands_next_to_the_estimate(finished):
    told = planned(finished.home, finished.study)
    documents = finished.table("corpus/tiny/documents")
    assert told["corpus"] == {
        "documents": len(documents),
        "tokens": round(documents["tokens"].mean()),
        "shards": 3,
        "origin": "counted in the lake",
    }
    by_stage = {stage["stage"]: stage for stage in told["stages"]}
    assert all(stage["last_time"]["seconds"] > 0 for stage in told["stages"]) and told["hardware"]["measured"]
    assert by_stage["influence"]["last_time"]["documents"] == len(documents)
    influence = by_stage["influence"]
    assert influence["per_shard"]["operations"] == pytest.approx(influence["operations"] / 3)
    assert set(influence["routes"].values()) <= {"factors", "formed", "rebuilt"}
    for name in ("covariances", "eigenbasis", "eigenvalues", "query_gradients"):  # small files are mostly overhead
        last = by_stage[name]["last_time"]
        assert 0.4 < last["estimated_lake_bytes"] / last["lake_bytes"] < 1.5, name
    grid = headwater(finished.home, "plan", finished.study)
    assert "Bottleneck: " in grid.stdout and "Last time: 7 stages took" in grid.stdout and "per shard" in grid.stdout


@pytest.fixture
def store(finished, tmp_path) -> str:
    """A copy of MLflow's store of the finished run, to be changed."""
    shutil.copy(finished.home / "mlflow/mlflow.db", tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def tracked_steps(store: str) -> dict:
    """The runs of steps by their names."""
    client = MlflowClient(store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return {run.info.run_name: run for run in client.search_runs(experiments, "tags.level = 'step'")}


def test_last_time_is_what_mlflow_recorded(finished, store):
    steps = tracked_steps(store)
    told = planned(finished.home, finished.study, tracking=store)
    keys = {"covariances": "curvature/tiny", "eigenbasis": "curvature/tiny", "eigenvalues": "curvature/tiny"}
    for stage in told["stages"]:
        name, last = stage["stage"], stage["last_time"]
        run = steps[f"{keys.get(name, 'study/tiny')}/{name}"]
        assert last["seconds"] == pytest.approx((run.info.end_time - run.info.start_time) / 1000)
        assert last["lake_bytes"] == run.data.metrics["bytes_written"] > 0
        assert last["recorded_by"] == "MLflow" and last["machine"] == run.data.tags["hardware"] == machine_used()
        assert last["hardware"] == told["hardware"]["name"]
        assert last["ratio"] == pytest.approx(last["estimated_seconds"] / last["seconds"])
    lines = [line for line in told["remarks"] if line.startswith("Last time")]
    assert len(lines) == 1 and lines[0].startswith("Last time: 7 stages took ") and machine_used() in lines[0]


@pytest.mark.parametrize(
    ("store_of", "words"),
    [
        (lambda path: f"sqlite:///{path}/none.db", "MLflow's store {path}/none.db is not there"),
        (lambda path: "http://127.0.0.1:9", "MLflow cannot be reached ("),
    ],
)
def test_without_mlflow_it_is_what_dagster_recorded(finished, tmp_path, store_of, words):
    told = planned(finished.home, finished.study, "--hardware", "a100", tracking=store_of(tmp_path))
    last = {stage["stage"]: stage["last_time"] for stage in told["stages"]}
    assert list(last) == STAGES
    assert all(each["recorded_by"] == "Dagster" and each["machine"] == machine_used() for each in last.values())
    assert last["influence"]["documents"] == told["corpus"]["documents"]
    assert told["remarks"][-1].startswith(f"Last time is as Dagster recorded it: {words.format(path=tmp_path)}")
    assert not (tmp_path / "none.db").exists()


def test_a_stage_that_mlflow_does_not_know_is_as_dagster_tells(finished, store):
    MlflowClient(store).delete_run(tracked_steps(store)["study/tiny/rankings"].info.run_id)
    told = planned(finished.home, finished.study, "--hardware", "a100", tracking=store)
    by = {stage["stage"]: stage["last_time"]["recorded_by"] for stage in told["stages"]}
    assert [name for name in STAGES if by[name] == "Dagster"] == ["rankings"]
    expected = "Last time of rankings is as Dagster recorded it: MLflow has no finished run of it."
    assert told["remarks"][-1] == expected


def test_times_are_compared_with_estimates_for_the_hardware_that_they_were_taken_on(finished, store):
    client, steps = MlflowClient(store), tracked_steps(store)
    machines = {"influence": "NVIDIA H100 80GB HBM3", "rankings": "abacus", "completions": ""}
    for name, machine in machines.items():
        run_id = steps[f"study/tiny/{name}"].info.run_id
        client.delete_tag(run_id, "hardware")
        if machine:
            client.set_tag(run_id, "hardware", machine)
    told = planned(finished.home, finished.study, "--hardware", "a100", tracking=store)
    last = {stage["stage"]: stage["last_time"] for stage in told["stages"]}
    on_h100 = {each["stage"]: each for each in planned(finished.home, finished.study, "--hardware", "h100")["stages"]}
    assert last["influence"]["hardware"] == "h100"
    assert last["influence"]["estimated_seconds"] == pytest.approx(on_h100["influence"]["seconds"])
    for name in ("rankings", "completions"):
        assert last[name]["hardware"] is last[name]["ratio"] is last[name]["estimated_seconds"] is None
        assert last[name]["seconds"] > 0
    assert machine_used() in last["covariances"]["hardware"]
    lines = [line for line in told["remarks"] if line.startswith("Last time")]
    assert len(lines) == 3 and any(line.startswith("Last time: 1 stage took ") and "on h100;" in line for line in lines)
    assert (
        "Last time: 2 stages ran on abacus, hardware that was not recorded, whose speed is not known here; their times "
        "are not compared with estimates." in lines
    )
    grid = plan(finished.home, finished.study, "--hardware", "a100", tracking=store)
    assert grid.exit_code == 0, grid.stderr


def test_of_many_steps_the_last_are_taken_until_they_make_up_the_corpus():
    def step(documents: int | None, hardware: str = "here") -> PastStep:
        return PastStep(seconds=2.0, bytes_written=10, documents=documents, hardware=hardware)

    steps = [step(40), step(None), step(30, "elsewhere"), step(60), step(1000)]
    assert last_work(steps, 100, by_shard=True) == Recorded(4.0, 20, 100, "here")
    assert last_work(steps, 10_000, by_shard=True) == Recorded(6.0, 30, 1100, "here")
    assert last_work(steps, 100, by_shard=False) == Recorded(2.0, 10, None, "here")
    assert last_work([step(None)], 100, by_shard=True) is last_work([], 100, by_shard=False) is None


def test_sizes_may_be_said_and_leave_the_comparison_alone(finished):
    told = planned(finished.home, finished.study, "--hardware", "a100")
    twice = planned(finished.home, finished.study, "--hardware", "a100", "--documents", 2 * told["corpus"]["documents"])
    more = planned(finished.home, finished.study, "--hardware", "a100", "--queries", 30, "--tokens", 48)
    one, two, three = ({stage["stage"]: stage for stage in each["stages"]} for each in (told, twice, more))
    assert two["influence"]["operations"] == pytest.approx(2 * one["influence"]["operations"])
    assert twice["corpus"]["shards"] == 6 and twice["training_pass"]["operations"] > told["training_pass"]["operations"]
    grown = three["query_gradients"]["operations"] / one["query_gradients"]["operations"]
    assert 3 < grown < 10  # 30 queries for 3; the passes that measure the agreement of ranks are shared
    assert more["corpus"]["tokens"] == 48
    for other in (two, three):
        assert all(other[name]["last_time"] == one[name]["last_time"] for name in STAGES)


def test_the_index_and_the_ablation_are_planned_where_they_are_asked_for(tmp_path):
    ablation = {"documents": 40, "ranks": [4], "blocks": [2]}
    study = write_study(tmp_path, options={"index": {"dimensions": 1024}, "ablation": ablation})
    stages = {each["stage"]: each for each in planned(tmp_path / "home", study, "--hardware", "h100")["stages"]}
    assert list(stages) == [*STAGES, "document_index", "index_statistics", "ablation"]
    more = planned(tmp_path / "home", study, "--hardware", "h100", "--documents", 100_000)
    grown = {each["stage"]: each for each in more["stages"]}
    corpus = more["corpus"]["documents"]
    assert grown["document_index"]["lake_bytes"] == pytest.approx(corpus * (1024 / 8 + 19))
    assert grown["document_index"]["per_shard"]["operations"] > 0
    assert grown["index_statistics"]["operations"] == stages["index_statistics"]["operations"]  # of the queries alone
    assert grown["index_statistics"]["seconds_by"]["the lake"] > stages["index_statistics"]["seconds_by"]["the lake"]
    assert stages["ablation"]["operations"] == grown["ablation"]["operations"]  # of its own sample
    assert "bfloat16" in stages["ablation"]["operations_by_precision"]


@pytest.mark.parametrize("ablation", [None, False])
def test_a_precision_that_is_compared_without_asking_is_planned_and_said(tmp_path, ablation):
    study = write_study(tmp_path, model={"dtype": "bfloat16"}, options={"ablation": ablation})
    told = planned(tmp_path / "home", study, "--hardware", "h100")
    remarks = [line for line in told["remarks"] if line.startswith("Ablation")]
    stages = {each["stage"]: each for each in told["stages"]}
    assert list(stages) == [*STAGES, *(["ablation"] if ablation is None else [])]
    assert remarks == (
        [
            "Ablation: bfloat16 is compared with float32 on 64 documents, as options.ablation left out has it; set "
            "options.ablation to false to do without."
        ]
        if ablation is None
        else []
    )
    if ablation is None:
        assert stages["ablation"]["memory_by"]["weights"] == 2 * stages["influence"]["memory_by"]["weights"]


@pytest.mark.parametrize(
    ("documents", "shards", "wanted", "expected"),
    [(206, 1, 5_000_000, 1_000), (206, 1, 4_000, 1), (9_000, 1, 18_000, 2), (600, 3, 1_200, 6), (600, 3, 100, 1)],
)
def test_shards_grow_with_the_documents(documents, shards, wanted, expected):
    """A single shard that is not full is filled first; several keep their size."""
    sizes = Corpus(documents, 64, shards, "counted"), Queries(1, 8, 2, 0, "counted")
    corpus, _ = changed(*sizes, documents=wanted, tokens=None, count=None, shard_records=5_000)
    assert (corpus.documents, corpus.shards) == (wanted, expected)


def test_a_model_to_be_trained_is_planned_with_its_training(tmp_path):
    study = write_study(
        tmp_path,
        model={"name": "own", "path": None, "train": {"hidden_size": 32, "layers": 2, "heads": 2, "epochs": 2}},
        corpus={"tokenizer": {"train": {"vocab_size": 300}}},
    )
    told = planned(tmp_path / "home", study, "--hardware", "l40s")
    assert told["stages"][0]["stage"] == "checkpoint"
    assert told["stages"][0]["operations"] == pytest.approx(2 * told["training_pass"]["operations"])


def test_memory_that_is_not_there_is_a_remark(tmp_path):
    big = {"hidden_size": 8192, "intermediate_size": 32768, "layers": 24, "heads": 64}
    study = write_study(
        tmp_path,
        model={"name": "own", "path": None, "train": big},
        corpus={"tokenizer": {"train": {"vocab_size": 300}}},
    )
    remarks = planned(tmp_path / "home", study, "--hardware", "a100")["remarks"]
    assert any("eigenvalues needs" in remark and "more than the 80 GiB of a100" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, ["--hardware", "abacus"], "--hardware: abacus is not known; name a100, h100"),
        (
            {"model": {"path": None, "hub": "nobody/nothing", "revision": "main"}},
            [],
            "nobody/nothing: cannot be reached",
        ),
        ({"curvature": {"modules": ["nothing_like_it"]}}, [], "no linear module's name matches"),
        ({"corpus": {"path": "nowhere/*.jsonl"}}, [], "nowhere/*.jsonl"),
        ({"queries": {"path": "nowhere.jsonl"}}, [], "nowhere.jsonl"),
        ({"options": {"token_budget": 32}}, ["--tokens", "33"], "options.token_budget: 32 is below a document of 33"),
        (
            {"curvature": {"token_budget": 32}},
            ["--tokens", "33"],
            "curvature.token_budget: 32 is below a document of 33",
        ),
        ({}, ["--tokens", "100"], "--tokens: 100 is above the context of 48 tokens of model tiny"),
        ({"options": {"rank": 0}}, [], "options"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, changes, arguments, words):
    study = write_study(tmp_path, **changes)
    result = plan(tmp_path / "home", study, "--hardware", "h100", *arguments)
    assert result.exit_code == 1 and words in result.stderr, result.stderr
    assert result.stderr.startswith("headwater: ") and "Traceback" not in result.stderr
    assert not os.path.exists(tmp_path / "home")


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"rank": 4096}},
        {"options": {"ablation": {}}},
        {"options": {"ablation": {"ranks": [4], "blocks": [3]}}},
        {"options": {"token_budget": 30}},
        {"curvature": {"token_budget": 8}},
        {"corpus": {"max_tokens": 64}},
        {"model": {"dtype": "float16"}, "options": {"methods": ["ekfac", "astra"]}},
    ],
)
def test_what_a_run_refuses_for_its_settings_a_plan_refuses_by_the_same_sentence(tmp_path, changes):
    study = write_study(tmp_path, **changes)
    with pytest.raises(BadInput) as refused:
        preflight(read_study(study))
    result = plan(tmp_path / "home", study, "--hardware", "h100")
    assert result.exit_code == 1 and result.stderr.strip() == f"headwater: {refused.value}"


def test_a_study_file_that_is_not_there(tmp_path):
    result = plan(tmp_path / "home", tmp_path / "no.yaml")
    assert result.exit_code == 1 and "no.yaml" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 KiB"), (1010 * 2**10, "1,010 KiB"), (1023.9 * 2**20, "1,024 MiB"), (1.5 * 2**30, "1.5 GiB")],
)
def test_sizes_are_said_without_exponents(number, said):
    assert size(number) == said
