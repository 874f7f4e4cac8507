"""Where an installation keeps lake, Dagster's instance, MLflow's store and studies: one directory by default."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from compute.errors import BadInput

DAGSTER_YAML = """\
# Written once by Headwater; change it freely.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  pools: {granularity: op, default_limit: 1}
run_monitoring:
  enabled: true
  max_resume_run_attempts: 0
  free_slots_after_run_end_seconds: 30
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false
"""

MOST_HOURS = 24 * 365 * 100
"""A hundred years: more would be beyond what dates can be counted back."""

OVERRIDES = (
    "HEADWATER_LAKE",
    "HEADWATER_TRACKING_URI",
    "HEADWATER_STUDIES",
    "HEADWATER_CACHE",
    "HEADWATER_TRACKING_UI",
    "HEADWATER_DAGSTER_UI",
)


@dataclass(frozen=True)
class Home:
    """`root` holds everything unless a variable says otherwise; `orchestration/variables.py` tells what each means.

    `lake` is a directory or a URI; `tracking_ui` and `dagster_ui` are addresses for links, which `headwater ui` sets.
    """

    root: Path
    lake: str
    tracking: str
    studies: Path
    cache: Path
    tracking_ui: str = ""
    dagster_ui: str = ""
    maintenance: str = ""
    retention_hours: int = 720

    @classmethod
    def from_environment(cls) -> Home:
        """Raises BadInput naming the variable that cannot be used."""
        return replace(
            cls.without_maintenance(),
            maintenance=_cron(os.environ.get("HEADWATER_MAINTENANCE", "").strip()),
            retention_hours=_hours((os.environ.get("HEADWATER_RETENTION_HOURS") or "720").strip()),
        )

    @classmethod
    def without_maintenance(cls) -> Home:
        """The same, whatever is said about the lake's maintenance: for whoever leaves it out then."""
        root = _directory("HEADWATER_HOME", ".headwater")
        lake = os.environ.get("HEADWATER_LAKE") or str(root / "lake")
        return cls(
            root=root,
            lake=lake if "://" in lake else str(_directory("HEADWATER_LAKE", lake)),
            tracking=_store(os.environ.get("HEADWATER_TRACKING_URI") or f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"),
            studies=_directory("HEADWATER_STUDIES", root / "studies"),
            cache=_directory("HEADWATER_CACHE", root / "cache"),
            tracking_ui=os.environ.get("HEADWATER_TRACKING_UI", ""),
            dagster_ui=os.environ.get("HEADWATER_DAGSTER_UI", ""),
        )

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts, where its store is the one in this directory."""
        return self.root / "mlflow" / "artifacts"

    def prepare(self) -> Home:
        """Makes the directories and Dagster's configuration where they are missing."""
        for directory in (self.dagster, self.root / "mlflow", self.studies, self.cache):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(
                    f"{directory}: cannot be made ({error.strerror}); choose another place (HEADWATER_HOME)"
                ) from error
        configuration = self.dagster / "dagster.yaml"
        if not configuration.exists():
            _write_whole(configuration, DAGSTER_YAML)
        return self

    def environment(self) -> dict[str, str]:
        """What child processes need to find the same place, wherever they are started."""
        places = (self.lake, self.tracking, str(self.studies), str(self.cache), self.tracking_ui, self.dagster_ui)
        values = dict(zip(OVERRIDES, places, strict=True))
        given = {name: value for name, value in values.items() if os.environ.get(name)}
        return {"HEADWATER_HOME": str(self.root), "DAGSTER_HOME": str(self.dagster), **given}

    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance that `headwater run` and the UI share."""
        os.environ.update(self.environment())
        return dg.DagsterInstance.from_config(str(self.dagster))


def _hours(text: str) -> int:
    if not re.fullmatch("[0-9]{1,20}", text) or not 0 < int(text) <= MOST_HOURS:
        raise BadInput(
            f"HEADWATER_RETENTION_HOURS: '{text}' is no number of hours from 1 to {MOST_HOURS}; "
            "write a whole number such as 720"
        )
    return int(text)


def _cron(text: str) -> str:
    try:
        dg.ScheduleDefinition(job_name="any", cron_schedule=text or "@daily")
    except dg.DagsterInvalidDefinitionError as error:
        raise BadInput(
            f"HEADWATER_MAINTENANCE: '{text}' is no cron schedule; write one such as '0 4 * * 0' (Sundays at four), "
            "or leave it out"
        ) from error
    return text


def _directory(variable: str, default: str | Path) -> Path:
    return _absolute(variable, os.environ.get(variable) or default)


def _absolute(variable: str, path: str | Path) -> Path:
    try:
        str(path).encode()
        return Path(path).expanduser().absolute()
    except UnicodeEncodeError as error:
        raise BadInput(f"{variable}: {str(path)!a} is no path in UTF-8; name another directory") from error
    except RuntimeError as error:  # ~ of a user that there is not
        raise BadInput(f"{variable}: {path} leads nowhere ({error}); write the whole path") from error


def _store(uri: str) -> str:
    """A relative SQLite file would be another one for a process that is started elsewhere."""
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{_absolute('HEADWATER_TRACKING_URI', file)}" if file != uri else uri


def _write_whole(path: Path, text: str) -> None:
    """In one step, so that a process beside this one reads all of it or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(name, path)
