"""The model that is compared on: trained on the setting's documents for some minutes, kept for later runs."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from benchmarks.engine.plain_passes import padded_batches, summed_loss
from benchmarks.engine.setting import Setting, draw_documents
from compute.batches import Sequence

OF_THE_MODEL = (
    "width",
    "layers",
    "vocabulary",
    "documents",
    "tokens",
    "many_queries",
    "batch",
    "threads",
    "train_minutes",
)
PEAK_RATE, WARMUP = 2e-3, 0.1


def trained_model(setting: Setting, cache: Path) -> Path:
    """The directory of the trained model: `training.json` in it says how far its training went."""
    key = json.dumps([setting.as_dict()[name] for name in OF_THE_MODEL])
    directory = cache / f"model-{setting.width}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not (directory / "training.json").exists():
        torch.set_num_threads(setting.threads)
        model = _new_model(setting)
        training = _train(model, setting)
        model.save_pretrained(directory)
        (directory / "training.json").write_text(json.dumps(training))
    return directory


def training_of(directory: Path) -> dict[str, float]:
    """Its steps, the nats per token that its last epoch came to, and those of an untrained model."""
    return json.loads((directory / "training.json").read_text())


def _new_model(setting: Setting) -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.width,
        intermediate_size=4 * setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=max(1, setting.width // 64),
        max_position_embeddings=setting.tokens,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPTNeoXForCausalLM(config)


def _train(model: PreTrainedModel, setting: Setting) -> dict[str, float]:
    """AdamW in bfloat16, the rate rising and then falling to zero on a cosine with the time that is used.

    Minutes are the processor's own, so that a busy machine trains as far as a quiet one.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    started, losses = time.process_time(), []
    for batch in _endless(draw_documents(setting), setting.batch):
        done = (time.process_time() - started) / (60 * setting.train_minutes * setting.threads)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min((done + 0.002) / WARMUP, 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = summed_loss(model, batch) / (batch["labels"][:, 1:] >= 0).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    last = losses[-math.ceil(setting.documents / setting.batch) :]
    return {"steps": len(losses), "nats_per_token": sum(last) / len(last), "before": math.log(setting.vocabulary)}


def _endless(documents: list[Sequence], size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of one shuffled pass after another."""
    shuffled = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(documents), generator=shuffled).tolist()
        yield from padded_batches([documents[index] for index in order], size)
