"""MLflow as an observer: a parent run per Dagster run, a child per step. It never decides: where it is down, work goes on.

Runs are named by explicit ids on `MlflowClient`; MLflow's global state is not touched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

log = logging.getLogger("headwater.tracking")

#: MLflow would otherwise retry an unreachable server for minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
LONGEST_PARAMETER = 6000


class StepRun:
    """One step's run; every method does nothing once tracking has failed, after one warning."""

    def __init__(self, client: Any | None, experiment: str | None, run_id: str | None, ui: str) -> None:
        self._client, self._experiment, self.run_id, self._ui = client, experiment, run_id, ui

    @property
    def url(self) -> str | None:
        """The run's page in the MLflow UI."""
        return f"{self._ui}/#/experiments/{self._experiment}/runs/{self.run_id}" if self.run_id else None

    def log_params(self, params: Mapping[str, Any]) -> None:
        for name, value in params.items():
            self._try("log_param", name, str(value)[:LONGEST_PARAMETER])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._try("log_metric", name, float(value), step=step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._try("set_tag", name, value)

    def log_input(self, table: str, version: int) -> None:
        """Which version of a table the step read. A tag, since a Delta data set's source drops version 0."""
        self._try("set_tag", f"input.{table}", str(version))

    def end(self, status: str) -> None:
        self._try("set_terminated", status)

    def _try(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._client is None:
            return
        try:
            getattr(self._client, method)(self.run_id, *arguments, **options)
        except Exception as error:
            self._client = None
            _warn(error)


class Tracking(dg.ConfigurableResource):
    """Where runs are tracked."""

    tracking_uri: str = Field(description="MLflow's store or server: sqlite:///… or http://…")
    ui: str = Field("http://127.0.0.1:5000", description="Address of the MLflow UI, for links.")
    artifacts: str = Field("", description="Root of artifacts for a store without a server of its own.")

    def parent_run(self, dagster_run_id: str, study: str) -> str | None:
        """The run of a whole Dagster run, made by the first of its steps; None where tracking is down."""
        try:
            client, experiment = self._client(), self._experiment(study)
            tag = f"tags.dagster_run_id = '{dagster_run_id}' and tags.level = 'run'"
            found = client.search_runs([experiment], tag, order_by=["attributes.start_time ASC"], max_results=1)
            if found:
                return found[0].info.run_id
            tags = {"dagster_run_id": dagster_run_id, "level": "run", "study": study}
            run = client.create_run(experiment, tags=tags, run_name=f"{study} {dagster_run_id[:8]}")
            client.set_terminated(run.info.run_id, "FINISHED")
            return run.info.run_id
        except Exception as error:
            _warn(error)
            return None

    @contextmanager
    def step_run(self, parent: str | None, name: str, tags: Mapping[str, str]) -> Iterator[StepRun]:
        """A child run that ends as the step ends: FINISHED, FAILED, or KILLED by an interrupt."""
        run = self._start(parent, name, tags)
        try:
            yield run
        except Exception:
            run.end("FAILED")
            raise
        except BaseException:
            run.end("KILLED")
            raise
        run.end("FINISHED")

    def _start(self, parent: str | None, name: str, tags: Mapping[str, str]) -> StepRun:
        if parent is None:
            return StepRun(None, None, None, self.ui)
        try:
            client = self._client()
            experiment = client.get_run(parent).info.experiment_id
            every = {**tags, "mlflow.parentRunId": parent, "level": "step"}
            run = client.create_run(experiment, tags=every, run_name=name)
            return StepRun(client, experiment, run.info.run_id, self.ui)
        except Exception as error:
            _warn(error)
            return StepRun(None, None, None, self.ui)

    def _client(self) -> Any:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri)

    def _experiment(self, study: str) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._client(), f"headwater/{study}"
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return client.create_experiment(name, artifact_location=self.artifacts or None)
        except MlflowException:  # another process was faster
            return client.get_experiment_by_name(name).experiment_id


def _warn(error: Exception) -> None:
    log.warning("MLflow cannot be reached (%s); the work goes on without tracking", str(error).splitlines()[0][:200])
