"""MLflow as an observer: a parent run per Dagster run, a child per step. Where it is down, work goes on.

Runs are named by explicit ids on `MlflowClient`; MLflow's global state (an active run, a tracking URI) is not
touched. A failure costs one warning and at most a few seconds; after it a step's run is a null run, whose
methods do nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

log = logging.getLogger("headwater.tracking")

#: Read by MLflow from the environment alone; a value that the user set stands.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default, an unreachable server is retried for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: For so long, a process does not try again what has failed: a run of twenty steps waits once, and warns
#: once.
SECONDS_OF_SILENCE = 60.0
#: How long two first steps on two machines may differ in seeing each other's parent run.
SECONDS_TO_SETTLE = 0.5
DEFAULT_UI = "http://127.0.0.1:5000"

LONGEST_PARAMETER = 6000
LONGEST_TAG = 8000
PARAMETERS_PER_CALL = 100
ENDED_BADLY = ("FAILED", "KILLED")

_silent_until: dict[str, float] = {}


class StepRun:
    """One step's run. Every method does nothing once tracking has failed, after one warning."""

    def __init__(self, client: Any | None, experiment: str | None, run_id: str | None, ui: str) -> None:
        self._client, self._experiment, self.run_id, self._ui = client, experiment, run_id, ui

    @property
    def url(self) -> str | None:
        """The run's page in the MLflow UI."""
        return f"{self._ui}/#/experiments/{self._experiment}/runs/{self.run_id}" if self.run_id else None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of the step; nested mappings become dotted names."""
        pairs = [(_name(name), _text(value)[:LONGEST_PARAMETER]) for name, value in _flat(params)]
        for start in range(0, len(pairs), PARAMETERS_PER_CALL):
            self._try("log_batch", params=lambda part=pairs[start : start + PARAMETERS_PER_CALL]: _parameters(part))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._try("log_batch", metrics=lambda: _metrics(metrics, now, step))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._try("set_tag", _name(name), str(value)[:LONGEST_TAG])

    def log_input(self, table: str, version: int) -> None:
        """Which version of a table the step read: as a data set, and as a tag, since Delta sources drop
        version 0.
        """
        self._try("log_inputs", datasets=lambda: [_dataset(table, version)])
        self.set_tags({f"input.{table}": str(version)})

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        self._try("log_dict", dict(content), file)

    def log_text(self, text: str, file: str) -> None:
        self._try("log_text", text, file)

    def log_artifact(self, path: str | Path, directory: str | None = None) -> None:
        """Copies a local file among the run's artifacts."""
        self._try("log_artifact", str(path), directory)

    def end(self, status: str) -> None:
        self._try("set_terminated", status)

    def _try(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._client is None:
            return
        try:  # options that need MLflow's classes come as functions, so that a null run does not import it
            made = {name: value() if callable(value) else value for name, value in options.items()}
            getattr(self._client, method)(self.run_id, *arguments, **made)
        except Exception as error:
            self._client = None
            _warn(error)


class Tracking(dg.ConfigurableResource):
    """Where runs are tracked."""

    tracking_uri: str = Field(description="MLflow's store or server: sqlite:///… or http://…")
    ui: str = Field(
        "", description="Address of the MLflow UI, for links; left out: the server's own, or the local one."
    )
    artifacts: str = Field("", description="Root of artifacts for a store without a server of its own.")
    experiments: str = Field("headwater", description="Prefix of experiments; each study has one.")

    def parent_run(self, dagster_run_id: str, study: str) -> str | None:
        """The run of a whole Dagster run, made by the first of its steps; None where tracking is down."""
        if time.monotonic() < _silent_until.get(self.tracking_uri, 0):
            return None
        try:
            with self._one_at_a_time(dagster_run_id):
                return self._found_or_made(dagster_run_id, study)
        except Exception as error:
            self._fall_silent(error)
            return None

    @contextmanager
    def step_run(self, parent: str | None, name: str, tags: Mapping[str, str]) -> Iterator[StepRun]:
        """A child run that ends as the step ends: FINISHED, FAILED, or KILLED by an interrupt."""
        run = self._start(parent, name, tags)
        status = "KILLED"
        try:
            yield run
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            run.end(status)
            self._sum_up(parent, run)

    def _found_or_made(self, dagster_run_id: str, study: str) -> str:
        client, experiment = self._client(), self._experiment(study)
        if found := _parents(client, experiment, dagster_run_id):
            return found[0]
        tags = {"dagster_run_id": dagster_run_id, "level": "run", "study": study}
        made = client.create_run(experiment, tags=tags, run_name=f"{study} {dagster_run_id[:8]}").info.run_id
        if self._is_local:
            return made
        time.sleep(SECONDS_TO_SETTLE)  # no lock reaches another machine: let both see both, and take the same one
        first = _parents(client, experiment, dagster_run_id)[0]
        if first != made:
            client.delete_run(made)
        return first

    def _start(self, parent: str | None, name: str, tags: Mapping[str, str]) -> StepRun:
        page = self._page
        if parent is None:
            return StepRun(None, None, None, page)
        try:
            client = self._client()
            experiment = client.get_run(parent).info.experiment_id
            every = {**tags, "mlflow.parentRunId": parent, "level": "step"}
            run = client.create_run(experiment, tags=every, run_name=name)
            return StepRun(client, experiment, run.info.run_id, page)
        except Exception as error:
            self._fall_silent(error)
            return StepRun(None, None, None, page)

    def _sum_up(self, parent: str | None, run: StepRun) -> None:
        """Ends the parent with its steps: badly if the newest run of any step ended badly (a retry mends it)."""
        if run._client is None or parent is None:
            return
        try:
            steps = f"tags.`mlflow.parentRunId` = '{parent}'"
            newest: dict[str, str] = {}
            for child in run._client.search_runs([run._experiment], steps, order_by=["attributes.start_time DESC"]):
                newest.setdefault(child.info.run_name, child.info.status)
            bad = [status for status in newest.values() if status in ENDED_BADLY]
            run._client.set_terminated(parent, bad[0] if bad else "FINISHED")
        except Exception as error:
            self._fall_silent(error)

    def _client(self) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # says a line for each table of a new store
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)

    def _experiment(self, study: str) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._client(), f"{self.experiments}/{study}"
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return client.create_experiment(name, artifact_location=(self._is_local and self.artifacts) or None)
        except MlflowException:  # another process was faster
            if found := client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    @contextmanager
    def _one_at_a_time(self, dagster_run_id: str) -> Iterator[None]:
        """Among the processes of this machine, the steps of one run look for their parent one after the
        other.
        """
        digest = hashlib.sha256(f"{self.tracking_uri} {dagster_run_id}".encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"headwater-parent-{os.getuid()}-{digest}.lock"
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def _is_local(self) -> bool:
        return self.tracking_uri.startswith("sqlite:")

    @property
    def _page(self) -> str:
        own = self.tracking_uri if self.tracking_uri.startswith("http") else DEFAULT_UI
        return (self.ui or own).rstrip("/")

    def _fall_silent(self, error: Exception) -> None:
        _silent_until[self.tracking_uri] = time.monotonic() + SECONDS_OF_SILENCE
        _warn(error)


def _parents(client: Any, experiment: str, dagster_run_id: str) -> list[str]:
    """Parent runs of a Dagster run, in an order that every process finds alike."""
    wanted = f"tags.dagster_run_id = '{dagster_run_id}' and tags.level = 'run'"
    runs = client.search_runs([experiment], wanted)
    return [run.info.run_id for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))]


def _parameters(pairs: list[tuple[str, str]]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, value) for name, value in pairs]


def _metrics(metrics: Mapping[str, float], now: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(_name(name), float(value), now, step) for name, value in metrics.items()]


def _dataset(table: str, version: int) -> Any:
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"path": table, "delta_table_version": version})
    return DatasetInput(Dataset(name=table, digest=str(version), source_type="delta_table", source=source), [])


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _name(name: str) -> str:
    """MLflow refuses most other characters in names."""
    return re.sub(r"[^\w\-. /:]", "_", str(name))


def _warn(error: Exception) -> None:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    log.warning("MLflow cannot be reached (%s); the work goes on without tracking", reason)
