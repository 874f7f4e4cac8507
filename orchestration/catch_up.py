"""The nightly catch-up of a study, in two runs: the shards are listed, then those that are behind are computed.

The schedule starts the listing, since a run over partitions needs them to exist; a sensor that waits for that listing
starts the rest. Both are switched on by the study's `catch_up`. With `watch` on as well no work is done twice: a run
keeps what another wrote, and scoring holds the pool `gpu`.
"""

import dagster as dg

from assets.corpus.partitions import partitions_name
from assets.corpus.shard_list import shards_table
from assets.lake.lake import Lake
from assets.specs.study import Study
from assets.step.declaring import dagster_name
from assets.study.behind import shards_behind
from assets.study.influence import influence_table
from orchestration.automation import corpus_keys, study_keys
from orchestration.sensors import KEEP_CURRENT
from orchestration.study_states import is_complete

CATCH_UP_TAG = "headwater/catch_up"
"""Run tag of a listing that a catch-up began with: the name of the study whose shards are to follow."""
DEFAULT_CATCH_UP = "0 2 * * *"


def catch_up(study: Study, job) -> tuple[dg.ScheduleDefinition, dg.SensorDefinition]:
    """The schedule, and the sensor that follows it; `job` is the study's."""
    return catch_up_schedule(study, job), catch_up_sensor(study, job)


def catch_up_schedule(study: Study, job) -> dg.ScheduleDefinition:
    """Lists the shards; what is behind is computed by the sensor that waits for the list."""
    automation = study.spec.automation

    @dg.schedule(
        name=dagster_name(f"study_{study.name}_catch_up"),
        job=job,
        cron_schedule=automation.catch_up or DEFAULT_CATCH_UP,
        execution_timezone=automation.timezone,
        default_status=(dg.DefaultScheduleStatus.RUNNING if automation.catch_up else dg.DefaultScheduleStatus.STOPPED),
        description=(
            f"Computes the shards that study {study.name} lacks: new, changed and failed ones. It lists the shards; "
            f"the sensor {followed_by(study)} starts the rest, so switch on both."
        ),
    )
    def list_shards(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        listing = shards_table(study.spec.corpus.name).asset_key
        return dg.RunRequest(asset_selection=[listing], tags=KEEP_CURRENT | {CATCH_UP_TAG: study.name})

    return list_shards


def followed_by(study: Study) -> str:
    """The name of the sensor that the schedule needs."""
    return dagster_name(f"study_{study.name}_catch_up_shards")


def catch_up_sensor(study: Study, job) -> dg.SensorDefinition:
    """Computes what is behind, once the listing of a catch-up is there."""
    name, keys = study.name, [*corpus_keys(study), *study_keys(study)]

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name=followed_by(study),
        monitored_jobs=[job],
        request_job=job,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if study.spec.automation.catch_up else dg.DefaultSensorStatus.STOPPED
        ),
        description=(
            f"Computes what is behind once a catch-up of study {name} has listed the shards; the schedule "
            f"{dagster_name(f'study_{name}_catch_up')} belongs to it."
        ),
    )
    def catch_up_shards(context: dg.RunStatusSensorContext, lake: Lake) -> dg.RunRequest | dg.SkipReason:
        if context.dagster_run.tags.get(CATCH_UP_TAG) != name:
            return dg.SkipReason("Not the listing of a catch-up.")
        behind = shards_behind(lake, study)
        if behind is None:
            return dg.SkipReason(f"Study {name} has never been run: materialize it once, up to its query gradients.")
        told = context.instance.get_materialized_partitions(influence_table(name).asset_key)
        listed = list(context.instance.get_dynamic_partitions(partitions_name(study.spec.corpus.name)))
        due = [shard for shard in listed if shard in behind or shard not in told]  # in the order of Dagster's ranges
        if not listed or (not due and is_complete(lake, study)):
            return dg.SkipReason("Every shard is scored, and rankings and findings are of all of them.")
        # One range from the first to the last: what lies between and is current is kept. Where all shards are scored,
        # what is added up over them is behind: its step failed, or never ran.
        wanted = due or listed
        bounds = {"dagster/asset_partition_range_start": wanted[0], "dagster/asset_partition_range_end": wanted[-1]}
        return dg.RunRequest(asset_selection=keys, tags=KEEP_CURRENT | bounds)

    return catch_up_shards
