"""The name of the machine that work runs on, which is recorded with it: elsewhere it takes another time."""

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


@cache
def _processor() -> str:
    try:
        facts = dict(line.split(":", 1) for line in CPU_FACTS.read_text().splitlines() if ":" in line)
    except OSError:  # not on Linux
        facts = {}
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return named.get("model name") or platform.processor() or platform.machine()
