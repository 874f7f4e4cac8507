"""The machine's load beside a step: short steps have none, and no sampler outlives its step or keeps a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from assets.tracking import machine_metrics as module
from assets.tracking.machine_metrics import Machine, MachineMetrics
from assets.tracking.tracking import Tracking

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BEFORE_FIRST", 0.02)
    monkeypatch.setattr(module, "SECONDS_OF_FIRST", 0.02)
    monkeypatch.setattr(module, "seconds_to_next", lambda elapsed: 0.02)


def samplers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "machine-metrics"]


def wait_for(condition, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_short_step_is_not_sampled():
    samples = []
    started = time.monotonic()
    with MachineMetrics(lambda metrics, number: samples.append(metrics)):
        pass
    assert samples == [] and time.monotonic() - started < 0.5 and not samplers()


def test_samples_bear_the_names_that_mlflow_shows(fast, tmp_path):
    tracking = Tracking(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=tmp_path.as_uri())
    client = MlflowClient(tracking.tracking_uri)
    with tracking.step_run(tracking.parent_run("run", "demo"), "step", {}) as run:
        wait_for(lambda: "system/cpu_utilization_percentage" in client.get_run(run.run_id).data.metrics)
    kept = client.get_run(run.run_id)
    ours = {"system/process_memory_usage_megabytes"}
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    assert {name for name in kept.data.metrics if "gpu" not in name} == theirs | ours
    assert kept.data.metrics["system/process_memory_usage_megabytes"] > 50
    assert kept.info.status == "FINISHED" and not samplers()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_sampling_ends_with_a_step_that_fails(fast, error):
    samples = []
    with pytest.raises(error), MachineMetrics(lambda metrics, number: samples.append(number)):
        wait_for(lambda: len(samples) > 2)
        raise error
    assert not samplers() and samples == list(range(len(samples)))
    count = len(samples)
    time.sleep(0.1)
    assert len(samples) == count


def test_a_report_that_hangs_delays_the_end_by_a_second_at_most(fast):
    hangs, release = threading.Event(), threading.Event()

    def report(metrics, number):
        hangs.set()
        release.wait(30)

    started = 0.0
    with MachineMetrics(report):
        assert hangs.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < module.SECONDS_TO_END + 0.5
    release.set()


def test_a_sampler_keeps_no_process_alive():
    script = """
        import time
        from assets.tracking import machine_metrics as module
        module.SECONDS_BEFORE_FIRST = module.SECONDS_OF_FIRST = 0.01
        began = []
        sampler = module.MachineMetrics(lambda *_: (began.append(1), time.sleep(60)))
        sampler.__enter__()
        while not began:
            time.sleep(0.01)
        print("end")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout == "end\n" and not done.stderr


def test_gpus_are_sampled_where_there_are_some_and_left_out_where_they_refuse(monkeypatch):
    class Refusal(Exception):
        pass

    def power(handle):
        if handle == "slice":
            raise Refusal
        return 250_000

    library = SimpleNamespace(
        NVMLError=Refusal,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: ("whole", "slice")[number],
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=75),
        nvmlDeviceGetPowerUsage=power,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    sample = Machine().sample()
    assert sample["gpu_0_memory_usage_megabytes"] == 20_000 and sample["gpu_1_memory_usage_percentage"] == 25
    assert sample["gpu_0_utilization_percentage"] == 75 and sample["gpu_0_power_usage_watts"] == 250
    assert "gpu_1_power_usage_watts" not in sample
    monkeypatch.setattr(library, "nvmlInit", lambda: 1 / 0)
    assert not [name for name in Machine().sample() if "gpu" in name]
