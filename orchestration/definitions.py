"""The Dagster code location: the assets and jobs of every study in the studies directory.

A study file that cannot be read is reported and left out; the others load as if it were not there.
"""

from __future__ import annotations

import re
import warnings

import dagster as dg

from orchestration.catch_up import catch_up
from orchestration.graph import study_assets_once, study_job
from orchestration.home import Home
from orchestration.maintenance import lake_maintenance, maintenance_schedule
from orchestration.resources import resources_of
from orchestration.sensors import lab_book_sensors, sensors
from orchestration.studies import LoadedStudy, load_studies


@dg.definitions
def headwater() -> dg.Definitions:
    """Read when the location loads: "Reload definitions" in the UI picks up a new or changed study file."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies: one line per asset and reload
    home = Home.from_environment()
    loaded = load_studies(home.studies)
    studies = [each.study for each in loaded if each.study]
    jobs = {study.name: study_job(study) for study in studies}
    catch_ups = [catch_up(study, jobs[study.name]) for study in studies]
    return dg.Definitions(
        assets=[*study_assets_once(studies), *(_left_out(each) for each in loaded if each.error)],
        jobs=[*jobs.values(), lake_maintenance],
        sensors=[*sensors(studies), *lab_book_sensors(), *(sensor for _, sensor in catch_ups)],
        schedules=[*(schedule for schedule, _ in catch_ups), maintenance_schedule(home)],
        resources=resources_of(home),
        executor=_executor(),
    )


def _left_out(loaded: LoadedStudy) -> dg.AssetSpec:
    """A study file with a mistake, shown among the assets with what is wrong; the other studies work."""
    dg.get_dagster_logger("headwater").error(f"This study is left out: {loaded.error}")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", loaded.path.stem)
    mistakes = "\n".join(f"- {line}" for line in loaded.error.splitlines())
    return dg.AssetSpec(
        ["study", name],
        group_name="studies_left_out",
        description=f"**This study is left out.**\n\n{mistakes}\n\nMend the file, then reload the definitions.",
        kinds={"yaml"},
        metadata={"file": dg.MetadataValue.path(str(loaded.path))},
    )


def _executor() -> dg.ExecutorDefinition:
    # One step at a time: each uses every core. A forkserver that has imported the heavy libraries starts a step in
    # under a second.
    preload = ["torch", "transformers", "polars", "deltalake", "altair", "mlflow"]
    preload += ["mlflow.store.tracking.sqlalchemy_store", "orchestration.definitions"]
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": preload}}}
    )
