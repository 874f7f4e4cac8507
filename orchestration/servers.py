"""`headwater ui`: Dagster's webserver and daemon, and MLflow's UI next to them, on loopback.

`dagster dev` starts webserver, daemon and code server, and these start runs; MLflow starts a worker. When one of the
servers ends, or this command is asked to stop, all of them are ended (`orchestration/ui_processes.py`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from assets.tracking.tracking import DEFAULT_UI
from compute.errors import BadInput
from orchestration.home import Home
from orchestration.local_server import HOST, LocalServer
from orchestration.ui_processes import clear_after_a_killed_one, mark, only_one, stop_all

WORKSPACE = Path(__file__).resolve().parents[1] / "workspace.yaml"
DAGSTER_PARTS = {"dagster_webserver": "Dagster's webserver", "dagster._daemon": "Dagster's daemon"}
"""What `dagster dev` does not start again when it ends, by module. It does so with the code server."""
EXPERIMENTS = "/#/experiments?workflowType=machine_learning"
"""MLflow's list of experiments; without it, MLflow opens on its pages for applications of language models."""
SQL_STORES = ("sqlite", "postgresql", "mysql", "mssql")
SECONDS_TO_START = 180
LOOK = 0.2
WATCH = 0.5


class ServerEnded(Exception):
    """A server that ended by itself, or never answered: a sentence that names it and its log."""


def serve(home: Home, *, port: int, mlflow_port: int) -> None:
    """Runs both until Ctrl-C, SIGTERM or SIGHUP. Raises BadInput before anything starts, and ServerEnded when one of
    them ends by itself, after the others are stopped.
    """
    servers = [_dagster(home, port)]
    tracking = home.tracking
    if home.tracking.split(":")[0].split("+")[0] in SQL_STORES:  # otherwise it is a server with a UI of its own
        servers.append(_mlflow(home, mlflow_port))
        tracking = servers[-1].address
    tracking = home.tracking_ui or tracking
    with only_one(home, servers[0].address), _asked_to_stop() as asked:
        if clear_after_a_killed_one(home):
            _say("What an earlier `headwater ui`, which was killed, had left running is ended.")
        _check_ports(servers)
        try:
            _start(servers, home, tracking)
            if _until_all_answer(servers, asked):
                page = f"{tracking.rstrip('/')}{EXPERIMENTS}" if tracking.startswith("http") else tracking
                _say(f"Dagster  {servers[0].address}\nMLflow   {page}")
                if told := links_told(home, tracking):
                    _say(told)
                _say(f"Ctrl-C stops what runs here; its logs are in {servers[0].log.parent}")
            while not asked:
                _check_all_live(servers, parts=True)
                time.sleep(WATCH)
        finally:
            _say("Stopping …")
            if interrupted := stop_all(home, asked):
                runs = ", ".join(run[:8] for run in interrupted)
                _say(f"Interrupted and marked as failed: {runs}. When it is started again, Dagster takes up each once.")


def links_told(home: Home, tracking: str) -> str | None:
    """Links are kept as they were made, and a run outside knows nothing of the port that was chosen here."""
    if tracking in (DEFAULT_UI, home.tracking_ui, home.tracking):
        return None
    return (
        f"Steps that run here link to this MLflow; those of `headwater run` link to {DEFAULT_UI}, unless it is run "
        f"with HEADWATER_TRACKING_UI={tracking}"
    )


def _dagster(home: Home, port: int) -> LocalServer:
    target = ["-w", str(WORKSPACE)] if WORKSPACE.exists() else ["-m", "orchestration.definitions"]
    return LocalServer(
        name="Dagster",
        option="--port",
        port=port,
        health="/server_info",
        command=[sys.executable, "-m", "dagster", "dev", *target, "-h", HOST, "-p", str(port)],
        # Dagster imports from the directory in which it is started: never from one that has an `assets` of its own.
        directory=WORKSPACE.parent if WORKSPACE.exists() else home.root,
        log=home.root / "logs" / "dagster.log",
    )


def _mlflow(home: Home, port: int) -> LocalServer:
    store = ["--backend-store-uri", home.tracking, "--default-artifact-root", home.artifacts.as_uri()]
    return LocalServer(
        name="MLflow",
        option="--mlflow-port",
        port=port,
        health="/health",
        command=[
            *(sys.executable, "-m", "mlflow", "server", *store, "--workers", "1"),
            *("--host", HOST, "--port", str(port)),
        ],
        directory=home.root,
        log=home.root / "logs" / "mlflow.log",
    )


def _check_ports(servers: Sequence[LocalServer]) -> None:
    if len({server.port for server in servers}) < len(servers):
        raise BadInput(f"port {servers[0].port} is asked for twice; give --port and --mlflow-port different ones")
    for server in servers:
        server.check_port()


def _start(servers: Sequence[LocalServer], home: Home, tracking: str) -> None:
    _say(f"Starting {' and '.join(server.name for server in servers)} on {home.root} …")
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"} | os.environ | home.environment()
    environment |= {
        **mark(home),
        "HEADWATER_TRACKING_UI": tracking,  # where links of steps to their MLflow runs lead, and the ones back
        "HEADWATER_DAGSTER_UI": home.dagster_ui or servers[0].address,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a queue for judging language models, with processes of its own
    }
    for server in servers:
        server.start(environment)


def _until_all_answer(servers: Sequence[LocalServer], asked: list[int]) -> bool:
    """Whether they do; they do not where one is asked to stop before."""
    deadline = time.monotonic() + SECONDS_TO_START
    waiting = list(servers)
    while waiting and not asked:
        _check_all_live(servers)
        waiting = [server for server in waiting if not server.answers()]
        if waiting and time.monotonic() > deadline:
            late = waiting[0]
            raise ServerEnded(f"{late.name} does not answer after {SECONDS_TO_START} seconds; see {late.log}")
        time.sleep(LOOK if waiting else 0)
    return not waiting


def _check_all_live(servers: Sequence[LocalServer], *, parts: bool = False) -> None:
    """Names the one that has ended; with `parts`, among what `dagster dev` has started too."""
    for server in servers:
        ended = server.process.poll() is not None and server.name
        if not ended and parts and server.name == "Dagster":
            ended = _part_that_ended(server.process.pid)
        if ended:
            raise ServerEnded(f"{ended} has ended by itself, so everything is stopped; see {server.log}")


def _part_that_ended(dagster: int) -> str | None:
    try:
        children = psutil.Process(dagster).children()
    except psutil.Error:
        return "Dagster"
    running = {word for child in children for word in _command_line(child)}
    return next((part for module, part in DAGSTER_PARTS.items() if module not in running), None)


def _command_line(process: psutil.Process) -> list[str]:
    """Empty for a process that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that gets the signals which ask to stop. Raising from a handler could interrupt a start half done."""
    asked: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone, which is when stopping matters most
        print(text, file=sys.stderr, flush=True)
