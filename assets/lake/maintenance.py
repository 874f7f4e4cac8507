"""Maintenance of the lake's tables: small files joined, and files that nobody can need any more removed.

Removed are the files of versions older than the retention, and what killed writers left behind; the log stays, so that
what a row came from can always be told. Kept for longer are the versions that a pinned sample names (a checkpoint is
trained again from exactly these documents). Nothing is removed while a run is unfinished that began longer ago than the
retention: it may still read a version, or commit a file, of that time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from assets.lake.damage import first_line, is_damage
from assets.lake.log import TableLog
from assets.lake.place import LOG
from assets.lake.writing import writer_properties
from compute.errors import BadInput

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from assets.lake.lake import Lake

#: Column of a pinned sample that names the version of its corpus's documents.
PINNED = "documents_version"


@dataclass(frozen=True)
class Report:
    """What maintenance did to one table."""

    table: str
    files_before: int = 0  # data files of the newest version
    files_after: int = 0
    files_removed: int = 0  # files of earlier versions and of killed writers
    bytes_removed: int = 0
    versions_kept: tuple[int, ...] = ()  # beyond the retention, because a pinned sample names them
    note: str = ""  # what was left out, and why


def table_paths(lake: Lake, below: str = "") -> list[str]:
    """The paths of all tables in the lake, or in a directory of it: directories that hold a Delta log."""
    inside = [info for info in lake.place.listed(below) if not info.is_file]
    if any(info.base_name == LOG for info in inside):
        return [below]
    return [path for info in inside for path in table_paths(lake, info.path)]


def maintain_lake(
    lake: Lake,
    oldest_unfinished: datetime | None = None,
    *,
    on_table: Callable[[Report, int, int], None] | None = None,
    commit: Mapping[str, str] | None = None,
) -> list[Report]:
    """Maintains every table. A table that cannot be maintained says so in its report, and the others go on.

    `oldest_unfinished` is when the oldest unfinished run or backfill began (None: there is none). `on_table(report,
    number, total)` is called after each table; `commit` goes into the metadata of the commits.
    """
    check_retention(lake)
    paths = table_paths(lake)
    pinned, holds = pinned_versions(lake, paths)
    reports = []
    for number, path in enumerate(paths, 1):
        hold = _too_old(lake, oldest_unfinished) or holds.get(path, "")
        report = _report_of(lake, path, keep_versions=pinned.get(path, ()), hold=hold, commit=commit)
        reports.append(report)
        if on_table is not None:
            on_table(report, number, len(paths))
    return reports


def maintain(
    lake: Lake,
    path: str,
    *,
    keep_versions: Collection[int] = (),
    hold: str = "",
    commit: Mapping[str, str] | None = None,
) -> Report:
    """Brings one table's retention up to date, joins its small files, and removes those that nobody can need.

    Nothing is removed where `hold` gives a reason not to.
    """
    check_retention(lake)
    table = _opened(lake, path)
    _set_retention(lake, table, commit)
    before = _file_count(table)
    note = _compact(lake, path, table, commit)
    report = Report(path, before, _file_count(_opened(lake, path)), note=note)
    if hold:
        return replace(report, note="; ".join(filter(None, (note, f"nothing removed: {hold}"))))
    return _vacuumed(lake, path, report, keep_versions, commit)


def check_retention(lake: Lake) -> None:
    """Refuses a retention under which files would go that a reader or writer of this moment is at work on."""
    if lake.retention_hours < 1:
        raise BadInput(
            f"retention_hours is {lake.retention_hours}: it must be at least 1, and longer than the longest backfill, "
            "or maintenance removes files that are in use"
        )


def pinned_versions(lake: Lake, paths: Collection[str]) -> tuple[dict[str, set[int]], dict[str, str]]:
    """By path of a table: its versions that the pinned samples among the tables `paths` name, and, where a sample
    cannot be read, why no version of it may go.
    """
    pinned: dict[str, set[int]] = {}
    holds: dict[str, str] = {}
    documents = [path for path in paths if path.split("/")[-1] == "documents"]
    for sample in (path for path in paths if path.split("/")[-1] == "sample"):
        try:
            for path, version in _pinned_by(lake, sample, documents):
                pinned.setdefault(path, set()).add(version)
        except BaseException as error:
            if not _is_of_the_table(error):
                raise
            holds |= dict.fromkeys(documents, f"{sample} cannot be read, and may name versions of it")
    return pinned, holds


def _pinned_by(lake: Lake, path: str, documents: Collection[str]) -> Iterator[tuple[str, int]]:
    """What a sample names; where its log does not say which corpus it was drawn from, any of them could be meant."""
    import polars as pl

    table = _opened(lake, path)
    if PINNED not in [field.name for field in table.schema().fields] or not _file_count(table):
        return
    frame = pl.scan_delta(table, use_pyarrow=not lake.place.polars_can_scan)
    written = TableLog(lake.place, path).newest_write(table.version())
    read = [name for name in documents if written and name in written.inputs] or documents
    for version in frame.select(PINNED).unique().collect()[PINNED]:
        yield from ((name, version) for name in read)


def _too_old(lake: Lake, oldest_unfinished: datetime | None) -> str:
    if oldest_unfinished and oldest_unfinished < datetime.now(UTC) - timedelta(hours=lake.retention_hours):
        began = f"{oldest_unfinished.astimezone():%Y-%m-%d %H:%M}"
        return f"a run that began {began}, longer ago than the retention, is unfinished"
    return ""


def _report_of(lake: Lake, path: str, **options) -> Report:
    try:
        return maintain(lake, path, **options)
    except BaseException as error:
        if not _is_of_the_table(error):
            raise
        return Report(path, note=f"not maintained: {first_line(error)}")


def _is_of_the_table(error: BaseException) -> bool:
    """Whether it is this table's files that are at fault, so that the others can go on."""
    from deltalake.exceptions import DeltaError

    return isinstance(error, DeltaError | OSError | BadInput) or is_damage(error)


