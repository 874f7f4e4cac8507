"""Sensors: one that looks at a corpus's files, those that evaluate the conditions of `automation.py`, and those that
tidy up after runs that ended badly."""

import time
from collections.abc import Iterable, Iterator

import dagster as dg

from assets.corpus.shard_list import shards_table
from assets.corpus.source_state import source_state
from assets.lake.lake import Lake
from assets.specs.study import Study
from assets.step.declaring import dagster_name
from assets.step.step import REUSE_TAG
from assets.tracking.tracking import Tracking
from compute.errors import BadInput
from orchestration.automation import corpus_keys, study_keys
from orchestration.run import clear_after_killed_runs

KEEP_CURRENT = {REUSE_TAG: "true"}
"""Runs that nobody started by hand keep what is current."""
SOURCE_TAG = "headwater/source"
"""Run tag of a listing that the files sensor asked for: the digest of the files as it saw them."""
SECONDS_BEFORE_ANOTHER_TRY = 600


def sensors(studies: Iterable[Study]) -> Iterator[dg.SensorDefinition]:
    """The sensors of all studies; those of a corpus once, switched on where any of its studies asks for it."""
    studies = list(studies)
    by_corpus: dict[str, list[Study]] = {}
    for study in studies:
        by_corpus.setdefault(study.spec.corpus.name, []).append(study)
    for sharing in by_corpus.values():
        watching = [study for study in sharing if study.spec.automation.watch]
        yield _files_sensor((watching or sharing)[0])
        yield _ingest_sensor((watching or sharing)[0])
    for study in studies:
        yield _score_sensor(study)


def _status(study: Study) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if study.spec.automation.watch else dg.DefaultSensorStatus.STOPPED


def _files_sensor(study: Study) -> dg.SensorDefinition:
    corpus, automation = study.spec.corpus, study.spec.automation

    @dg.sensor(
        name=dagster_name(f"corpus_{corpus.name}_files"),
        target=dg.AssetSelection.assets(shards_table(corpus.name).asset_key),
        minimum_interval_seconds=automation.every_seconds,
        default_status=_status(study),
        description=f"Looks at the source files of corpus {corpus.name}, and lists its shards when they have changed.",
    )
    def files(context: dg.SensorEvaluationContext, lake: Lake) -> dg.RunRequest | dg.SkipReason:
        try:
            state = source_state(corpus, study.base)
        except BadInput as error:  # the files are gone: a directory that is not mounted buries no corpus
            sentence = f"{error}; the shards stay as they were last listed"
            context.log.error(sentence)
            return dg.SkipReason(sentence)
        listed = lake.version(shards_table(corpus.name)) is not None  # or the corpus was deleted meanwhile
        if listed and state.digest == context.cursor and not _has_failed(context.instance, state.digest):
            return dg.SkipReason(f"{state.files} source files, all as they were when the shards were last listed.")
        if 0 <= state.seconds_since_change < automation.settle_seconds:
            return dg.SkipReason(f"{state.newest} changed a moment ago; waiting until it is left alone.")
        context.update_cursor(state.digest)
        return dg.RunRequest(tags=KEEP_CURRENT | {SOURCE_TAG: state.digest})

    return files


def _has_failed(instance: dg.DagsterInstance, source: str) -> bool:
    """Whether the newest listing of these very files failed, a while ago: it is then tried again."""
    found = instance.get_run_records(dg.RunsFilter(tags={SOURCE_TAG: source}), limit=1)
    if not found or found[0].dagster_run.status != dg.DagsterRunStatus.FAILURE:
        return False
    return time.time() - found[0].create_timestamp.timestamp() > SECONDS_BEFORE_ANOTHER_TRY


def _ingest_sensor(study: Study) -> dg.AutomationConditionSensorDefinition:
    corpus = study.spec.corpus.name
    return dg.AutomationConditionSensorDefinition(
        dagster_name(f"corpus_{corpus}_ingest"),
        target=dg.AssetSelection.assets(*corpus_keys(study)),
        default_status=_status(study),
        minimum_interval_seconds=study.spec.automation.every_seconds,
        run_tags=KEEP_CURRENT,
        description=f"Reads and cuts shards of corpus {corpus} whose source files are new, changed or gone.",
    )


def _score_sensor(study: Study) -> dg.AutomationConditionSensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        dagster_name(f"study_{study.name}_score"),
        target=dg.AssetSelection.assets(*study_keys(study)),
        default_status=_status(study),
        minimum_interval_seconds=study.spec.automation.every_seconds,
        run_tags=KEEP_CURRENT,
        description=f"Scores shards for study {study.name} when their documents are new, then ranks.",
    )


def observers_of_runs() -> Iterator[dg.SensorDefinition]:
    """Always on: what a process that fails or is killed cannot do itself, in MLflow and in Dagster."""
    yield _killed_runs_sensor()
    for status, killed in ((dg.DagsterRunStatus.FAILURE, False), (dg.DagsterRunStatus.CANCELED, True)):
        yield _lab_book_sensor(status, killed)


def _lab_book_sensor(status: dg.DagsterRunStatus, killed: bool) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        run_status=status,
        name=f"lab_book_after_{status.value.lower()}",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends what a failed or cancelled run left running in MLflow.",
    )
    def lab_book(context: dg.RunStatusSensorContext, tracking: Tracking) -> None:
        tracking.close(context.dagster_run.run_id, killed=killed)

    return lab_book


def _killed_runs_sensor() -> dg.SensorDefinition:
    @dg.sensor(
        name="killed_runs",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs of the command line whose process is gone, and frees their places in pools.",
    )
    def killed_runs(context: dg.SensorEvaluationContext, tracking: Tracking) -> dg.SkipReason:
        ended = clear_after_killed_runs(context.instance, tracking)
        return dg.SkipReason(f"Ended: {', '.join(ended)}." if ended else "No run was killed.")

    return killed_runs
