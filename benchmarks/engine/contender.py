"""What all contenders are: a tool with the setting's model, documents and queries, in a process of its own.

A stage is a method of a contender. What it does inside `timed` is timed, under that name; the rest is preparation that
a user of the tool would have done before, such as reading its query gradients. A stage returns nothing, or scores of
shape queries × documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.engine.setting import Setting, draw_documents, draw_queries


class Contender:
    """`directory` holds the trained model, and is where the contender keeps what its later stages need."""

    def __init__(self, setting: Setting, directory: Path) -> None:
        torch.set_num_threads(setting.threads)
        self.setting, self.directory = setting, directory
        self.documents, self.queries = draw_documents(setting), draw_queries(setting)
        self.seconds: dict[str, dict[str, float]] = {}
        self._models: dict[str, PreTrainedModel] = {}

    def model(self, precision: str = "float32") -> PreTrainedModel:
        """The trained model with frozen weights of that precision, in evaluation mode."""
        if precision not in self._models:
            loaded = AutoModelForCausalLM.from_pretrained(self.directory, dtype=getattr(torch, precision))
            self._models[precision] = loaded.eval().requires_grad_(False)
        return self._models[precision]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time inside to `seconds`, by the wall's clock and by the processor's (of all threads)."""
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds = self.seconds.setdefault(name, {"wall": 0.0, "processor": 0.0})
            seconds["wall"] += time.perf_counter() - wall
            seconds["processor"] += time.process_time() - processor
