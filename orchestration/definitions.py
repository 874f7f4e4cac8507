"""The Dagster code location: the assets and jobs of every study in the studies directory.

A study file that cannot be read, or that Dagster refuses, is reported and left out; the others load as if it were not
there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import dagster as dg

from assets.lake.damage import first_line
from compute.errors import BadInput
from orchestration.catch_up import catch_up
from orchestration.graph import study_assets_once, study_job
from orchestration.home import Home
from orchestration.left_out import left_out_setting, left_out_studies
from orchestration.maintenance import lake_maintenance, maintenance_schedule
from orchestration.names import shown
from orchestration.resources import resources_of
from orchestration.sensors import observers_of_runs, sensors
from orchestration.studies import LoadedStudy, load_studies


@dg.definitions
def headwater() -> dg.Definitions:
    """Read when the location loads: "Reload definitions" in the UI picks up a new or changed study file."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies: one line per asset and reload
    home, mistake = _home()
    loaded = load_studies(home.studies)
    try:
        definitions = _loadable(home, mistake, loaded)
    except Exception:  # no check of ours foresaw it: find the study, so that only this one is missing
        loaded = _accepted(home, mistake, loaded)
        definitions = _loadable(home, mistake, loaded)
    for sentence in (mistake, *(each.error for each in loaded)):
        if sentence:
            dg.get_dagster_logger("headwater").error(f"Left out: {sentence}")
    return definitions


def _home() -> tuple[Home, str]:
    """Where things are, and what is wrong with the settings of the lake's maintenance."""
    try:
        return Home.from_environment(), ""
    except BadInput as error:
        mistake = str(error)
    return Home.without_maintenance(), mistake  # raises a mistake about anything else again


def _loadable(home: Home, mistake: str, loaded: Sequence[LoadedStudy]) -> dg.Definitions:
    """Raises at once what Dagster finds wrong with them, while a study can still be left out.

    With a `mistake` in its settings there is no maintenance, which might remove what should be kept.
    """
    studies = [each.study for each in loaded if each.study]
    jobs = {study.name: study_job(study) for study in studies}
    catch_ups = [catch_up(study, jobs[study.name]) for study in studies]
    definitions = dg.Definitions(
        assets=[
            *study_assets_once(studies),
            *left_out_studies(loaded),
            *([left_out_setting(mistake)] if mistake else []),
        ],
        jobs=[*jobs.values(), *([] if mistake else [lake_maintenance])],
        sensors=[*sensors(studies), *observers_of_runs(), *(sensor for _, sensor in catch_ups)],
        schedules=[*(schedule for schedule, _ in catch_ups), *([] if mistake else [maintenance_schedule(home)])],
        resources=resources_of(home),
        executor=_executor(),
    )
    dg.Definitions.validate_loadable(definitions)
    return definitions


def _accepted(home: Home, mistake: str, loaded: Iterable[LoadedStudy]) -> list[LoadedStudy]:
    """The same, but with a sentence in place of each study that Dagster refuses next to those before it."""
    accepted: list[LoadedStudy] = []
    _loadable(home, mistake, accepted)  # raises where it is not about a study
    for each in loaded:
        try:
            _loadable(home, mistake, [*accepted, each])
            accepted.append(each)
        except Exception as error:
            sentence = f"{each.path}: Dagster refuses what it declares: {first_line(error)}"
            accepted.append(LoadedStudy(each.path, error=shown(sentence)))
    return accepted


def _executor() -> dg.ExecutorDefinition:
    # One step at a time: each uses every core. A forkserver that has imported the heavy libraries starts a step in
    # under a second.
    preload = ["torch", "transformers", "polars", "deltalake", "altair", "mlflow"]
    preload += ["mlflow.store.tracking.sqlalchemy_store", "orchestration.definitions"]
    return dg.multiprocess_executor.configured(
        {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": preload}}}
    )
