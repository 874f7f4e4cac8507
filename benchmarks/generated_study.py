"""A study of generated text, as large as a measurement of the platform wants it; its model is trained for one epoch."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import yaml

from assets.specs.study import Study
from orchestration.home import Home
from orchestration.studies import open_study

WORDS = "the a cat dog runs sits on mat 12 34 56 plus is equal to river mountain".split()


@dataclass(frozen=True)
class GeneratedStudy:
    """`records` a shard, each of `words` words; one shard is one file."""

    name: str
    records: int
    words: int
    max_tokens: int
    hidden_size: int
    layers: int
    rank: int

    def write_shard(self, root: Path, number: int) -> int:
        """Writes the file of shard `number`; the number of the next one."""
        draw = random.Random(number)
        rows = [
            {"id": f"r{number}-{each}", "text": " ".join(draw.choices(WORDS, k=self.words)), "source": "prose"}
            for each in range(self.records)
        ]
        (root / "corpus").mkdir(exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "corpus" / f"part{number:05d}.jsonl").write_text(text)
        return number + 1

    def write(self, root: Path) -> Path:
        """Writes the study file and its queries."""
        queries = [
            {"id": f"q{each}", "prompt": "the cat", "completion": f" sits on {word}"} for each, word in enumerate(WORDS)
        ]
        (root / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
        path = root / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self._study(), sort_keys=False))
        return path

    def _study(self) -> dict:
        training = {
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "heads": 2,
            "intermediate_size": 2 * self.hidden_size,
            "context": self.max_tokens + 16,
            "epochs": 1,
        }
        return {
            "study": self.name,
            "corpus": {
                "name": self.name,
                "path": "corpus/*.jsonl",
                "fields": {"id": "id", "source": "source"},
                "shard_records": self.records,
                "max_tokens": self.max_tokens,
                "end_of_text": True,
                "tokenizer": {"train": {"vocab_size": 300}},
            },
            "model": {"name": self.name, "train": training},
            "curvature": {"name": self.name, "sample_documents": 64},
            "queries": {"name": self.name, "path": "queries.jsonl"},
            "options": {"rank": self.rank, "top_k": 5},
        }


@dataclass(frozen=True)
class OpenedStudy:
    """A generated study in a home of its own: its files are in `root`."""

    root: Path
    home: Home
    study: Study
    instance: dg.DagsterInstance


@contextmanager
def opened(generated: GeneratedStudy, root: Path) -> Iterator[OpenedStudy]:
    """Writes the study into `root`, without a shard, and opens it."""
    root.mkdir(parents=True, exist_ok=True)
    os.environ["HEADWATER_HOME"] = str(root / "home")
    home = Home.from_environment().prepare()
    study = open_study(generated.write(root), home)
    with home.instance() as instance:
        yield OpenedStudy(root, home, study, instance)


@contextmanager
def opened_for_now(generated: GeneratedStudy) -> Iterator[OpenedStudy]:
    """The same in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory, opened(generated, Path(directory)) as found:
        yield found
