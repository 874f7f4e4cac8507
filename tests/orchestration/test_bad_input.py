"""Bad input through the command line: one sentence that names the culprit, a non-zero exit, and nothing lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from compute.errors import BadInput
from orchestration.cli import app
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.tiny_study import headwater, write_checkpoint, write_jsonl, write_study


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs a study that must be refused; gives what stood on standard error."""
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))

    def run(study: Path) -> str:
        result = CliRunner().invoke(app, ["run", str(study)])
        assert result.exit_code == 1, result.output
        sentence = result.stderr.strip().splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert len(sentence) < 400
        return sentence

    return run


def test_missing_study_file(refused, tmp_path):
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml")


def test_unknown_field_names_file_line_and_field(refused, tmp_path):
    study = write_study(tmp_path, options={"damppening": 0.1})
    line = next(n for n, text in enumerate(study.read_text().splitlines(), 1) if "damppening" in text)
    sentence = refused(study)
    assert f"tiny.yaml:{line}" in sentence and "options.damppening" in sentence and "damping" in sentence


@pytest.mark.parametrize("damping", [math.inf, math.nan, -0.1])
def test_damping_is_a_number(refused, tmp_path, damping):
    sentence = refused(write_study(tmp_path, options={"damping": damping}))
    assert "options.damping" in sentence and "tiny.yaml:" in sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"damping": 1e300}}, "options.damping: should be at most 1000000, not 1e+300"),
        ({"options": {"rank": True}}, "options.rank: should be a whole number, not true"),
        ({"options": {"min_agreement": True}}, "options.min_agreement: should be a number, not true"),
        ({"options": {"ablation": {"ranks": [True]}}}, "options.ablation.ranks: should be a whole number, not [True]"),
        ({"curvature": {"modules": []}}, "curvature.modules: is empty; write mlp, all, or patterns of module names"),
        (
            {"curvature": {"seed": 2**64}},
            "curvature.seed: should be less than 18446744073709551616, not 18446744073709551616",
        ),
        (
            {"model": {"train": {"seed": 2**32}}},
            "model.train.seed: should be less than 4294967296, not 4294967296",
        ),
        (
            {"model": {"device_map": "auto", "max_memory": {"²": "1GiB"}}},
            "model: max_memory names the device ²; write the number of a GPU, or cpu",
        ),
    ],
)
def test_values_that_nothing_can_be_made_of(refused, tmp_path, changes, words):
    study = write_study(tmp_path, **changes)
    sentence = refused(study)
    assert words in sentence and "tiny.yaml:" in sentence


@pytest.mark.parametrize(("seed", "damping"), [(2**64 - 1, 1e6)])
def test_the_largest_seed_and_damping_are_taken(tmp_path, seed, damping):
    from compute.labels import uniforms

    spec = read_study(write_study(tmp_path, curvature={"seed": seed}, options={"damping": damping})).spec
    assert (spec.curvature.seed, spec.options.damping) == (seed, damping)
    assert 0 <= uniforms(seed, np.zeros(1, np.uint64), np.zeros(1, np.int64))[0] < 1


def test_missing_corpus_file(refused, tmp_path):
    assert "absent.jsonl" in refused(write_study(tmp_path, corpus={"path": "absent.jsonl"}))


def test_wrong_field(refused, tmp_path):
    sentence = refused(write_study(tmp_path, corpus={"fields": {"text": "body"}}))
    assert "body" in sentence and "part0.jsonl" in sentence and "text" in sentence


def test_empty_corpus(refused, tmp_path):
    study = write_study(tmp_path)
    for part in (tmp_path / "corpus").iterdir():
        part.write_text("")
    assert "no records" in refused(study)


