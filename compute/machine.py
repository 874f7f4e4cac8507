"""The name of the machine that work runs on, which is recorded with it: elsewhere it takes another time."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")


def machine_name() -> str:
    """The model of the GPU where there is one, otherwise cores and model of the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} × {_processor()}"


def _processor() -> str:
    try:
        facts = dict(line.split(":", 1) for line in CPU_FACTS.read_text().splitlines() if ":" in line)
    except OSError:  # not on Linux
        facts = {}
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return named.get("model name") or platform.processor() or platform.machine()
