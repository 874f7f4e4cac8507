"""A small invented language to learn, and models trained on it for seconds: random weights have little curvature.

A sentence is a topic word followed by words of that topic, drawn with falling frequency, each of which calls for its
partner word some positions later; sums of two small numbers with their results stand between them.
"""

from __future__ import annotations

import random

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, PreTrainedModel

from compute.batches import Sequence
from tests.compute.models import NO_SPECIAL_TOKENS

NUMBERS, TOPICS, WORDS = 20, 6, 12  # tokens: numbers 0–19, plus, equals, topics, and each topic's words
PLUS, EQUALS, FIRST_TOPIC = NUMBERS, NUMBERS + 1, NUMBERS + 2
FIRST_WORD = FIRST_TOPIC + TOPICS
VOCABULARY = FIRST_WORD + TOPICS * WORDS


def documents(count: int, *, seed: int = 0, shortest: int = 40, longest: int = 64) -> list[Sequence]:
    draw = random.Random(seed)
    return [
        Sequence(f"document-{seed}-{number}", _text(draw, draw.randint(shortest, longest))) for number in range(count)
    ]


def queries(count: int, *, seed: int = 1) -> list[Sequence]:
    """Half are sums whose result is the completion, half are beginnings of sentences with what follows."""
    draw = random.Random(seed)
    return [_sum_query(draw, number) if number % 2 else _text_query(draw, number) for number in range(count)]


def trained_model(
    architecture: str, *, width: int = 64, inner: int = 256, layers: int = 2, steps: int = 150, seed: int = 0
) -> PreTrainedModel:
    """A float32 model after `steps` steps of AdamW on documents of the language."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, width, inner, layers)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    corpus = torch.tensor([document.token_ids for document in documents(800, seed=99, shortest=64, longest=64)])
    for _ in range(steps):
        batch_BT = corpus[torch.randint(len(corpus), (16,))]
        logits_BTV = model(input_ids=batch_BT).logits
        loss = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), batch_BT[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def _config(architecture: str, width: int, inner: int, layers: int):
    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=VOCABULARY, n_embd=width, n_inner=inner, n_layer=layers, n_head=4, n_positions=64,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **NO_SPECIAL_TOKENS,
        )  # fmt: skip
    return GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=64, **NO_SPECIAL_TOKENS,
    )  # fmt: skip


def _text(draw: random.Random, length: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < length:
        tokens += _sum(draw) if draw.random() < 0.3 else _sentence(draw)
    return tokens[:length]


def _sum(draw: random.Random) -> list[int]:
    left, right = draw.randrange(NUMBERS // 2), draw.randrange(NUMBERS // 2)
    return [left, PLUS, right, EQUALS, left + right]


def _sentence(draw: random.Random) -> list[int]:
    topic = draw.randrange(TOPICS)
    words = [min(int(draw.expovariate(0.5)), WORDS // 2 - 1) for _ in range(draw.randint(2, 5))]
    partners = [WORDS // 2 + (word + topic) % (WORDS // 2) for word in words]
    return [FIRST_TOPIC + topic, *(FIRST_WORD + topic * WORDS + word for word in [*words, *partners])]


def _sum_query(draw: random.Random, number: int) -> Sequence:
    tokens = _text(draw, draw.randint(5, 20)) + _sum(draw)
    return Sequence(f"sum-{number}", tokens, loss_start=len(tokens) - 1)


def _text_query(draw: random.Random, number: int) -> Sequence:
    tokens = _text(draw, draw.randint(16, 40))
    return Sequence(f"text-{number}", tokens, loss_start=len(tokens) - 8)
