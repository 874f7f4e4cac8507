"""Which modules are tracked: by kind and by pattern; what cannot be tracked is named rather than left out silently."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, Llama4TextConfig, OPTConfig

from compute.covariances import fit_covariances
from compute.errors import BadInput
from compute.token_loss import run_batch
from compute.tracked_modules import select_modules
from tests.compute.models import VOCABULARY, random_documents, tiny_model
from tests.compute.routed import tiny

MLP = {
    "gpt_neox": {"dense_h_to_4h": (16, 40, True), "dense_4h_to_h": (40, 16, True)},
    "gpt2": {"c_fc": (16, 40, True), "c_proj": (40, 16, True)},
    "llama": {"gate_proj": (16, 40, False), "up_proj": (16, 40, False), "down_proj": (40, 16, False)},
}
OTHERS = {"gpt_neox": 2, "gpt2": 2, "llama": 4}  # linear layers of each layer's attention


@pytest.mark.parametrize("architecture", MLP)
def test_mlp_is_every_linear_layer_of_the_mlp_with_its_sizes(architecture):
    modules = select_modules(tiny_model(architecture), "mlp")
    assert len(modules) == 2 * len(MLP[architecture])
    for module in modules:
        described = (module.in_features, module.out_features, module.has_bias)
        assert described == MLP[architecture][module.name.rpartition(".")[2]]
        assert module.in_dim == module.in_features + module.has_bias


@pytest.mark.parametrize("architecture", MLP)
def test_all_adds_attention_and_leaves_out_the_head(architecture):
    model = tiny_model(architecture)
    names = [module.name for module in select_modules(model, "all")]
    assert len(names) == 2 * (len(MLP[architecture]) + OTHERS[architecture])
    assert not any(model.get_submodule(name) is model.get_output_embeddings() for name in names)


def test_patterns_choose_by_name_and_each_module_once():
    model = tiny_model("gpt2")
    modules = select_modules(model, [r"h\.1\.mlp", r"c_proj$"])
    assert [module.name for module in modules] == [
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.mlp.c_proj",
        "transformer.h.1.attn.c_proj",
        "transformer.h.1.mlp.c_fc",
        "transformer.h.1.mlp.c_proj",
    ]


def test_layers_named_fc1_and_fc2_are_mlp():
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_dim=40, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    modules = select_modules(AutoModelForCausalLM.from_config(config), "mlp")
    assert [module.name.rpartition(".")[2] for module in modules] == ["fc1", "fc2"]


def test_a_pattern_that_matches_nothing_lists_what_exists():
    with pytest.raises(BadInput, match=r"'feedforward'.*mlp\.dense_h_to_4h") as raised:
        select_modules(tiny_model("gpt_neox"), ["mlp", "feedforward"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pattern", ["embed_in", "layernorm"])
def test_embeddings_and_norms_are_not_linear_modules(pattern):
    with pytest.raises(BadInput, match=pattern):
        select_modules(tiny_model("gpt_neox"), [pattern])


def test_a_broken_regular_expression_is_named():
    with pytest.raises(BadInput, match=r"'mlp\.\('"):
        select_modules(tiny_model("gpt_neox"), ["mlp.("])


def llama4() -> nn.Module:
    """Its experts are one weight too, in a module that does not state its layout."""
    config = Llama4TextConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=40, intermediate_size_mlp=40, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_local_experts=2, max_position_embeddings=32,
    )  # fmt: skip
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("selection", ["mlp", "all", ["feed_forward"]])
def test_experts_of_an_unknown_layout_are_refused_by_name(selection):
    with pytest.raises(BadInput, match=r"experts.*Llama4TextExperts.*cannot be tracked"):
        select_modules(llama4(), selection)


def test_other_modules_of_a_model_with_such_experts_can_be_named():
    assert len(select_modules(llama4(), [r"self_attn\.o_proj"])) == 1
    assert len(select_modules(llama4(), [r"shared_expert\."])) == 3


@pytest.mark.parametrize("selection", [["mlp"], "all"])
def test_weights_that_patterns_match_and_that_cannot_be_tracked_are_warned_of_once(selection, caplog):
    """Mixtral's router is a weight of its own class."""
    model = tiny("mixtral")
    names = [module.name for module in select_modules(model, selection)]
    assert names and not any("mlp.gate" in name for name in names)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name.startswith("compute.")
    assert record.getMessage() == (
        "curvature.modules: not tracked, since they are not linear layers: "
        "model.layers.N.mlp.gate.weight (MixtralTopKRouter)"
    )


def test_own_weights_and_convolutions_are_warned_of_too(caplog):
    model = tiny_model("gpt_neox")
    attention = model.gpt_neox.layers[0].attention
    attention.low_rank = nn.Parameter(torch.zeros(16, 4))
    attention.mixing = nn.Conv1d(16, 16, 3)
    select_modules(model, [r"layers\.1\."])
    select_modules(model, "mlp")
    assert not caplog.records  # they are not matched
    select_modules(model, "all")
    (record,) = caplog.records
    assert "attention.low_rank (GPTNeoXAttention)" in record.getMessage()
    assert "attention.mixing.weight (Conv1d)" in record.getMessage()


