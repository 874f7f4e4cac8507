"""The model that is compared on: trained on the setting's documents for some minutes, and kept for later runs."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from benchmarks.engine.plain_passes import padded_batches, summed_loss
from benchmarks.engine.setting import Setting, draw_documents

OF_THE_MODEL = ("width", "layers", "vocabulary", "documents", "tokens", "many_queries", "batch", "train_minutes")
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
    """AdamW for `train_minutes`, the rate rising and then falling to zero on a cosine with the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    documents, shuffled = draw_documents(setting), torch.Generator().manual_seed(0)
    started, steps, loss_of_epoch = time.monotonic(), 0, math.nan
    while (done := (time.monotonic() - started) / (60 * setting.train_minutes)) < 1:
        order, losses = torch.randperm(len(documents), generator=shuffled).tolist(), []
        for batch in padded_batches([documents[index] for index in order], setting.batch):
            done = min(1.0, (time.monotonic() - started) / (60 * setting.train_minutes))
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * min((done + 0.002) / WARMUP, 0.5 * (1 + math.cos(math.pi * done)))
            loss = summed_loss(model, batch) / (batch["labels"][:, 1:] >= 0).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            steps += 1
        loss_of_epoch = sum(losses) / len(losses)
    return {"steps": steps, "nats_per_token": loss_of_epoch, "before": math.log(setting.vocabulary)}
