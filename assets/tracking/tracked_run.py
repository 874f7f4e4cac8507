"""One step's run in MLflow: what a step may say about itself, on a client with an explicit run id.

Nothing here raises. A call that fails costs one warning; then the run is silent for a minute, so that a server that
hangs does not slow the step, and tries again after it, so that one that was restarted gets the rest of a long step.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

Result = TypeVar("Result")

log = logging.getLogger("headwater.tracking")

#: For so long, what has failed is not tried again: a run of twenty steps waits once, and warns once.
SECONDS_OF_SILENCE = 60.0
LONGEST_PARAMETER = 6000
LONGEST_TAG = 8000
PARAMETERS_PER_CALL = 100
#: What MLflow answers to a call that it understood but does not take: the server is there.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


class StepRun:
    """One step's run; a null run, whose methods do nothing, where there is no client."""

    def __init__(self, client: Any | None, experiment: str | None, run_id: str | None, ui: str) -> None:
        self.client, self.experiment, self.run_id, self._ui = client, experiment, run_id, ui
        self._silent_until, self._warned, self._lock = 0.0, False, threading.Lock()

    @property
    def url(self) -> str | None:
        """The run's page in the MLflow UI, among training runs: by default the UI shows an assistant's side."""
        page = f"{self._ui}/#/experiments/{self.experiment}/runs/{self.run_id}?workflowType=machine_learning"
        return page if self.run_id else None

    def artifact_url(self, file: str) -> str | None:
        """The page of one of the run's artifacts in the MLflow UI."""
        page = f"{self._ui}/#/experiments/{self.experiment}/runs/{self.run_id}/artifacts/{file}"
        return f"{page}?workflowType=machine_learning" if self.run_id else None

    @property
    def is_silent(self) -> bool:
        """Whether a call failed in the last minute."""
        return time.monotonic() < self._silent_until

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of the step; nested mappings become dotted names."""
        pairs = [(mlflow_name(name), _text(value)[:LONGEST_PARAMETER]) for name, value in _flat(params)]
        for start in range(0, len(pairs), PARAMETERS_PER_CALL):
            self._try("log_batch", params=lambda part=pairs[start : start + PARAMETERS_PER_CALL]: _parameters(part))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._try("log_batch", metrics=lambda: _metrics(metrics, now, step))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._try("log_batch", tags=lambda: _tags(tags))

    def log_input(self, table: str, version: int) -> None:
        """Which version of a table the step read: as a data set, and as a tag, since Delta sources drop version 0."""
        self._try("log_inputs", datasets=lambda: [_dataset(table, version)])
        self.set_tags({f"input.{table}": str(version)})

    def log_dict(self, content: Mapping[str, Any], file: str) -> None:
        self._try("log_dict", dict(content), file)

    def log_text(self, text: str, file: str) -> None:
        self._try("log_text", text, file)

    def log_figure(self, png: bytes, svg: str, name: str) -> None:
        """A figure among the run's artifacts, under figures/, as a picture and as vectors."""
        if self.client is None:
            return
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, f"{name}.png").write_bytes(png)
            Path(directory, f"{name}.svg").write_text(svg, encoding="utf-8")
            self._try("log_artifacts", directory, "figures")

    def log_artifact(self, path: str | Path, directory: str | None = None) -> None:
        """Copies a local file among the run's artifacts."""
        self._try("log_artifact", str(path), directory)

    def end(self, status: str) -> None:
        """Tried also while the run is silent: MLflow itself never ends a run."""
        self._silent_until = 0.0
        self._try("set_terminated", status)

    def attempt(self, what: str, call: Callable[[Any], Result]) -> Result | None:
        """What `call` makes of the client; None where tracking is down, or fails at it."""
        if self.client is None or self.is_silent:
            return None
        try:
            return call(self.client)
        except Exception as error:
            self._failed(what, error)
            return None

    def _try(self, method: str, *arguments: Any, **options: Any) -> None:
        """Options that need MLflow's classes come as functions, so that a null run does not import it."""

        def call(client: Any) -> None:
            made = {name: value() if callable(value) else value for name, value in options.items()}
            getattr(client, method)(self.run_id, *arguments, **made)

        self.attempt(method, call)

    def _failed(self, what: str, error: Exception) -> None:
        outage = _is_outage(error)
        with self._lock:  # the sampler of the machine's load calls from its own thread
            if outage:
                self._silent_until = time.monotonic() + SECONDS_OF_SILENCE
            if self._warned:
                return
            self._warned = True
        if outage:
            warn_unreachable(error)
        else:
            _warn(f"Tracking in MLflow failed ({what}: {reason_of(error)}); the work goes on")


def _is_outage(error: Exception) -> bool:
    """Whether the server may be down, and not only this call be wrong."""
    if isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in REFUSALS:
        return False
    return isinstance(error, OSError) or hasattr(error, "error_code")


def warn_unreachable(error: Exception) -> None:
    _warn(f"MLflow cannot be reached ({reason_of(error)}); the work goes on without tracking")


def _warn(sentence: str) -> None:
    """On the terminal, and in the run's log in the Dagster UI."""
    log.warning(sentence)
    dg.get_dagster_logger("headwater").warning(sentence)


def reason_of(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def mlflow_name(name: str) -> str:
    """MLflow refuses most other characters in names."""
    return re.sub(r"[^\w\-. /:]", "_", str(name))


def _parameters(pairs: list[tuple[str, str]]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, value) for name, value in pairs]


def _metrics(metrics: Mapping[str, float], now: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(mlflow_name(name), float(value), now, step) for name, value in metrics.items()]


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(mlflow_name(name), str(value)[:LONGEST_TAG]) for name, value in tags.items()]


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
