"""A copy of the finished tiny study, to be changed and run on in the test's own process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl

from assets.lake.lake import Lake
from assets.specs.study import Study
from assets.step.step import REUSE_TAG
from orchestration.graph import job_name, study_assets_once, study_job
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.studies import read_study


@dataclass(frozen=True)
class CopiedStudy:
    directory: Path
    study: Study
    home: Home
    instance: dg.DagsterInstance

    @property
    def lake(self) -> Lake:
        return resources_of(self.home)["lake"]

    def table(self, path: str) -> pl.DataFrame:
        return pl.scan_delta(str(self.directory / "home/lake" / path)).collect()

    def definitions(self, others: Sequence[Study] = ()) -> dg.Definitions:
        resources = resources_of(self.home)
        assets = study_assets_once([self.study], others)
        return dg.Definitions(assets, jobs=[study_job(self.study)], resources=resources)

    def materialize(
        self, *paths: str, shards: Sequence[str] = (), reuse: bool = False, others: Sequence[Study] = ()
    ) -> dg.ExecuteInProcessResult:
        """One run of these assets; over a range of shards where they are given by the first and the last. `others` are
        the studies that it may be compared with."""
        tags = {REUSE_TAG: str(reuse).lower()}
        if shards:
            tags |= {
                "dagster/asset_partition_range_start": shards[0],
                "dagster/asset_partition_range_end": shards[-1],
            }
        job = self.definitions(others).resolve_job_def(job_name(self.study))
        keys = [dg.AssetKey(path.split("/")) for path in paths]
        return job.execute_in_process(
            instance=self.instance, asset_selection=keys, tags=tags, raise_on_error=False, run_config=_QUIET
        )

    def rewrite(self, part: int, rows: list[dict]) -> None:
        path = self.directory / f"corpus/part{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def copy_of(study_file: Path, directory: Path) -> CopiedStudy:
    """Everything that lies around the study's file: corpus, model, queries, and the home with lake and instance."""
    target = directory / "copy"
    shutil.copytree(study_file.parent, target, symlinks=True)
    home = home_at(target / "home")
    return CopiedStudy(
        target, read_study(target / study_file.name), home, dg.DagsterInstance.from_config(str(home.dagster))
    )


def home_at(root: Path) -> Home:
    """The home whose directory this is, with everything in its usual place."""
    return Home(
        root=root,
        lake=str(root / "lake"),
        tracking=f"sqlite:///{root / 'mlflow/mlflow.db'}",
        studies=root / "studies",
        cache=root / "cache",
    )