def test_unreadable_file(refused, tmp_path):
    study = write_study(tmp_path)
    (tmp_path / "corpus/part0.jsonl").unlink()
    (tmp_path / "corpus/part0.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert "part0.jsonl" in refused(study)


def test_truncated_file(refused, tmp_path):
    study = write_study(tmp_path, corpus={"path": "corpus/*.parquet"})
    pl.DataFrame({"id": ["a"], "text": ["b"], "source": ["c"]}).write_parquet(tmp_path / "corpus/x.parquet")
    content = (tmp_path / "corpus/x.parquet").read_bytes()
    (tmp_path / "corpus/x.parquet").write_bytes(content[: len(content) // 2])
    assert "x.parquet" in refused(study)


def test_prompt_longer_than_the_context(refused, tmp_path):
    study = write_study(tmp_path)
    write_jsonl(tmp_path / "queries.jsonl", [{"id": "long", "prompt": "the cat " * 60}])
    sentence = refused(study)
    assert "queries.jsonl:1" in sentence and "query long" in sentence and "48" in sentence


def test_query_without_prompt(refused, tmp_path):
    study = write_study(tmp_path)
    write_jsonl(tmp_path / "queries.jsonl", [{"id": "a", "prompt": "the"}, {"id": "b"}])
    sentence = refused(study)
    assert "queries.jsonl:2" in sentence and "prompt" in sentence


def test_tokenizer_that_does_not_fit_the_model(refused, tmp_path):
    from compute.tokenizer import train_tokenizer

    study = write_study(tmp_path)
    train_tokenizer(["many other words " * 3, *map(str, range(900))], vocab_size=900).save_pretrained(
        tmp_path / "model"
    )
    sentence = refused(study)
    assert "tokenizer" in sentence and "model tiny" in sentence


def test_unknown_module_pattern(refused, tmp_path):
    sentence = refused(write_study(tmp_path, curvature={"modules": ["mixer"]}))
    assert "mixer" in sentence and "dense_h_to_4h" in sentence


def test_checkpoint_without_weights(refused, tmp_path):
    study = write_study(tmp_path)
    (tmp_path / "model/model.safetensors").unlink()
    assert "safetensors" in refused(study)


def test_checkpoint_with_damaged_weights(refused, tmp_path):
    study = write_study(tmp_path)
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(tmp_path / "model") in refused(study)


def test_checkpoint_of_another_architecture_never_runs_on_random_weights(refused, tmp_path):
    study = write_study(tmp_path)
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "lacks weights" in refused(study)


def test_documents_longer_than_the_context(refused, tmp_path):
    sentence = refused(write_study(tmp_path, corpus={"max_tokens": 64}))
    assert "max_tokens" in sentence and "48" in sentence


def test_rank_above_a_dimension(refused, tmp_path):
    assert "options.rank" in refused(write_study(tmp_path, options={"rank": 4096}))


@pytest.mark.parametrize(
    ("curvature", "options", "words"),
    [
        ({"memory_mib": 64}, {}, "curvature.memory_mib: 64, and the factors of"),
        ({}, {"memory_mib": 64, "rank": "full"}, "options.memory_mib: 64 is too little for one document's gradient of"),
        ({}, {"memory_mib": 64, "ablation": {"ranks": [4], "blocks": []}}, "options.memory_mib: 64 is too little"),
        ({}, {"memory_mib": 64, "products": "bfloat16"}, "is too little .*; or set options.ablation to false: nothing"),
        ({}, {"memory_mib": 64, "products": "bfloat16", "ablation": False}, None),
        ({}, {"memory_mib": 64}, None),
    ],
)
def test_budgets_of_memory_that_cannot_work_are_found_on_a_gpu_too(tmp_path, monkeypatch, curvature, options, words):
    monkeypatch.setattr("compute.checkpoint.best_device", lambda: "cuda:0")
    monkeypatch.setattr("compute.machine.gpu_memory", lambda: 80 * 2**30)
    options = {"methods": ["ekfac"]} | options
    study = write_study(tmp_path, corpus={"max_tokens": 48}, curvature=curvature, options=options)
    write_jsonl(tmp_path / "queries.jsonl", [{"id": "a", "prompt": "the cat"}])
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"intermediate_size": 140_000}))
    if words is None:
        preflight(read_study(study))
        return
    with pytest.raises(BadInput, match=words):
        preflight(read_study(study))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_astra_is_refused_in_float16_alone(tmp_path, dtype):
    study = write_study(tmp_path, model={"dtype": dtype}, options={"methods": ["ekfac", "astra"]})
    if dtype == "bfloat16":
        preflight(read_study(study))
        return
    with pytest.raises(BadInput, match=r"model\.dtype: float16 is too narrow for the derivatives that astra takes"):
        preflight(read_study(study))


def test_query_model_of_another_shape(refused, tmp_path):
    study = write_study(tmp_path, query_model={"name": "tuned", "path": "tuned"})
    write_checkpoint(tmp_path / "tuned", hidden_size=16)
    assert "query_model tuned" in refused(study)


def test_weights_that_would_make_every_loss_nan(refused, tmp_path):
    from safetensors.torch import load_file, save_file

    study = write_study(tmp_path)
    path = tmp_path / "model/model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.final_layer_norm.weight"][:] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    sentence = refused(study)
    assert "gpt_neox.final_layer_norm.weight" in sentence and "NaN" in sentence


def test_too_many_rejected_records(refused, tmp_path):
    study = write_study(tmp_path)
    rows = [{"id": f"x{number}"} for number in range(20)]
    write_jsonl(tmp_path / "corpus/part9.jsonl", rows)
    sentence = refused(study)
    assert "max_rejected" in sentence and "part9.jsonl:1" in sentence


def test_a_few_bad_records_are_set_aside_with_their_reasons(tmp_path):
    study = write_study(tmp_path)
    with open(tmp_path / "corpus/part0.jsonl", "a") as file:
        file.write('{broken\n{"id": "blank", "text": "  ", "source": "code"}\n')
    result = headwater(tmp_path / "home", "run", study)
    assert result.returncode == 0, result.stderr
    rejected = pl.scan_delta(str(tmp_path / "home/lake/corpus/tiny/rejected")).collect().sort("location")
    assert rejected["location"].to_list() == ["corpus/part0.jsonl:31", "corpus/part0.jsonl:32"]
    assert rejected["record_id"].to_list() == [None, "blank"]


@pytest.mark.slow
def test_a_damaged_table_in_the_lake_is_named(tmp_path, refused):
    study = write_study(tmp_path)
    assert CliRunner().invoke(app, ["run", str(study)]).exit_code == 0
    (file,) = (tmp_path / "home/lake/study/tiny/completions").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    study = write_study(tmp_path, options={"damping": 0.5})  # the query gradients have to be computed again
    sentence = refused(study)
    assert "study/tiny/completions" in sentence and "materialize" in sentence


def test_no_stack_trace_in_a_real_process(tmp_path):
    result = headwater(tmp_path / "home", "run", tmp_path / "nowhere.yaml")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("headwater: ") and "Traceback" not in result.stderr


def test_one_id_in_two_shards(refused, tmp_path):
    study = write_study(tmp_path)
    write_jsonl(tmp_path / "corpus/part9.jsonl", [{"id": "r3", "text": "the cat again", "source": "code"}])
    sentence = refused(study)
    assert "'r3'" in sentence and "part0.jsonl:4" in sentence and "part9.jsonl:1" in sentence


def test_a_trained_tokenizer_for_a_model_that_has_its_own(refused, tmp_path):
    sentence = refused(write_study(tmp_path, corpus={"tokenizer": {"train": {"vocab_size": 320}}}))
    assert "tokenizer" in sentence and "model tiny" in sentence
