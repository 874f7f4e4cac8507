"""study/<study>/influence_by_query: its table, and which of its runs are live.

A run is one partition of the table: the scores of some shards, by method, query and falling score. The newest write's
metadata names the live runs with their rows and the commits that wrote them, and each of those commits the shards that
its run holds, with their fingerprints. So the logs alone tell what the table holds, a write of one run does not grow
with the number of shards, and what a killed or overtaken step left behind is no part of the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from assets.lake.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.log import Entry, TableLog
from assets.lake.tables import Column, Table
from assets.step.fingerprints import fingerprint

if TYPE_CHECKING:
    from assets.lake.lake import Lake

CODE_VERSION = "1"
#: Where the commits name the live runs, and the shards of the run that they write.
RUNS, SHARDS, LAYOUT = "live_runs", "run_shards", "run_layout"


def influence_by_query_table(study: str) -> Table:
    return Table(
        key=("study", study, "influence_by_query"),
        grain="one row per method, query and document, clustered by query",
        columns=(
            Column("run", pa.string(), "Sorted run that holds the row; only the live ones of the newest commit count."),
            METHOD,
            QUERY_ID,
            Column("score", pa.float32(), "Positive: more of the document would lower the completion's loss."),
            DOCUMENT_ID,
            SHARD,
            STAMP,
        ),
        partition_by=("run",),  # its rows are written by method, query and falling score
        row_group_rows=20_000,
        file_bytes=32 * 2**20,
        several_fingerprints=True,
    )


@dataclass(frozen=True)
class Run:
    """The scores of `shards` (shard -> fingerprint of its scores), written by the commit `version`."""

    name: str
    shards: Mapping[str, str]
    rows: int
    version: int


def run_name(shards: Mapping[str, str]) -> str:
    """The same for the same scores, so that a step that is done again writes the same partition."""
    return fingerprint("run", CODE_VERSION, sorted(shards.items()))


def told_of(live: Iterable[Run], name: str = "", shards: Mapping[str, str] | None = None, rows: int = 0) -> dict:
    """What a commit's metadata says: the live runs, the run `name` that it writes itself among them."""
    told: dict[str, list[int | None]] = {run.name: [run.version, run.rows] for run in live}
    if name:
        told[name] = [None, rows]
    return {RUNS: json.dumps(told), SHARDS: json.dumps(shards or {}), LAYOUT: CODE_VERSION}


def live_runs(lake: Lake, table: Table, version: int) -> dict[str, Run]:
    """The live runs of a version of the table by name, from its log alone.

    Not those of another code version, nor one whose rows are not all there: a step that ran beside the writer's may
    have emptied it.
    """
    log = TableLog(lake.place, table.path)
    newest = log.newest_write(version)
    if newest is None:
        return {}
    rows = lake.partition_rows(table, version=version)
    told = json.loads(newest.metadata.get(RUNS) or "{}")
    found = (_run(log, newest, name, written, count) for name, (written, count) in told.items())
    return {run.name: run for run in found if run and rows.get(run.name, 0) == run.rows}


def holds(runs: Mapping[str, Run], fingerprints: Mapping[str, str]) -> bool:
    """Whether the runs hold exactly the shards of these fingerprints, each once."""
    held = [pair for run in runs.values() for pair in run.shards.items()]
    return len(held) == len(fingerprints) and dict(held) == dict(fingerprints)


def _run(log: TableLog, newest: Entry, name: str, written: int | None, rows: int) -> Run | None:
    entry = newest if written is None else log.entry(written)
    if entry is None or entry.metadata.get(LAYOUT) != CODE_VERSION:
        return None
    return Run(name, json.loads(entry.metadata.get(SHARDS) or "{}"), rows, entry.version)
