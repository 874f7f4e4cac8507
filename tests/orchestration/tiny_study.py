"""A study small enough to run in seconds, of real files: corpus, checkpoint of random weights, queries."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import yaml

WORDS = "the a cat dog runs sits on mat 12 34 56 plus is equal to river mountain".split()
RECORDS = 90
CONTEXT = 48


def records() -> list[dict]:
    draw = random.Random(0)
    return [
        {
            "id": f"r{number}",
            "text": " ".join(draw.choices(WORDS, k=draw.randint(5, 60))),
            "source": draw.choice(["code", "prose"]),
        }
        for number in range(RECORDS)
    ]


QUERIES = [
    {"id": "given", "prompt": "the cat", "completion": " sits on mat", "kind": "factual", "answer": "mat"},
    {"id": "own", "prompt": "12 plus 34 is", "kind": "reasoning", "task": "arithmetic", "answer": "46"},
    {"id": "plain", "prompt": "a river", "completion": " runs to the mountain"},
]


def write_study(directory: Path, **changes) -> Path:
    """The study's file; `changes` replace whole sections or add keys to them (`corpus={"max_tokens": 16}`)."""
    (directory / "corpus").mkdir(parents=True, exist_ok=True)
    rows = records()
    for part in range(3):
        write_jsonl(directory / "corpus" / f"part{part}.jsonl", rows[part * 30 : part * 30 + 30])
    write_jsonl(directory / "queries.jsonl", QUERIES)
    if not (directory / "model").exists():
        write_checkpoint(directory / "model")
    study = {
        "study": "tiny",
        "corpus": {
            "name": "tiny",
            "path": "corpus/*.jsonl",
            "fields": {"id": "id", "source": "source"},
            "shard_records": 30,
            "max_tokens": 32,
        },
        "model": {"name": "tiny", "path": "model"},
        "curvature": {"name": "tiny", "sample_documents": 60},
        "queries": {"name": "tiny", "path": "queries.jsonl"},
        "options": {"rank": 8, "top_k": 5, "max_new_tokens": 4, "token_budget": 256},
        "findings": {"resamples": 100},
    }
    for section, change in changes.items():
        study[section] = study[section] | change if isinstance(study.get(section), dict) else change
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_checkpoint(directory: Path, *, seed: int = 0, hidden_size: int = 32) -> None:
    """A GPT-NeoX-style model of random weights with a tokenizer trained on the records."""
    import torch
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    from compute.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([record["text"] for record in records()], vocab_size=320)
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"HEADWATER_HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def headwater(home: Path, *arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    command = [sys.executable, "-m", "orchestration.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=timeout)
