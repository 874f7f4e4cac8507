"""The processes that come from one `headwater ui`: only one on a home, and none left behind.

Each carries a mark in its environment, inherited by what it starts (code server, runs, their steps), so that all are
found whoever started them and whatever became of their parents. What a killed `headwater ui` left is found by the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg
import psutil

from compute.errors import BadInput
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.run import clear_after_killed_runs

MARK = "HEADWATER_UI"
LAUNCHED_BY = ".dagster/grpc_info"
"""Run tag in which Dagster notes the code server that started the run."""
SECONDS_TO_STOP = 20
LOOK = 0.2


@contextmanager
def only_one(home: Home, address: str) -> Iterator[None]:
    """Two daemons on one home would both act on every schedule and sensor. Raises BadInput for the second."""
    with (home.root / "ui.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BadInput(
                f"{home.root}: `headwater ui` already runs on it ({file.read().strip()}); "
                "use that one, stop it, or name another place by HEADWATER_HOME"
            ) from error
        file.truncate(0)
        file.write(f"{address}, process {os.getpid()}")
        file.flush()
        yield


def mark(home: Home) -> dict[str, str]:
    """The environment variable that marks a process as one of this home's."""
    return {MARK: str(home.root.resolve())}


def stop_all(home: Home, asked: Sequence[int] = ()) -> list[str]:
    """An interrupt to every process, as Ctrl-C in a terminal gives it; time, or another Ctrl-C in `asked`, ends them.

    Returns the runs that this interrupted. They are marked as failed, which Dagster's run retries take up when its
    daemon starts again.
    """
    with home.instance() as instance:
        runs = _launched_runs(instance)
        _end(home, asked)
        return [run.run_id for run in runs if _close(run, instance, home)]


def clear_after_a_killed_one(home: Home) -> bool:
    """Ends processes and runs that an earlier `headwater ui` or `headwater run` could not. Whether it left servers."""
    left = bool(_family(home))
    stop_all(home)
    with home.instance() as instance:
        clear_after_killed_runs(instance, resources_of(home)["tracking"])
    return left


def _end(home: Home, asked: Sequence[int]) -> None:
    deadline = time.monotonic() + SECONDS_TO_STOP
    before = list(asked).count(signal.SIGINT)
    _signal(_family(home), signal.SIGINT)
    while family := _family(home):
        if time.monotonic() > deadline or list(asked).count(signal.SIGINT) > before:
            _signal(family, signal.SIGKILL)
        time.sleep(LOOK)


def _launched_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs in progress that a code server on this machine started."""
    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    return [run for run in instance.get_runs(dg.RunsFilter(statuses=statuses)) if _server(run)]


def _close(run: dg.DagsterRun, instance: dg.DagsterInstance, home: Home) -> bool:
    """Ends a run whose code server is gone, and with it its process; whether the run has failed.

    Dagster's own monitoring does not see that a process of this machine is gone, and an interrupted step keeps its
    place in a pool: the next run would wait for it.
    """
    now = instance.get_run_by_id(run.run_id)
    if not now.is_finished:
        if _is_listening(_server(run)):
            return False  # someone's own `dagster dev`
        cancelled = now.status == dg.DagsterRunStatus.CANCELING
        report = instance.report_run_canceled if cancelled else instance.report_run_failed
        report(now, message="The process of this run ended with `headwater ui`.")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    status = instance.get_run_by_id(run.run_id).status
    if status != dg.DagsterRunStatus.SUCCESS:
        resources_of(home)["tracking"].close(run.run_id, killed=True)
    return status == dg.DagsterRunStatus.FAILURE


def _server(run: dg.DagsterRun) -> str | None:
    """The socket of the code server that started the run."""
    return json.loads(run.tags.get(LAUNCHED_BY, "{}")).get("socket")


def _is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _family(home: Home) -> list[psutil.Process]:
    """Every marked process that still runs."""
    wanted = mark(home)[MARK]
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == wanted
            if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return found


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
