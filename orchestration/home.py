"""Where an installation keeps its things: lake, Dagster's instance, MLflow's store and studies, in one directory by default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

DAGSTER_YAML = """\
# Written once by Headwater; change it freely.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  pools: {granularity: op, default_limit: 1}
run_monitoring:
  enabled: true
  max_resume_run_attempts: 0
  free_slots_after_run_end_seconds: 300
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false
"""


@dataclass(frozen=True)
class Home:
    """`root` holds everything unless a variable says otherwise: HEADWATER_LAKE (a URI), HEADWATER_TRACKING_URI,
    HEADWATER_STUDIES (a directory), HEADWATER_CACHE (unpacked checkpoints)."""

    root: Path
    lake: str
    tracking: str
    studies: Path
    cache: Path

    @classmethod
    def from_environment(cls) -> Home:
        root = Path(os.environ.get("HEADWATER_HOME") or ".headwater").expanduser().absolute()
        return cls(
            root=root,
            lake=os.environ.get("HEADWATER_LAKE") or str(root / "lake"),
            tracking=os.environ.get("HEADWATER_TRACKING_URI") or f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
            studies=Path(os.environ.get("HEADWATER_STUDIES") or root / "studies").expanduser().absolute(),
            cache=Path(os.environ.get("HEADWATER_CACHE") or root / "cache").expanduser().absolute(),
        )

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    def prepare(self) -> Home:
        """Makes the directories and Dagster's configuration where they are missing."""
        for directory in (self.dagster, self.root / "mlflow", self.studies, self.cache):
            directory.mkdir(parents=True, exist_ok=True)
        configuration = self.dagster / "dagster.yaml"
        if not configuration.exists():
            configuration.write_text(DAGSTER_YAML)
        return self

    def environment(self) -> dict[str, str]:
        """What child processes need to find the same place."""
        return {"HEADWATER_HOME": str(self.root), "DAGSTER_HOME": str(self.dagster)}

    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance that `headwater run` and the UI share."""
        os.environ.update(self.environment())
        return dg.DagsterInstance.from_config(str(self.dagster))
