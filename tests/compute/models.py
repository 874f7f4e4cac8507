"""Tiny random causal language models and token sequences: small enough for a for-loop oracle, odd enough to catch mistakes.

Widths differ wherever they can (16 against 40), so that a transposed weight cannot pass; biases and norms are random, because
the zeros and ones of a fresh initialization hide a forgotten bias column.
"""

from __future__ import annotations

import random

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedModel

from compute.batches import Sequence

VOCABULARY = 61
CONTEXT = 32

CONFIGS = {
    "gpt_neox": lambda **kw: GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, **kw,
    ),
    "gpt2": lambda **kw: GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_inner=40, n_layer=2, n_head=2, n_positions=CONTEXT, **kw
    ),
    "llama": lambda **kw: LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **kw,
    ),
}  # fmt: skip
ARCHITECTURES = tuple(CONFIGS)


def tiny_model(architecture: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **config) -> PreTrainedModel:
    """A random model with weights large enough that its predictions are far from uniform; never in training mode."""
    torch.manual_seed(seed)
    settings = CONFIGS[architecture](bos_token_id=None, eos_token_id=None, pad_token_id=None, **config)
    model = AutoModelForCausalLM.from_config(settings).to(torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.25)
    return model.to(dtype).eval()


def random_documents(count: int, *, seed: int = 1, shortest: int = 2, longest: int = 14) -> list[Sequence]:
    """Documents of different lengths, the shortest allowed one and the longest among them."""
    draw = random.Random(seed)
    lengths = [longest, shortest] + [draw.randint(shortest, longest) for _ in range(count - 2)]
    return [Sequence(f"document-{number}", _tokens(draw, length)) for number, length in enumerate(lengths[:count])]


def random_queries(count: int, *, seed: int = 2) -> list[Sequence]:
    """Prompts of 3 to 6 tokens with completions of 1 to 4."""
    draw = random.Random(seed)
    return [_random_query(draw, number) for number in range(count)]


def _random_query(draw: random.Random, number: int) -> Sequence:
    prompt, completion = draw.randint(3, 6), 1 + number % 4
    return Sequence(f"query-{number}", _tokens(draw, prompt + completion), loss_start=prompt)


def _tokens(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(length)]
