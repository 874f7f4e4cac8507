"""Experts in one three-dimensional weight as linear modules: their names, the model's own outputs, the routing, what it
costs, and checkpoints.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compute.capture import captured
from compute.checkpoint import load_model, model_skeleton, same_architecture
from compute.errors import BadInput
from compute.experts import route
from compute.passes import backward_passes
from compute.routes import Workload, choose
from compute.token_loss import run_batch
from compute.tracked_modules import TrackedModule, select_modules
from tests.compute import oracle
from tests.compute.models import batches_of, random_documents
from tests.compute.routed import CONFIGS, EXPERTS, ROUNDING, make_routed, tiny


@pytest.fixture(scope="module")
def mixtral():
    return make_routed("mixtral")


def test_each_expert_is_two_linear_modules_of_its_layer(mixtral):
    assert len(mixtral.modules) == 2 * EXPERTS * 2
    assert mixtral.names[:4] == [
        "model.layers.0.mlp.experts.0.gate_up_proj",
        "model.layers.0.mlp.experts.0.down_proj",
        "model.layers.0.mlp.experts.1.gate_up_proj",
        "model.layers.0.mlp.experts.1.down_proj",
    ]
    sizes = {(module.in_features, module.out_features, module.has_bias) for module in mixtral.modules}
    assert sizes == {(16, 32, False), (16, 16, False)}
    assert {module.token_share for module in mixtral.modules} == {2 / EXPERTS}


def test_sizes_do_not_depend_on_how_a_weight_lies():
    modules = select_modules(tiny("gpt_oss (biases, transposed)"), "mlp")
    sizes = {(module.in_features, module.out_features, module.has_bias) for module in modules}
    assert sizes == {(16, 40, True), (20, 16, True)}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_chooses_and_weighs_experts_is_not_mlp(name):
    names = [module.name for module in select_modules(tiny(name), "mlp")]
    assert not [each for each in names if each.endswith(("gate", "router"))]
    assert any(".experts.3." in each for each in names)


def test_a_gate_that_is_a_linear_module_can_be_named():
    model = tiny("qwen2_moe")
    (gate,) = select_modules(model, ["shared_expert_gate"])
    assert gate.name == "model.layers.1.mlp.shared_expert_gate"
    assert gate in select_modules(model, "all")


def test_shared_experts_and_layers_without_experts_are_mlp():
    names = [module.name for module in select_modules(tiny("qwen2_moe"), "mlp")]
    assert "model.layers.0.mlp.gate_proj" in names
    assert "model.layers.1.mlp.shared_expert.down_proj" in names


def test_a_pattern_chooses_experts(mixtral):
    (module,) = select_modules(mixtral.model, [r"layers\.1.*experts\.3\.down"])
    assert module.name == "model.layers.1.mlp.experts.3.down_proj"


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_outputs_are_its_own_while_experts_run_one_by_one(name, implementation):
    model, documents = tiny(name).float(), random_documents(5, longest=14)
    model.set_experts_implementation(implementation)
    (batch,) = batches_of(documents, token_budget=8192)
    with torch.no_grad():
        own_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
        with captured(model, select_modules(model, "mlp"), lambda *_: None, [batch]):
            found_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
        after_BTV = model(input_ids=batch.token_ids_BT, use_cache=False).logits
    assert model.config._experts_implementation == implementation
    real_BT = batch.attention_BT.bool()
    assert oracle.relative_error(found_BTV[real_BT], own_BTV[real_BT]) < ROUNDING
    assert torch.equal(after_BTV, own_BTV)


def test_tokens_are_routed_once_and_padding_is_not(mixtral):
    (batch,) = batches_of(mixtral.documents, token_budget=8192)
    generator = torch.Generator().manual_seed(3)
    choice_NK = torch.rand(batch.attention_BT.numel(), EXPERTS, generator=generator).argsort(1)[:, :2]
    seen = []
    for number, tokens in route(batch, choice_NK, EXPERTS):
        values_BC1 = tokens.by_document(tokens.token_n[:, None].double())
        for document, (row_C, held_C) in enumerate(zip(values_BC1[..., 0], tokens.batch.attention_BT, strict=True)):
            for token in row_C[held_C.bool()].int().tolist():
                seen.append((token, number))
                assert token // batch.attention_BT.shape[1] == document
                assert choice_NK[token].tolist().count(number) == 1
        assert torch.equal(tokens.batch.token_ids_BT[tokens.document_n, tokens.column_n],
                           batch.token_ids_BT.flatten()[tokens.token_n])  # fmt: skip
    real = batch.attention_BT.flatten().nonzero().flatten().tolist()
    assert sorted(seen) == sorted((token, number) for token in real for number in choice_NK[token].tolist())


def test_a_consumer_is_given_the_columns_of_an_experts_own_tokens(mixtral):
    """What an expert costs follows the tokens that reach it, not those of the batch."""
    widths = []
    passes = backward_passes(
        mixtral.model, mixtral.modules, mixtral.documents,
        lambda batch, module, a_BCI, g_BCO: widths.append((batch.attention_BT.shape, a_BCI.shape[:2], g_BCO.shape[:2])),
        token_budget=8192,
    )  # fmt: skip
    assert len(list(passes)) == 1 and widths
    assert all(one == two == three for one, two, three in widths)
    assert np.mean([shape[1] for shape, *_ in widths]) < max(map(len, mixtral.documents))


def test_a_route_is_chosen_for_the_tokens_that_reach_an_expert(mixtral):
    workload = Workload(tokens=100, documents=4, memory_bytes=2**20)
    expert, dense = mixtral.modules[0], TrackedModule("dense", 16, 32, False)
    assert choose(expert, [4], workload, 2**20) == choose(dense, [4], Workload(40, 4, 2**20), 2**20)


def test_experts_that_see_another_number_of_tokens_than_the_batch_are_refused(mixtral):
    (batch,) = batches_of(mixtral.documents, token_budget=8192)
    with (
        captured(mixtral.model, mixtral.modules, lambda *_: None, [batch]),
        pytest.raises(BadInput, match="MixtralExperts"),
    ):
        mixtral.model(input_ids=batch.token_ids_BT[:, :-1])


@pytest.mark.parametrize("name", ["mixtral", "olmoe"])
def test_a_checkpoint_is_traced_under_the_same_names_and_saved_as_it_was(tmp_path, name):
    model = tiny(name)
    modules, documents = select_modules(model, "mlp"), random_documents(3, longest=8)
    list(backward_passes(model, modules, documents, lambda *_: None, token_budget=8192))  # leaves no trace
    location = str(tmp_path / "saved")
    model.save_pretrained(location)
    loaded, skeleton = load_model(location, dtype="float64", device="cpu"), model_skeleton(location)
    assert select_modules(loaded, "mlp") == select_modules(skeleton, "mlp") == modules
    assert same_architecture(loaded, skeleton) and same_architecture(loaded, model)
    (batch,) = batches_of(documents, token_budget=8192)
    with captured(loaded, modules, lambda *_: None, [batch]):
        losses = run_batch(loaded, batch)
    by_hand = [oracle.loss(model, documents[index].token_ids).item() for index in batch.index_B]
    assert losses.tolist() == pytest.approx(by_hand, rel=ROUNDING)
