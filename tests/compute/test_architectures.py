"""Every family of causal language models that people trace, at a tiny random size, against autograd in a for-loop.

Factors and scores are compared: A, S and Λ, document norms, and the inner products of gradients. What differs between
the families: Conv1D, biases, gated and plain MLPs, attention in groups, tied heads, caps and scales on logits, sliding
windows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from compute.covariances import fit_covariances
from compute.eigenbasis import decompose
from compute.eigenvalues import fit_eigenvalues
from compute.influence import score_documents
from compute.low_rank import full_rank
from compute.tracked_modules import select_modules
from tests.compute import oracle
from tests.compute.models import CONTEXT, NO_SPECIAL_TOKENS, VOCABULARY, random_documents, random_queries

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    **NO_SPECIAL_TOKENS,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_inner=40, n_layer=2, n_head=4, n_positions=CONTEXT, **NO_SPECIAL_TOKENS
    ),
    "gpt_neox (Pythia)": GPTNeoXConfig(**SIZES),
    "llama": LlamaConfig(**GROUPED),
    "llama, tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral, sliding window": MistralConfig(**GROUPED, head_dim=4, sliding_window=4),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "olmo": OlmoConfig(**GROUPED),
    "olmo2": Olmo2Config(**GROUPED),
    "gemma": GemmaConfig(**GROUPED, head_dim=4),
    "gemma2": Gemma2Config(**GROUPED, head_dim=4, final_logit_softcapping=5.0, sliding_window=4),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=4, sliding_window=4),
    "phi": PhiConfig(**GROUPED),
    "phi3": Phi3Config(**GROUPED),
    "opt": OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, word_embed_proj_dim=16, **NO_SPECIAL_TOKENS,
    ),
}  # fmt: skip
ROUNDING = 1e-5  # norms and rotary positions are float32 in most of these, whatever the weights are


def model_of(config) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=CONFIGS, scope="module")
def traced(request):
    model = model_of(CONFIGS[request.param])
    return model, select_modules(model, "mlp")


def assert_factors_and_scores_are_the_oracles(model, modules) -> None:
    documents, queries = random_documents(4, longest=14), random_queries(2)
    names, rows = [module.name for module in modules], [(document.token_ids,) for document in documents]
    found = fit_covariances(model, modules, documents, labels="empirical", token_budget=30)
    expected = oracle.covariances(model, names, rows)
    for name, (A_II, S_OO) in expected.items():
        assert oracle.relative_error(found[name].activation_II, A_II) < ROUNDING, name
        assert oracle.relative_error(found[name].gradient_OO, S_OO) < ROUNDING, name

    basis = decompose(found)
    eigenvalues = fit_eigenvalues(model, modules, basis, documents, labels="empirical", token_budget=30)
    bases = {name: (each.activation_vectors_IA, each.gradient_vectors_OS) for name, each in basis.items()}
    for name, lambda_OI in oracle.eigenvalue_correction(model, bases, rows).items():
        assert oracle.relative_error(eigenvalues[name], lambda_OI) < ROUNDING, name

    directions = [oracle.weight_gradients(model, names, query.token_ids, query.loss_start) for query in queries]
    gradients = [oracle.weight_gradients(model, names, *row) for row in rows]
    factors = [{name: full_rank(each) for name, each in direction.items()} for direction in directions]
    scores = score_documents(model, modules, factors, documents, token_budget=30)
    by_hand = np.array([[oracle.score(direction, gradient) for gradient in gradients] for direction in directions])
    assert oracle.relative_error(scores.scores_QD, by_hand) < ROUNDING
    assert oracle.relative_error(scores.norms_D, [oracle.norm(gradient) for gradient in gradients]) < ROUNDING


def test_factors_and_scores_are_those_of_the_for_loop(traced):
    assert_factors_and_scores_are_the_oracles(*traced)


def test_attention_layers_too():
    """Grouped queries: k and v are narrower than q."""
    model = model_of(CONFIGS["qwen2"])
    modules = select_modules(model, ["self_attn"])
    assert {module.out_features for module in modules} == {16, 8}
    assert_factors_and_scores_are_the_oracles(model, modules)


DROPOUT = {
    "llama": LlamaConfig(**GROUPED, attention_dropout=0.5),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_inner=40, n_layer=2, n_head=4, n_positions=CONTEXT, resid_pdrop=0.5,
        embd_pdrop=0.5, attn_pdrop=0.5, **NO_SPECIAL_TOKENS,
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CONTEXT, word_embed_proj_dim=16, dropout=0.5, layerdrop=0.5, **NO_SPECIAL_TOKENS,
    ),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, attention_dropout=0.5),
}  # fmt: skip


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("name", DROPOUT)
def test_gradient_checkpointing_changes_nothing(name, use_reentrant):
    """A model whose layers are computed again in backward; its hooks see each module's tokens once, and dropout, of
    modules and (OPT) of layers themselves, is off."""
    model = model_of(DROPOUT[name])
    model.set_experts_implementation("eager")  # of float64
    modules, documents = select_modules(model, "mlp"), random_documents(4, longest=14)
    torch.manual_seed(0)
    factors = [{m.name: full_rank(torch.randn(m.out_features, m.in_dim).double()) for m in modules}]
    expected = score_documents(model, modules, factors, documents)

    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.train()  # transformers checkpoints in training alone; the passes put the model into eval mode and back
    runs, usual = [], {id(each): each._gradient_checkpointing_func for each in layers_of(model)}
    last = model.get_submodule(modules[-1].expert.layer if modules[-1].expert else modules[-1].name)
    last.register_forward_pre_hook(lambda *_: runs.append(1))
    found = score_documents(model, modules, factors, documents)
    assert len(runs) == 2  # in one batch
    np.testing.assert_array_equal(found.scores_QD, expected.scores_QD)
    np.testing.assert_array_equal(found.norms_D, expected.norms_D)
    assert all(each.training for each in model.modules())
    assert all(each._gradient_checkpointing_func is usual[id(each)] for each in layers_of(model))


def layers_of(model) -> list:
    return [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]


def test_a_checkpointed_model_has_the_oracles_factors_and_scores():
    model = model_of(CONFIGS["llama"])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert_factors_and_scores_are_the_oracles(model, select_modules(model, "mlp"))
    assert model.training
