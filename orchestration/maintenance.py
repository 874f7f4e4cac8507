"""The weekly maintenance of the lake as a Dagster job: compaction, and removal of what outlived the retention."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import dagster as dg

from assets.lake.lake import Lake
from assets.lake.maintenance import Report, maintain_lake
from compute.errors import BadInput
from orchestration.home import Home

DEFAULT_MAINTENANCE = "0 4 * * 0"
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dg.op(description="Joins small files of every table and removes versions older than the lake's retention.")
def maintain_tables(context: dg.OpExecutionContext, lake: Lake) -> None:
    def told(report: Report, number: int, total: int) -> None:
        context.log.info(f"{number} of {total}: {report.table}: {_sentence(report)}")

    commit = {"dagster_run_id": context.run_id}
    try:
        reports = maintain_lake(lake, oldest_unfinished(context.instance, context.run_id), on_table=told, commit=commit)
    except BadInput as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    context.add_output_metadata(
        {
            "tables": dg.MetadataValue.md(_grid(reports)),
            "files removed": sum(report.files_removed for report in reports),
            "bytes removed": sum(report.bytes_removed for report in reports),
            "left out": sum(bool(report.note) for report in reports),
        }
    )


@dg.job(name="lake_maintenance", description="Compacts and vacuums every table of the lake, within its retention.")
def lake_maintenance() -> None:
    maintain_tables()


def maintenance_schedule(home: Home) -> dg.ScheduleDefinition:
    """Switched on where HEADWATER_MAINTENANCE says when; the UI can switch it on and off too."""
    return dg.ScheduleDefinition(
        name="lake_maintenance_weekly",
        job=lake_maintenance,
        cron_schedule=home.maintenance or DEFAULT_MAINTENANCE,
        default_status=dg.DefaultScheduleStatus.RUNNING if home.maintenance else dg.DefaultScheduleStatus.STOPPED,
        description="Compaction and vacuum of all tables; HEADWATER_MAINTENANCE (a cron schedule) switches it on.",
    )


def oldest_unfinished(instance: dg.DagsterInstance, own_run: str = "") -> datetime | None:
    """When the oldest run or backfill that may still read or write the lake began."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    began = [record.create_timestamp for record in records if record.dagster_run.run_id != own_run]
    began += [datetime.fromtimestamp(each.backfill_timestamp, UTC) for each in unfinished_backfills(instance)]
    return min(began, default=None)


def unfinished_backfills(instance: dg.DagsterInstance) -> Iterator:
    """The backfills that may still start runs."""
    for backfill in instance.get_backfills():
        if not backfill.status.value.startswith(("COMPLETED", "FAILED", "CANCELED")):
            yield backfill


def _grid(reports: Iterable[Report]) -> str:
    lines = [
        f"| {each.table} | {each.files_before} → {each.files_after} | {each.files_removed} | {each.bytes_removed:,} "
        f"| {each.note} |"
        for each in reports
    ]
    return "\n".join(["| table | files | removed | bytes removed | |", "|---|---|---|---|---|", *lines])


def _sentence(report: Report) -> str:
    joined = (
        f"{report.files_before} files, now {report.files_after}; " if report.files_before != report.files_after else ""
    )
    return f"{joined}{report.files_removed} old files removed{f'; {report.note}' if report.note else ''}"
