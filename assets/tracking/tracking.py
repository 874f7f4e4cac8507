"""MLflow as an observer: a parent run per Dagster run, a child per step. Where it is down, work goes on.

Runs are named by explicit ids on `MlflowClient`; MLflow's global state (an active run, a tracking URI) is not
touched. A failure costs one warning and at most a few seconds; after it a step's run is a null run, whose
methods do nothing.

A parent is RUNNING while one of its steps is, and otherwise ends with the last of them: nobody knows in a step whether
another will follow.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.tracking.machine_metrics import MachineMetrics
from assets.tracking.past_steps import NoTracking, PastStep, past_steps
from assets.tracking.tracked_run import SECONDS_OF_SILENCE, StepRun, reason_of, warn_unreachable

#: Read by MLflow from the environment alone; a value that the user set stands.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default, an unreachable server is retried for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
STUDY_TAG = "headwater/study"
"""Tag of a Dagster run of a study's job: the study's name as its author wrote it."""
#: How long two first steps on two machines may differ in seeing each other's parent run.
SECONDS_TO_SETTLE = 0.5
DEFAULT_UI = "http://127.0.0.1:5000"
DEFAULT_DAGSTER_UI = "http://127.0.0.1:3000"

BADLY = ("FAILED", "KILLED")
PARENT_TAG = "mlflow.parentRunId"
DESCRIPTION_TAG = "mlflow.note.content"
#: As what MLflow's UI opens an experiment: training runs, and not an assistant's conversations.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
INHERITED_TAGS = ("dagster_run_id", "study")

_silent_until: dict[str, float] = {}


class Tracking(dg.ConfigurableResource):
    """Where runs are tracked."""

    tracking_uri: str = Field(description="MLflow's store or server: sqlite:///… or http://…")
    ui: str = Field(
        "", description="Address of the MLflow UI, for links; left out: the server's own, or the local one."
    )
    dagster_ui: str = Field(DEFAULT_DAGSTER_UI, description="Address of the Dagster UI, for links from MLflow to it.")
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
        """A child run that ends as the step ends: FINISHED, FAILED, or KILLED by an interrupt.

        Meanwhile the machine's load is sampled into it.
        """
        run = self._start(parent, name, tags)
        status = "KILLED"
        try:
            if run.client is None:
                yield run
            else:
                with MachineMetrics(run.log_metrics):
                    yield run
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            run.end(status)
            if run.is_silent:  # it went down during the step; the next one is not to wait for it again
                _silent_until[self.tracking_uri] = time.monotonic() + SECONDS_OF_SILENCE
            else:
                self._sum_up(parent, run)

    def close(self, dagster_run_id: str, *, killed: bool) -> None:
        """Ends what a Dagster run left RUNNING, for whoever learns of its end: a killed process could not say so."""
        if time.monotonic() < _silent_until.get(self.tracking_uri, 0):
            return
        try:
            client = self._client()
            ours = client.search_experiments(filter_string=f"name LIKE '{self.experiments}/%'")
            left = f"tags.dagster_run_id = '{dagster_run_id}' and attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id for experiment in ours], left):
                client.set_terminated(run.info.run_id, "KILLED" if killed else "FAILED")
        except Exception as error:
            self._fall_silent(error)

    def past_steps(self, tables: Iterable[str], newest: int) -> dict[str, list[PastStep]]:
        """Of each table, by its path, the newest steps that wrote it and ended well, the last of them first.

        Raises NoTracking where there is no store yet (MLflow, which takes seconds to import, is not loaded then), or it
        cannot be reached.
        """
        file = Path(self.tracking_uri.removeprefix("sqlite:///"))
        if self._is_local and not file.exists():
            raise NoTracking(f"MLflow's store {file} is not there")
        try:
            client = self._client()
            ours = client.search_experiments(filter_string=f"name LIKE '{self.experiments}/%'")
            ids = [experiment.experiment_id for experiment in ours]
            return {table: past_steps(client, ids, table, newest) for table in tables}
        except Exception as error:
            raise NoTracking(f"MLflow cannot be reached ({reason_of(error)})") from error

    def _found_or_made(self, dagster_run_id: str, study: str) -> str:
        client, experiment = self._client(), self._experiment(study)
        if found := _parents(client, experiment, dagster_run_id):
            return found[0]
        link = f"{self.dagster_ui.rstrip('/')}/runs/{dagster_run_id}"
        tags = {
            "dagster_run_id": dagster_run_id,
            "level": "run",
            "study": study,
            DESCRIPTION_TAG: f"[Dagster run {dagster_run_id[:8]}]({link}) of {study}: one child run per step.",
        }
        made = client.create_run(experiment, tags=tags, run_name=f"{study} {dagster_run_id[:8]}").info.run_id
        if self._is_local:
            return made
        time.sleep(SECONDS_TO_SETTLE)  # no lock reaches another machine: let both see both, and take the same one
        first = _parents(client, experiment, dagster_run_id)[0]
        if first != made:
            client.delete_run(made)
        return first

    def _start(self, parent: str | None, name: str, tags: Mapping[str, str]) -> StepRun:
        null = StepRun(None, None, None, self._page)
        if parent is None:
            return null
        try:
            client = self._client()
            whole = client.get_run(parent)
            experiment = whole.info.experiment_id
            _end_killed(client, experiment, parent, name)
            client.update_run(parent, status="RUNNING")
            own = {tag: whole.data.tags[tag] for tag in INHERITED_TAGS if tag in whole.data.tags}
            own |= {**tags, PARENT_TAG: parent, "level": "step", DESCRIPTION_TAG: self._description(name, own)}
            run = client.create_run(experiment, tags=own, run_name=name)
            return StepRun(client, experiment, run.info.run_id, self._page)
        except Exception as error:
            self._fall_silent(error)
            return null

    def _description(self, name: str, tags: Mapping[str, str]) -> str:
        """Where the step stands in the Dagster UI."""
        ui, run = self.dagster_ui.rstrip("/"), tags.get("dagster_run_id", "")
        return f"[Asset {name}]({ui}/assets/{name}), [Dagster run {run[:8]}]({ui}/runs/{run})"

    def _sum_up(self, parent: str | None, run: StepRun) -> None:
        """Ends the parent with its steps: badly if the newest run of any step ended badly (a retry mends it)."""
        if run.client is None or parent is None:
            return
        try:
            newest: dict[str, str] = {}
            for child in _children(run.client, run.experiment, parent):
                newest.setdefault(child.info.run_name, child.info.status)
            if "RUNNING" not in newest.values():
                bad = [status for status in newest.values() if status in BADLY]
                run.client.set_terminated(parent, bad[0] if bad else "FINISHED")
        except Exception as error:
            self._fall_silent(error)

    def _client(self) -> Any:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # says a line for each table of a new store
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)

    def _experiment(self, study: str) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._client(), f"{self.experiments}/{study}"
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            artifacts = None if self._has_server else self.artifacts or None
            return client.create_experiment(name, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        except MlflowException:  # another process was faster
            if found := client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    @contextmanager
    def _one_at_a_time(self, dagster_run_id: str) -> Iterator[None]:
        """Among the processes of this machine, the steps of one run look for their parent one after the other.

        Runs share a few files: one for each would stay behind for ever, since a lock's file cannot safely be removed.
        """
        digest = hashlib.sha256(f"{self.tracking_uri} {dagster_run_id}".encode()).hexdigest()[:2]
        path = Path(tempfile.gettempdir()) / f"headwater-parent-{os.getuid()}-{digest}.lock"
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def _is_local(self) -> bool:
        return self.tracking_uri.startswith("sqlite:")

    @property
    def _has_server(self) -> bool:
        return self.tracking_uri.startswith("http")

    @property
    def _page(self) -> str:
        own = self.tracking_uri if self._has_server else DEFAULT_UI
        return (self.ui or own).rstrip("/")

    def _fall_silent(self, error: Exception) -> None:
        _silent_until[self.tracking_uri] = time.monotonic() + SECONDS_OF_SILENCE
        warn_unreachable(error)


def study_of(run: dg.DagsterRun) -> str:
    """What a Dagster run works on, which its experiment is named after: a study, or an asset's first two words.

    A study's job tags its runs with the name as its author wrote it, which a job's own name cannot hold. Runs that the
    UI or a condition starts on assets have no job of their own.
    """
    if study := run.tags.get(STUDY_TAG):
        return study
    if run.job_name and not run.job_name.startswith("__"):
        return run.job_name
    kinds = sorted(
        {tuple(key.path[:2]) for key in run.asset_selection or ()}, key=lambda kind: (kind[0] != "study", kind)
    )
    if not kinds:
        return "assets"
    return kinds[0][-1] if kinds[0][0] == "study" else "/".join(kinds[0])


def _parents(client: Any, experiment: str, dagster_run_id: str) -> list[str]:
    """Parent runs of a Dagster run, in an order that every process finds alike."""
    wanted = f"tags.dagster_run_id = '{dagster_run_id}' and tags.level = 'run'"
    runs = client.search_runs([experiment], wanted)
    return [run.info.run_id for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))]


def _children(client: Any, experiment: str, parent: str) -> list[Any]:
    """The runs of a parent's steps, newest first."""
    wanted = f"tags.`{PARENT_TAG}` = '{parent}'"
    return client.search_runs([experiment], wanted, order_by=["attributes.start_time DESC"])


def _end_killed(client: Any, experiment: str, parent: str, name: str) -> None:
    """Ends earlier runs of a step that begins again: a Dagster run never does a step twice at once."""
    for child in _children(client, experiment, parent):
        if child.info.run_name == name and child.info.status == "RUNNING":
            client.set_terminated(child.info.run_id, "KILLED")