@pytest.mark.parametrize("selection", ["mlp", "all", [""]])
@pytest.mark.parametrize("architecture", [*MLP, "gpt_oss (biases, transposed)", "mixtral"])
def test_embeddings_norms_biases_the_head_and_the_mlps_routers_are_not(architecture, selection, caplog):
    model = tiny_model(architecture, tie_word_embeddings=False) if architecture in MLP else tiny(architecture)
    select_modules(model, selection)
    assert all("(GptOssTopKRouter)" in each.getMessage() or "(Mixtral" in each.getMessage() for each in caplog.records)
    assert bool(caplog.records) == (architecture not in MLP and selection != "mlp")
    assert "," not in caplog.text.partition("layers: ")[2]


class FlatLayer(nn.Module):
    """A layer that flattens its tokens before a linear module, as OPT's MLP does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.expert = layer

    def forward(self, hidden_BTI):
        return self.expert(hidden_BTI.flatten(0, 1)).view(*hidden_BTI.shape[:2], -1)


class RoutedLayer(FlatLayer):
    """A layer that sends only some of the tokens through a linear module, as experts of other layouts do."""

    def forward(self, hidden_BTI):
        flat_NI = hidden_BTI.flatten(0, 1)
        chosen_nO = self.expert(flat_NI[::2])
        output_NO = chosen_nO.new_zeros(len(flat_NI), chosen_nO.shape[1])
        output_NO[::2] = chosen_nO
        return output_NO.view(*hidden_BTI.shape[:2], -1)


def test_a_module_that_sees_flattened_tokens_is_traced_all_the_same():
    model, flat = tiny_model("gpt_neox"), tiny_model("gpt_neox")
    flat.gpt_neox.layers[0].mlp.dense_h_to_4h = FlatLayer(flat.gpt_neox.layers[0].mlp.dense_h_to_4h)
    documents = random_documents(4)
    plain, flattened = (
        list(fit_covariances(each, select_modules(each, "mlp"), documents, labels="empirical").values())
        for each in (model, flat)
    )
    for one, other in zip(plain, flattened, strict=True):
        torch.testing.assert_close(one.activation_II, other.activation_II)
        torch.testing.assert_close(one.gradient_OO, other.gradient_OO)


def test_a_module_that_does_not_see_documents_is_refused_by_name():
    """Without its batch dimension a document's gradient cannot be told from another's."""
    model = tiny_model("gpt_neox")
    mlp = model.gpt_neox.layers[0].mlp
    mlp.dense_h_to_4h = RoutedLayer(mlp.dense_h_to_4h)
    modules = select_modules(model, "mlp")
    with pytest.raises(BadInput, match=r"dense_h_to_4h\.expert"):
        fit_covariances(model, modules, random_documents(2), labels="empirical")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", MLP)
def test_a_tied_head_changes_nothing(architecture, tied):
    model = tiny_model(architecture, tie_word_embeddings=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    modules = select_modules(model, "all")
    fit_covariances(model, modules, random_documents(2), labels="empirical")
    assert all(torch.is_tensor(p) and p.grad is None for p in model.parameters())


def test_a_module_that_is_used_twice_in_a_forward_pass_is_refused_by_name():
    """Blocks that layers share: the uses' gradients belong to one weight, and are not told apart."""
    model = tiny_model("gpt_neox")
    model.gpt_neox.layers[1].mlp = model.gpt_neox.layers[0].mlp
    with pytest.raises(BadInput, match=r"layers\.0\.mlp\.dense_4h_to_h is used more than once"):
        fit_covariances(model, select_modules(model, "mlp"), random_documents(2), labels="empirical")


def bypassed() -> nn.Module:
    """A model that takes one module's weight without calling the module, so that no hook sees what it does."""
    model = tiny_model("gpt_neox")
    mlp = model.gpt_neox.layers[0].mlp

    def forward(hidden_BTI):
        wide = mlp.dense_h_to_4h
        return mlp.dense_4h_to_h(mlp.act(functional.linear(hidden_BTI, wide.weight, wide.bias)))

    mlp.forward = forward
    return model


def test_a_module_whose_forward_is_bypassed_is_refused_by_name():
    model, documents = bypassed(), random_documents(3)
    name = r"layers\.0\.mlp\.dense_h_to_4h was not called"
    with pytest.raises(BadInput, match=name):
        fit_covariances(model, select_modules(model, "mlp"), documents, labels="empirical")
    others = select_modules(model, [r"dense_4h_to_h", r"layers\.1\.mlp"])
    assert len(fit_covariances(model, others, documents, labels="empirical")) == 3


def test_a_bypassed_module_is_refused_also_where_a_batch_is_done_again(monkeypatch):
    """The first attempt ends before anything is met; its halves are whole batches."""
    model, calls = bypassed(), []

    def sometimes(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("injected")
        return run_batch(*arguments)

    monkeypatch.setattr("compute.passes.run_batch", sometimes)
    with pytest.raises(BadInput, match=r"dense_h_to_4h was not called"):
        fit_covariances(model, select_modules(model, "mlp"), random_documents(3), labels="empirical")
    assert len(calls) == 2
