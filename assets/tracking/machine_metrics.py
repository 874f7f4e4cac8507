"""The machine under a step: processor, memory, disk, network and GPUs, sampled beside the work.

Names are those that MLflow shows in a run's "System metrics" tab. MLflow's own monitor is not used: it asks the server
for the run's state at every sample, waits for it at the end of a step, and warns on its own where it is down.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from assets.tracking.progress import seconds_to_next

PREFIX = "system/"
SECONDS_BEFORE_FIRST = 2.0
"""A shorter step costs nothing: no import, no sample."""
SECONDS_OF_FIRST = 1.0
"""The processor's load is a mean since the look before, so that the first sample needs two looks."""
SECONDS_TO_END = 1.0

Report = Callable[[dict[str, float], int], None]


class MachineMetrics:
    """Reports a sample about every ten seconds from a thread that neither outlives the step nor keeps the process."""

    def __init__(self, report: Report) -> None:
        self._report, self._ended = report, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="machine-metrics", daemon=True)

    def __enter__(self) -> MachineMetrics:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(SECONDS_TO_END)  # a server that hangs is not waited for

    def _watch(self) -> None:
        started = time.monotonic()
        if self._ended.wait(SECONDS_BEFORE_FIRST):
            return
        machine = Machine()
        number, pause = 0, SECONDS_OF_FIRST
        while not self._ended.wait(pause):
            self._report({f"{PREFIX}{name}": value for name, value in machine.sample().items()}, number)
            number, pause = number + 1, seconds_to_next(time.monotonic() - started)


class Machine:
    """What can be read of this machine, in MLflow's names and units."""

    def __init__(self) -> None:
        import psutil

        self._psutil, self._process = psutil, psutil.Process()
        psutil.cpu_percent()
        self._received, self._sent = self._network()
        self._gpus = _gpus()

    def sample(self) -> dict[str, float]:
        memory, disk = self._psutil.virtual_memory(), self._psutil.disk_usage(os.sep)
        received, sent = self._network()
        return {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": received - self._received,
            "network_transmit_megabytes": sent - self._sent,
            **{name: value for number, gpu in enumerate(self._gpus) for name, value in _gpu_sample(number, gpu)},
        }

    def _network(self) -> tuple[float, float]:
        counters = self._psutil.net_io_counters()  # None on a machine without a network
        return (counters.bytes_recv / 1e6, counters.bytes_sent / 1e6) if counters else (0.0, 0.0)


def _gpus() -> list:
    """Handles of the NVIDIA GPUs; none where there are none, or no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except Exception:
        return []


def _gpu_sample(number: int, gpu) -> list[tuple[str, float]]:
    import pynvml

    def memory() -> list[tuple[str, float]]:
        info = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        return [("memory_usage_megabytes", info.used / 1e6), ("memory_usage_percentage", 100 * info.used / info.total)]

    def load() -> list[tuple[str, float]]:
        return [("utilization_percentage", pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)]

    def power() -> list[tuple[str, float]]:
        return [("power_usage_watts", pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000)]

    found: list[tuple[str, float]] = []
    for read in (memory, load, power):
        try:
            found += read()
        except pynvml.NVMLError:  # not every device tells everything (slices of a GPU, virtual ones)
            continue
    return [(f"gpu_{number}_{name}", value) for name, value in found]
