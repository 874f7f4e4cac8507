"""The machine that work runs on: its name, which is recorded with it (elsewhere it takes another time), and what it
cannot do."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")


def machine_name(device: str) -> str:
    """The model of the GPU, or cores and model of the CPU."""
    return f"{os.cpu_count()} × {_processor()}" if device == "cpu" else torch.cuda.get_device_name(device)


def machine_used() -> str:
    """What this process works on: a GPU that it has not touched so far is not woken to be asked for its name."""
    return machine_name("cuda" if torch.cuda.is_initialized() else "cpu")


def gpu_memory() -> int:
    """Bytes of the GPU that a model is put on."""
    return torch.cuda.get_device_properties("cuda").total_memory


def lacks_instructions(device: str, dtype: str) -> bool:
    """Whether products of this dtype are only emulated there: bfloat16 on a GPU older than Ampere. A CPU multiplies in
    every dtype that a model may have (tried with torch 2.13)."""
    return device == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def _processor() -> str:
    try:
        facts = dict(line.split(":", 1) for line in CPU_FACTS.read_text().splitlines() if ":" in line)
    except OSError:  # not on Linux
        facts = {}
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return named.get("model name") or platform.processor() or platform.machine()
