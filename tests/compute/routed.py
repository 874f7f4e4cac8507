"""Tiny random models with experts in one three-dimensional weight, and the reference that their tracing is tested
against: gradients of those weights themselves, and tokens that are sent to their experts one at a time.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from compute.batches import Sequence
from compute.covariances import fit_covariances
from compute.eigenbasis import decompose
from compute.eigenvalues import fit_eigenvalues
from compute.tracked_modules import TrackedModule, select_modules
from tests.compute import oracle
from tests.compute.models import CONTEXT, NO_SPECIAL_TOKENS, VOCABULARY, random_documents, random_queries

EXPERTS = 5
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, **NO_SPECIAL_TOKENS,
}  # fmt: skip
TWO_OF_FIVE = {"num_experts": EXPERTS, "num_experts_per_tok": 2}
CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, intermediate_size=16, num_local_experts=EXPERTS),  # as wide as its inputs
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, **TWO_OF_FIVE, moe_intermediate_size=20, shared_expert_intermediate_size=24, mlp_only_layers=[0],
        intermediate_size=28,
    ),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **TWO_OF_FIVE, head_dim=8, moe_intermediate_size=20, intermediate_size=24),
    "olmoe": OlmoeConfig(**SIZES, **TWO_OF_FIVE, intermediate_size=20),
    "deepseek_v3": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4}, n_routed_experts=EXPERTS, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=20, intermediate_size=24, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    ),
    "gpt_oss (biases, transposed)": GptOssConfig(
        **SIZES, num_local_experts=EXPERTS, num_experts_per_tok=2, intermediate_size=20, head_dim=4, sliding_window=4
    ),
}  # fmt: skip
ROUNDING = 1e-5  # norms, rotary positions and routers are float32 in these, whatever the weights are


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name])).double()
    model.set_experts_implementation("eager")  # the only one of transformers' own that knows float64
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.25 * noise)
    return model.eval()


@dataclass
class Routed:
    """A model with experts, its tracked modules, and what runs through it."""

    model: nn.Module
    modules: tuple[TrackedModule, ...]
    documents: list[Sequence] = field(default_factory=lambda: random_documents(5, longest=14))
    queries: list[Sequence] = field(default_factory=lambda: random_queries(2))

    @property
    def names(self) -> list[str]:
        return [module.name for module in self.modules]

    @property
    def experts(self) -> list[TrackedModule]:
        return [module for module in self.modules if module.expert]


def make_routed(name: str, selection="mlp") -> Routed:
    model = tiny(name)
    return Routed(model, select_modules(model, selection))


def parameters_of(model: nn.Module, module: TrackedModule) -> list[tuple[nn.Parameter, object]]:
    """Weight and bias of a tracked module, each with what is to be done to its gradient to make it O×I, or O."""
    *_, number, projection = module.name.split(".")
    if not module.name.endswith(("gate_up_proj", "down_proj")) or not number.isdigit():
        return [(parameter, lambda g: g) for parameter in model.get_submodule(module.name).parameters()]
    layer = model.get_submodule(module.name.rsplit(".", 2)[0])
    weight, bias = getattr(layer, projection), getattr(layer, f"{projection}_bias", None)
    transposed = bias is not None  # of these families GPT-OSS alone, with inputs × outputs
    found = [(weight, lambda g: g[int(number)].T if transposed else g[int(number)])]
    return found if bias is None else [*found, (bias, lambda g: g[int(number)])]


def gradients_by_hand(model: nn.Module, modules, sequence: Sequence) -> dict[str, Tensor]:
    wanted = {module.name: parameters_of(model, module) for module in modules}
    flat = list({id(p): p.requires_grad_(True) for each in wanted.values() for p, _ in each}.values())
    loss = oracle.loss(model, sequence.token_ids, sequence.loss_start)
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    of = {id(p): torch.zeros_like(p) if g is None else g for p, g in zip(flat, found, strict=True)}
    for parameter in flat:
        parameter.requires_grad_(False)
    parts = {name: [shape(of[id(p)]) for p, shape in each] for name, each in wanted.items()}
    return {n: torch.cat([w, *(b[:, None] for b in rest)], 1) for n, (w, *rest) in parts.items()}


@dataclass
class Seen:
    """What a module was given: rows a_nI (with the column of ones) and g_nO over all documents."""

    activations: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(self.activations)

    def mean(self, rows: list[Tensor], like: int) -> Tensor:
        total = torch.zeros(like, like, dtype=torch.float64)
        for row in rows:
            total += torch.outer(row, row)
        return total / max(1, self.tokens)


def rows_by_hand(model: nn.Module, modules, documents) -> dict[str, Seen]:
    """Every token of every document sent to its experts one at a time, by the formulas of the models' papers."""
    seen = {module.name: Seen() for module in modules}
    layers = {module.expert.layer for module in modules if module.expert}
    kept = {layer: model.get_submodule(layer).forward for layer in layers}
    for document in documents:
        pending: list[tuple[str, Tensor, Tensor]] = []
        for layer in layers:
            model.get_submodule(layer).forward = token_by_token(layer, model.get_submodule(layer), pending)
        try:
            loss = oracle.loss(model, document.token_ids)
        finally:
            for layer, forward in kept.items():
                model.get_submodule(layer).forward = forward
        gradients = torch.autograd.grad(loss, [zeros for _, _, zeros in pending])
        for (name, activation_I, _), gradient_O in zip(pending, gradients, strict=True):
            seen[name].activations.append(activation_I)
            seen[name].gradients.append(gradient_O)
    return seen


def token_by_token(layer: str, experts: nn.Module, pending: list):
    biased = hasattr(experts, "down_proj_bias")

    def linear(projection: str, number: int, input_I: Tensor) -> Tensor:
        weight = getattr(experts, projection)[number]
        output_O = (weight.T if biased else weight) @ input_I
        row_I = input_I.detach()
        if biased:
            output_O = output_O + getattr(experts, f"{projection}_bias")[number]
            row_I = torch.cat([row_I, torch.ones(1, dtype=row_I.dtype)])
        zeros_O = torch.zeros_like(output_O, requires_grad=True)
        pending.append((f"{layer}.{number}.{projection}", row_I, zeros_O))
        return output_O + zeros_O

    def gated(value_M: Tensor) -> Tensor:
        if not biased:
            half = len(value_M) // 2
            return torch.nn.functional.silu(value_M[:half]) * value_M[half:]
        gate, up = value_M[::2].clamp(max=7.0), value_M[1::2].clamp(-7.0, 7.0)  # GPT-OSS
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)

    def forward(hidden_NI: Tensor, choice_NK: Tensor, weight_NK: Tensor) -> Tensor:
        rows = []
        for hidden_I, choice_K, weight_K in zip(hidden_NI, choice_NK, weight_NK, strict=True):
            parts = [
                weight * linear("down_proj", int(number), gated(linear("gate_up_proj", int(number), hidden_I)))
                for number, weight in zip(choice_K, weight_K, strict=True)
            ]
            rows.append(sum(parts))
        return torch.stack(rows).to(hidden_NI.dtype)

    return forward


def fitted(routed: Routed, **settings):
    arguments = {"labels": "empirical", "token_budget": 30} | settings
    covariances = fit_covariances(routed.model, routed.modules, routed.documents, **arguments)
    basis = decompose(covariances)
    return covariances, basis, fit_eigenvalues(routed.model, routed.modules, basis, routed.documents, **arguments)
