"""`headwater run`: a study's job, in this process, against the same Dagster instance that the UI shows."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import dagster as dg
import psutil
from dagster import BetaWarning
from dagster._core.execution import compute_logs

from assets.specs.study import Study
from assets.step.step import REFIT_TAG, REUSE_TAG
from assets.tracking.tracking import Tracking
from orchestration.graph import job_name, shard_keys, shards_key, study_assets_once, study_job

PROCESS_TAG = "headwater/process"
"""Run tag: which process works on a run of the command line, so that a killed one is found."""
INTERRUPTED = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
STOPPED = "stopped; what was finished is kept, and the same command goes on from there"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class StepFailed(Exception):
    """A step that failed: `sentence` for a user's mistake, otherwise the whole error with its traceback."""

    step: str
    sentence: str
    is_users_mistake: bool

    def __str__(self) -> str:
        return self.sentence if self.is_users_mistake else f"step {self.step} failed:\n{self.sentence}"


def run_study(
    study: Study,
    instance: dg.DagsterInstance,
    resources: dict,
    *,
    recompute: bool = False,
    refit: bool = False,
    others: Iterable[Study] = (),
) -> list[str]:
    """Registers the corpus's shards, then materializes everything else; the ids of both Dagster runs.

    What is already there for the same inputs is kept, unless `recompute`. Pinned samples (tokenizer, training,
    curvature, ablation) are drawn again with `refit`. `others` are the studies that it may be compared with. Raises
    StepFailed for the first step that failed; what was finished before it stays.
    """
    _hush_libraries()
    clear_after_killed_runs(instance, resources["tracking"])
    definitions = dg.Definitions(
        assets=study_assets_once([study], others), jobs=[study_job(study)], resources=resources
    )
    job = definitions.resolve_job_def(job_name(study))
    tags = {
        REUSE_TAG: str(not recompute).lower(),
        **({REFIT_TAG: "true"} if refit else {}),
        PROCESS_TAG: _process(os.getpid()),
    }
    listing = _execute(job, instance, tags, [shards_key(study)])
    shards = shard_keys(study, instance)
    tags |= {"dagster/asset_partition_range_start": shards[0], "dagster/asset_partition_range_end": shards[-1]}
    rest = [key for key in job.asset_layer.executable_asset_keys if key != shards_key(study)]
    return [listing, _execute(job, instance, tags, rest)]


def failed_checks(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> list[str]:
    """What is wrong with tables though the runs ended well, a sentence each: checks that block nothing, and problems of
    earlier runs that these have not looked at again."""
    told = []
    for run_id in run_ids:
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            evaluation = entry.dagster_event.event_specific_data
            if not evaluation.passed:
                table = evaluation.asset_key.to_user_string()
                told.append(f"{table}, {evaluation.check_name}: {evaluation.description}")
    return told


def clear_after_killed_runs(instance: dg.DagsterInstance, tracking: Tracking) -> list[str]:
    """Ends runs of this command whose process is gone, and frees their places in pools; their ids.

    A process that is killed cannot say so: its run would stay "started", and its place in the pool taken, for ever.
    """
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    ended = []
    for run in instance.get_runs(unfinished):
        process = run.tags.get(PROCESS_TAG)
        if process and process.startswith(f"{socket.gethostname()}:") and not _is_alive(process):
            instance.report_run_failed(run, message="The process of `headwater run` ended without a word.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            tracking.close(run.run_id, killed=True)
            ended.append(run.run_id)
    return ended


def _process(pid: int) -> str:
    """Host, process id and its start, since ids are used again."""
    return f"{socket.gethostname()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def _is_alive(process: str) -> bool:
    try:
        return _process(int(process.split(":")[1])) == process
    except psutil.NoSuchProcess:
        return False


def _hush_libraries() -> None:
    """Notices of libraries about themselves (beta parameters, database set-up) are no news of the study."""
    warnings.filterwarnings("ignore", category=BetaWarning)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _followed_in_a_session_of_their_own() -> Iterator[None]:
    """Dagster's processes that print what a step prints are out of Ctrl-C's reach while open: it would end them before
    the step, with a traceback of theirs on the terminal."""
    usual = compute_logs.subprocess
    compute_logs.subprocess = SimpleNamespace(Popen=partial(usual.Popen, start_new_session=True))
    try:
        yield
    finally:
        compute_logs.subprocess = usual


def _execute(job: dg.JobDefinition, instance: dg.DagsterInstance, tags: dict, keys: Sequence[dg.AssetKey]) -> str:
    with _followed_in_a_session_of_their_own():
        result = job.execute_in_process(
            instance=instance, tags=tags, asset_selection=list(keys), run_config=QUIET, raise_on_error=False
        )
    if any(map(_is_interruption, result.all_events)):
        instance.report_run_canceled(result.dagster_run, message="Stopped by Ctrl-C.")
        raise KeyboardInterrupt
    for event in result.all_events:
        if event.is_step_failure:
            raise _failure(event)
    if not result.success:
        raise StepFailed(job.name, "the run ended without success; see its events in the Dagster UI", False)
    return result.run_id


def _is_interruption(event: dg.DagsterEvent) -> bool:
    """Dagster takes an interrupted run that nobody cancelled in its UI for a failed one."""
    reason = event.job_failure_data.failure_reason if event.is_job_failure else None
    return reason is not None and reason.name == "UNEXPECTED_TERMINATION"


def _failure(event: dg.DagsterEvent) -> StepFailed:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return StepFailed(event.step_key, data.user_failure_data.description, True)
    error = data.error
    while error and error.cls_name == "RetryRequestedFromPolicy" and error.cause:
        error = error.cause  # retries are over: what went wrong is what was retried
    return StepFailed(event.step_key, error.to_string() if error else "unknown error", False)
