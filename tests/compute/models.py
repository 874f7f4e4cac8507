"""Tiny random causal language models and sequences: small enough for a for-loop oracle, odd enough to show mistakes.

Widths differ wherever they can (16 against 40), so that a transposed weight cannot pass; biases and norms are random,
because the zeros and ones of a fresh initialization hide a forgotten bias column.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedModel

from compute.batches import Batch, Sequence, pad, plan_batches
from compute.covariances import ModuleCovariances, fit_covariances
from compute.curvature import Curvature
from compute.eigenbasis import decompose
from compute.eigenvalues import fit_eigenvalues
from compute.tracked_modules import TrackedModule, select_modules

VOCABULARY = 61
CONTEXT = 32
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

CONFIGS = {
    "gpt_neox": lambda **settings: GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, **settings,
    ),
    "gpt2": lambda **settings: GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_inner=40, n_layer=2, n_head=2, n_positions=CONTEXT, **settings
    ),
    "llama": lambda **settings: LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, **({"tie_word_embeddings": True} | settings),
    ),
}  # fmt: skip


@dataclass
class Case:
    """A model, its tracked modules, and sequences to run through it."""

    model: PreTrainedModel
    modules: tuple[TrackedModule, ...]
    documents: list[Sequence] = field(default_factory=lambda: random_documents(9))
    queries: list[Sequence] = field(default_factory=lambda: random_queries(4))

    @property
    def exact(self) -> float:
        """The relative error that rounding explains. Llama's norms and rotary positions are float32 in any model."""
        return 1e-6 if self.model.config.model_type == "llama" else 1e-9

    @property
    def names(self) -> list[str]:
        return [module.name for module in self.modules]


@dataclass
class Fitted:
    """Covariances and the curvature made of them."""

    covariances: dict[str, ModuleCovariances]
    curvature: Curvature


def make_case(architecture: str, *, selection="mlp", dtype: torch.dtype = torch.float64, **config) -> Case:
    model = tiny_model(architecture, dtype=dtype, **config)
    return Case(model, select_modules(model, selection))


def fit(case: Case, *, labels: str = "empirical", damping: float = 0.1) -> Fitted:
    covariances = fit_covariances(case.model, case.modules, case.documents, labels=labels, seed=0)
    basis = decompose(covariances)
    eigenvalues = fit_eigenvalues(case.model, case.modules, basis, case.documents, labels=labels, seed=0)
    return Fitted(covariances, Curvature(basis, eigenvalues, damping))


def tiny_model(architecture: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **config) -> PreTrainedModel:
    """A random model with weights large enough that its predictions are far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](**NO_SPECIAL_TOKENS, **config)).to(torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.25 * noise)
    return model.to(dtype).eval()


def batches_of(sequences: list[Sequence], *, token_budget: int = 8192) -> list[Batch]:
    """As passes plan them."""
    return [pad(sequences, index_B, "cpu") for index_B in plan_batches(list(map(len, sequences)), token_budget)]


def random_documents(count: int, *, seed: int = 1, shortest: int = 2, longest: int = 28) -> list[Sequence]:
    """Documents of different lengths, the shortest that is allowed and the longest among them."""
    draw = random.Random(seed)
    lengths = [longest, shortest, *(draw.randint(shortest, longest // 2) for _ in range(count - 2))]
    return [Sequence(f"document-{number}", _tokens(draw, length)) for number, length in enumerate(lengths)]


def random_queries(count: int, *, seed: int = 2) -> list[Sequence]:
    """Prompts of 3 to 6 tokens with completions of 1 to 4."""
    draw = random.Random(seed)
    prompts = [draw.randint(3, 6) for _ in range(count)]
    return [
        Sequence(f"query-{number}", _tokens(draw, prompt + 1 + number % 4), loss_start=prompt)
        for number, prompt in enumerate(prompts)
    ]


def _tokens(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(length)]
