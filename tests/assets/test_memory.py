"""What a study's stages need next to what a CPU has: told with the largest part and what helps."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from assets.findings.ablation.costs import check_ablation_memory, study_ablation_cost
from assets.model.memory import (
    REMEDIES,
    TRACED,
    cost_setting,
    gradient_beyond,
    refuse_beyond_memory,
    refuse_parts,
    refuse_study_beyond_memory,
)
from assets.specs.study import IndexSpec
from compute.architecture import architecture_of
from compute.cost import CostModel
from compute.errors import BadInput
from compute.tracked_modules import select_modules
from orchestration.preflight import preflight
from orchestration.studies import read_study
from tests.orchestration.tiny_study import write_study

GIB = 2**30


@pytest.fixture
def study(tmp_path):
    return read_study(write_study(tmp_path))


@pytest.fixture(scope="module")
def wide():
    """The skeleton of a model whose MLP covariances take 4 GiB."""
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "num_attention_heads": 16}
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes))
    return skeleton, select_modules(skeleton, "mlp")


def there(monkeypatch, size: float) -> None:
    monkeypatch.setattr("compute.available_memory.available_memory", lambda: int(size))
    monkeypatch.setattr("compute.checkpoint.best_device", lambda: "cpu")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"activations": 3 * GIB, "logits": 10}, "3,072 MiB of memory (activations 3,072 MiB), and 1,024 MiB are "),
        ({"activations": 3 * GIB}, "lower curvature.token_budget, or corpus.max_tokens"),
        ({"covariances": 2 * GIB, "activations": GIB}, "raise curvature.blocks, or give curvature.memory_mib"),
        ({"queries' gradients": 2 * GIB}, "lower options.rank or options.memory_mib, or ask fewer queries"),
    ],
)
def test_the_need_what_is_there_and_what_to_change_are_told(study, monkeypatch, parts, words):
    there(monkeypatch, GIB)
    with pytest.raises(BadInput) as told:
        refuse_parts(study, "covariances", parts)
    assert str(told.value).startswith("study tiny: covariances needs about") and words in str(told.value)


def test_the_refusal_tells_of_its_escape_which_warns_instead(tmp_path, study, monkeypatch, capsys):
    there(monkeypatch, GIB)
    parts = {"activations": 3 * GIB}
    with pytest.raises(BadInput, match=r"; options\.memory_check: warn tries all the same$"):
        refuse_parts(study, "influence", parts)
    assert not capsys.readouterr().err
    warned = read_study(write_study(tmp_path, options={"memory_check": "warn"}))
    refuse_parts(warned, "influence", parts)
    told = capsys.readouterr().err
    assert "influence needs about 3,072 MiB" in told and "it goes on, as options.memory_check says" in told
    refuse_parts(warned, "influence", {"activations": GIB})
    assert not capsys.readouterr().err


def test_what_fits_is_not_refused(study, monkeypatch):
    there(monkeypatch, 3 * GIB)
    refuse_parts(study, "influence", {"activations": 3 * GIB})
    there(monkeypatch, 0)
    refuse_parts(study, "influence", {"activations": 2**25})  # not worth a refusal


def test_every_part_has_a_remedy(study, wide):
    skeleton, modules = wide
    study.spec.options.__dict__ |= {"methods": ("ekfac", "trackstar", "astra"), "index": IndexSpec()}
    setting = cost_setting(study, documents=100, tokens=256, queries=10, query_tokens=64, logits_at_once=2**20)
    costs = CostModel(architecture_of(skeleton, modules), setting)
    assert {what for cost in costs.stages().values() for what in cost.memory} <= REMEDIES.keys()
    assert set(TRACED) <= costs.stages().keys()


SPREAD = {"model": {"device_map": "auto"}}
BOUNDED = {"curvature": {"blocks": 4, "memory_mib": 512, "token_budget": 1024}, "options": {"token_budget": 1024}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "covariances needs about 9,556 MiB of memory .weights 2,325 MiB, activations 2,595 MiB, covariances 4,353",
        ),
        (SPREAD, "covariances needs about 7,232 MiB of memory .activations 2,595 MiB, covariances 4,353 MiB"),
        (SPREAD | BOUNDED, None),
    ],
)
def test_a_study_is_looked_at_before_anything_is_loaded(tmp_path, wide, monkeypatch, changes, words):
    there(monkeypatch, 5 * GIB)
    study = read_study(write_study(tmp_path, **changes))
    sizes = {"documents": 60, "tokens": 32, "queries": 3}
    if words is None:
        refuse_study_beyond_memory(study, *wide, **sizes)
        return
    with pytest.raises(BadInput, match=words + ".*; raise curvature.blocks, or give curvature.memory_mib"):
        refuse_study_beyond_memory(study, *wide, **sizes)


def test_preflight_looks(tmp_path, monkeypatch, capsys):
    there(monkeypatch, 10)
    monkeypatch.setattr("assets.model.memory.ENOUGH", 0)
    with pytest.raises(BadInput, match="covariances needs about"):
        preflight(read_study(write_study(tmp_path)))
    options = {"memory_check": "warn", "index": {"dimensions": 64}, "ablation": {"ranks": [4], "blocks": [2]}}
    preflight(read_study(write_study(tmp_path, options=options)))
    told = capsys.readouterr().err
    expected = [stage for stage in TRACED if stage != "refined_gradients"]
    assert re.findall("study tiny: ([a-z_]+) needs about", told) == [*expected, "ablation"]


def test_an_ablation_needs_the_float32_model_also_where_the_study_is_of_another_precision(tmp_path, wide):
    options = {"ablation": {"ranks": [4], "blocks": [2]}}
    study = read_study(write_study(tmp_path, options=options, model={"dtype": "bfloat16"}))
    skeleton, modules = wide
    setting = cost_setting(study, documents=100, tokens=32, queries=3, logits_at_once=2**20)
    costs = CostModel(architecture_of(skeleton, modules), setting)
    every, narrow = study_ablation_cost(study, costs), study_ablation_cost(study, costs, dtype="bfloat16")
    assert every.memory["weights"] == 2 * narrow.memory["weights"] == 2 * costs.influence().memory["weights"]
    assert narrow.total < every.total and every.memory_bytes > narrow.memory_bytes
    # A fit in blocks holds half of A and S as Λ is fitted, and a batch's share of Λ.
    whole = sum(4 * (each.in_dim**2 + each.out_features**2) for each in modules)
    entries = sum(4 * each.in_dim * each.out_features for each in modules)
    assert every.memory["eigenbasis and eigenvalues"] == pytest.approx(whole / 2 + 2 * entries)


@pytest.mark.parametrize("stage", ["query_gradients", "rankings"])
def test_one_querys_gradient_has_to_fit_on_gpus_too(study, wide, monkeypatch, stage):
    """It cannot be halved, as a batch is; all else is left to the pass itself."""
    skeleton, modules = wide
    monkeypatch.setattr("compute.devices.input_device", lambda _: torch.device("cuda"))
    sizes = {"documents": 60, "tokens": 32, "queries": 3}
    entries = 4 * sum(module.out_features * module.in_dim for module in modules)  # about 1 GiB
    monkeypatch.setattr("assets.model.memory.free_on_gpus", lambda _: 4 * entries)
    refuse_beyond_memory(study, stage, skeleton, modules, **sizes)
    monkeypatch.setattr("assets.model.memory.free_on_gpus", lambda _: entries - 1)
    with pytest.raises(BadInput, match=rf"{stage} needs about .* \(one query's gradient .*; leave modules out of"):
        refuse_beyond_memory(study, stage, skeleton, modules, **sizes)
    refuse_beyond_memory(study, "influence", skeleton, modules, **sizes)


def test_a_gradient_beyond_the_memory_for_gradients_is_told(study):
    assert gradient_beyond(study, "rankings", 2 * GIB) is None
    assert gradient_beyond(study, "rankings", 3 * GIB) == (
        "rankings holds 3,072 MiB for one query's full gradients, 1,024 MiB beyond options.memory_mib (2048): they are "
        "whole, however little that is"
    )


UNASKED = {"model": {"dtype": "bfloat16"}}
WAY_OUT = r"; or set options\.ablation to false: nothing then tells how well bfloat16 agrees$"


@pytest.mark.parametrize(
    ("options", "words"), [({}, WAY_OUT), ({"ablation": {"ranks": [4], "blocks": []}}, "narrower model.dtype;[^;]*$")]
)
def test_what_does_not_fit_for_an_ablation_that_nobody_asked_for_can_be_left_out(
    tmp_path, wide, monkeypatch, options, words
):
    there(monkeypatch, GIB)
    study = read_study(write_study(tmp_path, **UNASKED, options=options))
    with pytest.raises(BadInput, match=f"^study tiny: ablation needs about .*{words}"):
        check_ablation_memory(study, *wide, documents=60, tokens=32, queries=3)


def test_a_gpu_without_room_for_the_float32_model_is_found_before_work(tmp_path, wide, monkeypatch):
    monkeypatch.setattr("compute.checkpoint.best_device", lambda: "cuda:0")
    monkeypatch.setattr("compute.machine.gpu_memory", lambda: GIB)
    sizes = {"documents": 60, "tokens": 32, "queries": 3}
    study = read_study(write_study(tmp_path, **UNASKED))
    said = "study tiny: ablation needs the model in float32, whose weights take 2,325 MiB, and the GPU has 1,024 MiB"
    with pytest.raises(BadInput, match=f"^{said}; give model.device_map: auto{WAY_OUT}"):
        check_ablation_memory(study, *wide, **sizes)
    monkeypatch.setattr("compute.machine.gpu_memory", lambda: 3 * GIB)
    check_ablation_memory(study, *wide, **sizes)
    monkeypatch.setattr("compute.machine.gpu_memory", lambda: GIB)
    for changes in ({"model": {"dtype": "bfloat16", "device_map": "auto"}}, {"options": {"products": "bfloat16"}}):
        check_ablation_memory(read_study(write_study(tmp_path, **changes)), *wide, **sizes)
