"""The contenders' processes, as seen from the one that compares them: one per contender, one at work at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.engine.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
BERGSON_PYTHON = ROOT / ".venv-bergson" / "bin" / "python"


class StageFailed(Exception):
    """A contender could not do a stage; the message ends with its own traceback."""


class Process:
    """One contender. `do` runs a stage in it; `close` ends it."""

    def __init__(self, name: str, setting: Setting, directory: Path) -> None:
        self.name, self.directory = name, directory
        command = [_python(name), "-m", "benchmarks.engine.worker", name, json.dumps(setting.as_dict()), str(directory)]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(setting.threads),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.log = open(directory / f"{name}.log", "w")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.versions: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        self.versions = self._answer()["versions"]

    def do(self, stage: str, **arguments) -> dict:
        """The stage's `seconds` by part, `peak_mib` and `added_mib`."""
        return self._ask(stage, arguments, None)

    def scores(self, **arguments) -> tuple[dict, np.ndarray]:
        """The same for the stage `scores`, and its scores of shape queries × documents."""
        path = self.directory / f"{self.name}-scores.npy"
        return self._ask("scores", arguments, str(path)), np.load(path)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def _ask(self, stage: str, arguments: dict, keep: str | None) -> dict:
        self.process.stdin.write(json.dumps({"stage": stage, "arguments": arguments, "keep": keep}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise StageFailed(f"{self.name} ended; its last words are in {self.log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise StageFailed(f"{self.name}: {answer['error']}")
        return answer


def _python(name: str) -> str:
    return str(BERGSON_PYTHON) if name == "bergson" else sys.executable


def installed(name: str) -> bool:
    """Whether a contender can run here: bergson has an environment of its own, which `make bench` makes."""
    return name != "bergson" or BERGSON_PYTHON.exists()


def start(names: list[str], setting: Setting, directory: Path) -> dict[str, Process]:
    """All at once, since most of their start is waiting for imports."""
    processes = {name: Process(name, setting, directory) for name in names}
    for process in processes.values():
        process.wait_until_ready()
    return processes
