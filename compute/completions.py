"""Completions: the model's own greedy answer to a prompt, and the information of a completion in nats.

Ruis et al. 2024, section 4.1: influence explains completions that the model generates greedily; a query's information
is −log p(completion | prompt).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from functools import partial

import torch
from torch import nn
from transformers import GenerationConfig

from compute.batches import Sequence
from compute.devices import input_device
from compute.errors import BadInput
from compute.passes import Parts, forward_passes, too_large

PROMPTS_AT_ONCE = 32


def greedy_completions(
    model: nn.Module,
    prompts: SequenceOf[Sequence],
    *,
    max_new_tokens: int,
    end_token: int | None,
    context: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, list[int]]:
    """Greedy completion per prompt key, without the end token. Raises BadInput where a completion is empty, and where
    a prompt does not fit in memory by itself.

    A completion ends where the model's `context` ends at the latest. Prompts of equal length go through together, so
    that none is padded and the result is that of the prompt alone; where memory runs out, half as many of them do.
    """
    by_length: dict[int, list[Sequence]] = defaultdict(list)
    for prompt in prompts:
        by_length[len(prompt)].append(prompt)
    completions: dict[str, list[int]] = {}
    parts = Parts(PROMPTS_AT_ONCE, "prompts")
    for length, group in by_length.items():
        limit = min(max_new_tokens, context - length) if context else max_new_tokens
        for generated in _by_parts(parts, partial(_generate, model, group, limit, end_token), model, group):
            for key, token_ids in generated.items():
                if not token_ids:
                    raise BadInput(
                        f"query {key}: the model ends at once, so there is no completion to explain; "
                        "give one in the query file or change the prompt"
                    )
            completions |= generated
            if on_batch:
                on_batch(len(generated))
    return completions


def _by_parts(
    parts: Parts, work: Callable[[slice], dict[str, list[int]]], model: nn.Module, group: list[Sequence]
) -> Iterator[dict[str, list[int]]]:
    done = 0
    try:
        for generated in parts.of(work, len(group), input_device(model)):
            yield generated
            done += len(generated)
    except torch.OutOfMemoryError as error:
        raise too_large(group[done], "query ") from error


def completion_nats(model: nn.Module, queries: SequenceOf[Sequence], *, token_budget: int) -> dict[str, float]:
    """−log p(completion | prompt) per query key. Raises BadInput naming a query whose loss is not finite."""
    nats: dict[str, float] = {}
    for batch, loss_B in forward_passes(model, queries, token_budget=token_budget):
        nats.update(zip(batch.keys_B, loss_B.tolist(), strict=True))
    return nats


def _generate(
    model, group: list[Sequence], max_new_tokens: int, end_token: int | None, part: slice
) -> dict[str, list[int]]:
    """What follows each prompt in this part of a group of one length, by key."""
    prompts = group[part]
    token_ids = torch.tensor([list(prompt.token_ids) for prompt in prompts], device=input_device(model))
    # A generation config of our own: a checkpoint's may sample or penalize repetition.
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=end_token, pad_token_id=end_token or 0
    )
    with torch.no_grad():
        generated = model.generate(
            input_ids=token_ids, attention_mask=torch.ones_like(token_ids), generation_config=settings
        )
    rows = generated[:, token_ids.shape[1] :].tolist()
    return {prompt.key: _until(row, end_token) for prompt, row in zip(prompts, rows, strict=True)}


def _until(token_ids: list[int], end_token: int | None) -> list[int]:
    return token_ids[: token_ids.index(end_token)] if end_token in token_ids else token_ids
