"""A server of this machine, as a process that logs to a file and answers HTTP on a port of its own."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compute.errors import BadInput

HOST = "127.0.0.1"


@dataclass
class LocalServer:
    """A command that answers HTTP on a port of this machine."""

    name: str
    option: str
    port: int
    health: str
    command: list[str]
    directory: Path
    log: Path
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                reason = "may not be opened" if isinstance(error, PermissionError) else "is taken by another program"
                raise BadInput(
                    f"port {self.port} of {HOST}, for {self.name}, {reason}; choose another one with {self.option}"
                ) from error

    def start(self, environment: dict[str, str]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            os.replace(self.log, self.log.with_suffix(".log.1"))  # the last words of one that failed
        with self.log.open("w") as log:
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which stops them in order.
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", self.health)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
