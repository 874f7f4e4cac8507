"""Named hardware and how fast it is, or this machine, measured in about a second.

Rates are those of large dense products. A pass of a model reaches a part of them, the efficiency, which is assumed for
named hardware and stated with every estimate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import torch

from compute.checkpoint import DTYPES, best_device
from compute.cost import DECOMPOSITION, HOST_DECOMPOSITION, Cost
from compute.errors import BadInput
from compute.machine import machine_name
from compute.operations import EIGH
from compute.token_loss import LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_A_GPU

TERA, GIB = 1e12, 2**30
HERE = "here"
EFFICIENCY = 0.4  # of the peak, in products of a model's size; the target of this engine on large models
EFFICIENCY_HERE = 0.5  # of the measured rate of a square product; attention, norms and narrow modules take the rest
DECOMPOSING = 0.05  # of the float64 peak
HOST_DECOMPOSING = 1e11  # operations per second of a decomposition on a server's CPU, 32 cores or so: assumed
LAKE_BYTES_PER_SECOND = 2.5e8  # matrices, written or read: docs/platform.md, 1 GB in 2.8 to 5.6 seconds
CODE_BYTES_PER_SECOND = 7.5e8  # compared with a query on one thread of a CPU: docs/log.md, *What the index costs*
SIDE, DECOMPOSED_SIDE = 1024, 384  # of the products and decompositions that are measured
REPETITIONS = 3


@dataclass(frozen=True)
class Hardware:
    """`rates` in operations per second by precision, efficiency not included; `memory` and `bandwidth` in bytes.

    `machine` is that which was measured (`compute/machine.py`).
    """

    name: str
    rates: Mapping[str, float]
    efficiency: float
    memory: float
    bandwidth: float
    measured: bool = False
    on_cpu: bool = False
    machine: str = ""

    def is_of(self, machine: str) -> bool:
        """Whether work that was recorded on `machine` ran on this hardware; a slice of a GPU is not the GPU."""
        if self.measured:
            return machine == self.machine
        return bool(re.search(rf"\b{self.name}\b", machine, re.IGNORECASE)) and " MIG " not in machine

    @property
    def logits_at_once(self) -> int:
        return LOGITS_AT_ONCE if self.on_cpu else LOGITS_AT_ONCE_ON_A_GPU

    def seconds(self, cost: Cost) -> dict[str, float]:
        """What a stage takes, by what takes it; zeros left out."""
        found = {}
        for kind, operations in cost.operations.items():
            decomposing = kind in (DECOMPOSITION, HOST_DECOMPOSITION)
            rate = self.rates[kind] * (1 if decomposing else self.efficiency)
            found[kind if decomposing else f"{kind} products"] = operations / rate
        found["reading weights"] = cost.weights_read / self.bandwidth
        found["comparing codes"] = cost.codes_compared / CODE_BYTES_PER_SECOND
        found["the lake"] = (cost.lake_bytes + cost.lake_read) / LAKE_BYTES_PER_SECOND
        return {what: seconds for what, seconds in found.items() if seconds}


def _gpu(name: str, *, half: float, single: float, double: float, gib: float, tbs: float) -> Hardware:
    """Peak dense rates in TFLOP/s, from the vendor's data sheets (no sparsity; float32 without TF32)."""
    rates = {
        "bfloat16": half * TERA,
        "float16": half * TERA,
        "float32": single * TERA,
        "float64": double * TERA,
        DECOMPOSITION: DECOMPOSING * double * TERA,
        HOST_DECOMPOSITION: HOST_DECOMPOSING,
    }
    return Hardware(name, rates, EFFICIENCY, gib * GIB, tbs * TERA)


NAMED = {
    each.name: each
    for each in (
        _gpu("a100", half=312, single=19.5, double=19.5, gib=80, tbs=2.0),
        _gpu("h100", half=989, single=67, double=67, gib=80, tbs=3.35),
        _gpu("h200", half=989, single=67, double=67, gib=141, tbs=4.8),
        _gpu("l40s", half=362, single=91.6, double=1.4, gib=48, tbs=0.86),
    )
}


def check_hardware(name: str | None) -> None:
    """Raises BadInput for a name that is not known; None and "here" are this machine."""
    if name is not None and name.lower() not in (HERE, *NAMED):
        raise BadInput(f"--hardware: {name} is not known; name {', '.join(NAMED)}, or {HERE} to measure this machine")


def hardware_named(name: str | None, dtypes: tuple[str, ...]) -> Hardware:
    """The hardware of this name; this machine, measured for these dtypes, where there is none or it is "here".

    Raises BadInput for a name that is not known.
    """
    check_hardware(name)
    if name is None or name.lower() == HERE:
        return measure(best_device(), dtypes)
    return NAMED[name.lower()]


def hardware_of(machine: str, known: Hardware, dtypes: tuple[str, ...]) -> Hardware | None:
    """The hardware that work was recorded on: the one that is `known`, a named one, or this machine, which is then
    measured for these dtypes. None for others."""
    for each in (known, *NAMED.values()):
        if each.is_of(machine):
            return each
    for device in dict.fromkeys((best_device(), "cpu")):
        if machine == machine_name(device):
            return measure(device, dtypes)
    return None


def measure(device: str, dtypes: tuple[str, ...]) -> Hardware:
    """This machine: a product per dtype, a decomposition on the device and on the CPU, and a copy."""
    rates = {dtype: _product_rate(device, DTYPES[dtype]) for dtype in {*dtypes, "float32", "float64"}}
    rates[HOST_DECOMPOSITION] = _decomposition_rate("cpu")
    rates[DECOMPOSITION] = rates[HOST_DECOMPOSITION] if device == "cpu" else _decomposition_rate(device)
    if device == "cpu":
        kind, memory = "CPU", psutil.virtual_memory().total
    else:
        kind, memory = "GPU", torch.cuda.get_device_properties(device).total_memory
    machine = machine_name(device)
    return Hardware(
        f"this {kind} ({machine})",
        rates,
        EFFICIENCY_HERE,
        memory,
        _bandwidth(device),
        measured=True,
        on_cpu=device == "cpu",
        machine=machine,
    )


def _product_rate(device: str, dtype: torch.dtype) -> float:
    side = SIDE if device == "cpu" else 8 * SIDE
    matrix_NN = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / _seconds(lambda: matrix_NN @ matrix_NN, device)


def _decomposition_rate(device: str) -> float:
    side = DECOMPOSED_SIDE if device == "cpu" else 8 * DECOMPOSED_SIDE
    matrix_NN = torch.randn(side, side, dtype=torch.float64, device=device, generator=torch.Generator(device))
    matrix_NN += matrix_NN.T.clone()
    return EIGH * side**3 / _seconds(lambda: torch.linalg.eigh(matrix_NN), device)


def _bandwidth(device: str) -> float:
    values = torch.ones(2**24, device=device)
    return 2 * values.nbytes / _seconds(values.clone, device)


def _seconds(work: Callable[[], object], device: str) -> float:
    """The least of some repetitions, the first of which warms up."""
    taken = []
    for _ in range(1 + REPETITIONS):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
