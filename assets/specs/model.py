"""How a study declares its model: a directory, a hub id with its revision, or settings to train one from scratch."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assets.specs.spec import Name, Spec

MEMORY = r"^[0-9]+(\.[0-9]+)?(KiB|MiB|GiB|KB|MB|GB)$"


class TrainSpec(Spec):
    """Training from scratch with transformers' Trainer on the study's own documents; causal language modelling."""

    architecture: Literal["gpt_neox", "llama", "gpt2"] = Field("gpt_neox", description="Family of the architecture.")
    hidden_size: int = Field(128, gt=0, description="Width of the residual stream.")
    layers: int = Field(4, gt=0, description="Number of transformer blocks.")
    heads: int = Field(4, gt=0, description="Attention heads; they divide hidden_size.")
    intermediate_size: int = Field(512, gt=0, description="Width of the MLP layers.")
    context: int = Field(256, gt=1, description="Longest sequence in tokens.")
    epochs: int = Field(3, gt=0, description="Passes over the documents.")
    batch_size: int = Field(
        16, gt=0, description="Rows of `context` tokens, filled with documents, per optimizer step."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decoupled weight decay, on matrices only.")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's memory of squared gradients.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of initial weights and order, of 32 bits.")
    max_minutes: float | None = Field(
        None, gt=0, description="Stop training after this time; the weights then depend on the machine's speed."
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TrainSpec:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be divided among {self.heads} heads")
        return self


class ModelSpec(Spec):
    """A causal language model: exactly one of `path`, `hub` and `train`."""

    name: Name = Field(description="Name in asset keys: model/<name>/checkpoint.")
    path: str | None = Field(None, description="Directory of a Hugging Face checkpoint with safetensors.")
    hub: str | None = Field(None, description="Hugging Face hub id, owner/model.")
    revision: str | None = Field(None, description="Commit or tag of the hub id, so that the weights cannot change.")
    train: TrainSpec | None = Field(None, description="Train from scratch on the study's corpus.")
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="Precision of weights and activations; sums are float32 at least."
    )
    device_map: Literal["auto"] | None = Field(
        None,
        description="auto: a model larger than one device is spread over all of them by accelerate, and what they have "
        "no room for is brought from the CPU's memory or the disk when it is used. Left out: one device.",
    )
    max_memory: dict[str, Annotated[str, Field(pattern=MEMORY)]] | None = Field(
        None,
        description="With device_map: memory for weights by device ('0', '1', …, cpu), such as 70GiB. Left out: what "
        "is free. Leave room for activations and factors.",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSpec:
        given = [name for name in ("path", "hub", "train") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub and train (given: {', '.join(given) or 'none'})")
        if self.hub and not self.revision:
            raise ValueError("a hub id needs a revision (a commit or tag), or the weights could change under the study")
        if self.max_memory and not self.device_map:
            raise ValueError("max_memory belongs to device_map: auto; there is none")
        if unknown := [device for device in self.max_memory or {} if device != "cpu" and not device.isdecimal()]:
            raise ValueError(f"max_memory names the device {unknown[0]}; write the number of a GPU, or cpu")
        if self.revision and not self.hub:
            raise ValueError("revision belongs to a hub id; there is none")
        return self

    def placement(self) -> dict:
        """How the engine places the weights."""
        sizes = (self.max_memory or {}).items()
        limits = {int(device) if device.isdecimal() else device: size for device, size in sizes}
        return {"spread": self.device_map is not None, "max_memory": limits or None}

    def location(self, base: str) -> str:
        """What `from_pretrained` takes: the hub id, or the directory, resolved against the study file's directory."""
        return self.hub or os.path.normpath(os.path.join(base, os.path.expanduser(self.path or "")))
