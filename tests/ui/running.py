"""`headwater ui` as a person starts it: a process of its own, on free ports, on a home of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.orchestration.tiny_study import environment

SECONDS_TO_START = 120
SECONDS_TO_STOP = 90


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class RunningUI:
    """The command, and what it says; a context manager that leaves nothing running."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        port, mlflow_port = free_ports(2)
        self.dagster, self.mlflow = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{mlflow_port}"
        command = [sys.executable, "-m", "orchestration.cli", "ui"]
        command += ["--port", str(port), "--mlflow-port", str(mlflow_port)]
        self._said = ""
        self.process = self._start(command, environment(home) | variables)

    def __enter__(self) -> RunningUI:
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in self.processes():
            process.kill()

    def _start(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen:
        process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE)
        self._output = process.stderr.fileno()
        os.set_blocking(self._output, False)
        return process

    @property
    def said(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._output, 4096):
                self._said += part.decode()
        return self._said

    def until_it_says(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while text not in self.said:
            assert self.process.poll() is None, f"it ended and said: {self.said}"
            assert time.monotonic() < deadline, f"it does not say {text!r}, but: {self.said}"
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(SECONDS_TO_STOP)

    def processes(self) -> list[psutil.Process]:
        """All that work on this home: found by what they were told, not by the mark that the command itself uses."""
        found = []
        for process in psutil.process_iter():
            try:
                own = process.environ().get("HEADWATER_HOME") == str(self.home)
                if own and process.pid != self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def process_of(self, word: str) -> psutil.Process:
        [found] = [process for process in self.processes() if word in process.cmdline()]
        return found

    def command_lines(self) -> list[str]:
        lines = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # ended meanwhile
                lines.append(" ".join(process.cmdline()))
        return lines


class InTerminal(RunningUI):
    """The same, in a terminal of its own that can be closed."""

    def _start(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen:
        self._output, inside = os.openpty()
        os.set_blocking(self._output, False)

        def begin() -> None:
            for number in (signal.SIGHUP, signal.SIGINT):  # which whoever runs the tests may ignore (nohup)
                signal.signal(number, signal.SIG_DFL)
            os.login_tty(inside)

        process = subprocess.Popen(command, env=variables, preexec_fn=begin)
        os.close(inside)
        return process

    def press_ctrl_c(self) -> None:
        os.write(self._output, b"\x03")

    def close(self) -> None:
        os.close(self._output)