def _set_retention(lake: Lake, table: DeltaTable, commit) -> None:
    """Gives the table the retention that is configured now; one of an earlier configuration keeps its own otherwise."""
    from deltalake import CommitProperties

    stored, wanted = table.metadata().configuration, lake.retention()
    changed = {name: value for name, value in wanted.items() if stored.get(name) != value}
    if changed:
        table.alter.set_table_properties(
            changed, commit_properties=CommitProperties(custom_metadata=dict(commit or {}))
        )


def _compact(lake: Lake, path: str, table: DeltaTable, commit) -> str:
    """Joins small files of a partition; returns why not, where another writer was faster."""
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    rows = _row_group_rows(lake, path, table)
    try:
        table.optimize.compact(
            writer_properties=writer_properties(pa.schema(table.schema().to_arrow()), rows),
            commit_properties=CommitProperties(custom_metadata=dict(commit or {})),
        )
    except CommitFailedError:
        return "its files were not joined, since a run wrote them meanwhile"
    return ""


def _row_group_rows(lake: Lake, path: str, table: DeltaTable) -> int | None:
    """The rows of a row group as the writer chose them, since look-ups live on them; None: nothing is to be joined."""
    import pyarrow.parquet as pq

    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    partitions = {tuple(value for name, value in file.items() if name.startswith("partition.")) for file in files}
    if len(files) == len(partitions):
        return None
    largest = max(files, key=lambda file: file["size_bytes"])["path"]
    with lake.place.files(path).open_input_file(unquote(largest)) as stream:
        groups = pq.ParquetFile(stream).metadata
        return groups.row_group(0).num_rows if groups.num_row_groups else None


def _vacuumed(lake: Lake, path: str, report: Report, keep_versions: Collection[int], commit) -> Report:
    from deltalake import CommitProperties

    table = _opened(lake, path)
    kept = sorted(version for version in keep_versions if _is_readable(lake, path, version))
    options = {"retention_hours": lake.retention_hours, "full": True, "keep_versions": kept or None}
    report = replace(report, versions_kept=tuple(kept))
    if not table.vacuum(dry_run=True, **options):
        return report  # and no commit that says so
    before = _data_files(lake, path)
    table.vacuum(dry_run=False, commit_properties=CommitProperties(custom_metadata=dict(commit or {})), **options)
    after = _data_files(lake, path)
    removed = [size for name, size in before.items() if name not in after]
    return replace(report, files_removed=len(removed), bytes_removed=sum(removed))


def _opened(lake: Lake, path: str, version: int | None = None) -> DeltaTable:
    from deltalake import DeltaTable

    return DeltaTable(f"{lake.place.root}/{path}", version=version, storage_options=lake.place.options)


def _is_readable(lake: Lake, path: str, version: int) -> bool:
    """Whether the log still tells what this version consists of."""
    from deltalake.exceptions import DeltaError

    try:
        _opened(lake, path, version)
    except (DeltaError, OSError, ValueError):
        return False
    return True


def _file_count(table: DeltaTable) -> int:
    return table.get_add_actions().num_rows


def _data_files(lake: Lake, path: str) -> dict[str, int]:
    listed = lake.place.listed(path, deep=True)
    return {info.path: info.size for info in listed if info.is_file and f"/{LOG}/" not in info.path}
