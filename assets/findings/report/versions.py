"""Which versions of which tables the page was made from, and what those were made from."""

from __future__ import annotations

from datetime import datetime

from assets.findings.report.page import TableVersion
from assets.lake.log import Entry, TableLog
from assets.lake.tables import Table
from assets.step.step import Step


def versions_of(step: Step) -> list[tuple[datetime, TableVersion]]:
    """Every table that the step has read, with the time at which that version's rows were written."""
    found = []
    for table in sorted(step.tables_read, key=lambda table: table.path):
        entry = _written(step, table)
        marks = sorted(set(step.lake.fingerprints(table, version=step.version(table)).values()))
        version = TableVersion(
            path=table.path,
            version=step.version(table),
            written=f"{entry.time:%Y-%m-%d %H:%M} UTC",
            code_version=str(entry.metadata.get("code_version") or ""),
            fingerprint=marks[0] if len(marks) == 1 else f"{len(marks)} partitions",
        )
        found.append((entry.time, version))
    return found


def tables_behind(step: Step) -> list[tuple[str, str]]:
    """The tables, with their versions, that those which were read were computed from, and that were not read here."""
    behind: dict[str, set[int]] = {}
    for table in step.tables_read:
        for path, version in _written(step, table).inputs.items():
            behind.setdefault(path, set()).add(version)
    read = {table.path for table in step.tables_read}
    return [
        (path, ", ".join(map(str, sorted(versions)))) for path, versions in sorted(behind.items()) if path not in read
    ]


def _written(step: Step, table: Table) -> Entry:
    version = step.version(table)
    log = TableLog(step.lake.place, table.path)
    return log.newest_write(version) or log.entry(version) or Entry(version, {})
