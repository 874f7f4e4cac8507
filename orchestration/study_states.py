"""`headwater studies`: each study file and how far its study has come, as the logs of its tables tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.corpus.shard_list import listed_shards
from assets.findings.graph import outdated_findings
from assets.findings.report.report import report_table
from assets.lake.damage import first_line
from assets.lake.log import TableLog
from assets.lake.maintenance import table_paths
from assets.lake.tables import Table
from assets.queries.queries import queries_stamp, queries_table
from assets.step.stored_now import StoredNow
from assets.study.behind import BEHIND, is_begun, shard_states
from assets.study.candidates import candidates_table
from assets.study.query_gradients import gradients_stamp, query_gradients_table
from assets.study.rankings import rankings_table
from compute.errors import BadInput
from orchestration.names import shown
from orchestration.studies import LoadedStudy

if TYPE_CHECKING:
    from assets.lake.lake import Lake
    from assets.specs.study import Study

BROKEN = "broken"
NOT_RUN = "not run"
PARTLY = "partly scored"
OLD_RANKINGS = "rankings older than scores"
OLD_FINDINGS = "findings older than scores"
CHANGED = "changed since scored"
COMPLETE = "complete"


@dataclass(frozen=True)
class StudyState:
    """One line of the list. `problem` says what is wrong with a study file, or with its tables."""

    study: str
    file: str
    state: str
    shards: int | None = None
    scored_shards: int | None = None  # as the corpus, the model and the queries are now
    stale_shards: int | None = None  # scored, but before one of these changed
    last_materialized: datetime | None = None
    problem: str | None = None


def study_states(lake: Lake, loaded: Sequence[LoadedStudy]) -> list[StudyState]:
    """The state of every study file. A broken one, or one whose tables cannot be read, leaves the others."""
    return [_state(lake, each) for each in loaded]


def state_json(state: StudyState) -> dict[str, Any]:
    at = state.last_materialized
    return asdict(state) | {"last_materialized": at.isoformat() if at else None}


def print_states(states: Sequence[StudyState], directory: Path) -> None:
    """A table, and below it what is wrong with the studies that are broken."""
    from rich.markup import escape
    from rich.table import Table as Grid

    from orchestration.results.printing import console as there

    console = there()
    if not states:
        told = f"No study files in {directory}; headwater run STUDY.yaml registers one"
        console.print(told, markup=False, soft_wrap=True)
        return
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("study", "state", "shards scored", "last materialized"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("file", overflow="fold")
    for state in states:
        at = f"{state.last_materialized.astimezone():%Y-%m-%d %H:%M}" if state.last_materialized else ""
        style = "red" if state.problem else None
        grid.add_row(escape(state.study), state.state, _counted(state), at, escape(_from_here(state.file)), style=style)
    console.print(grid)
    for state in states:
        if state.problem:
            console.print(f"\n{state.problem}", markup=False, soft_wrap=True)


def _counted(state: StudyState) -> str:
    if state.shards is None:
        return ""
    stale = f", {state.stale_shards} stale" if state.stale_shards else ""
    return f"{state.scored_shards} of {state.shards}{stale}"


def _from_here(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _state(lake: Lake, loaded: LoadedStudy) -> StudyState:
    from deltalake.exceptions import DeltaError

    file = shown(str(loaded.file))
    if loaded.study is None:
        return StudyState(shown(loaded.path.stem), file, BROKEN, problem=loaded.error)
    try:
        return _state_in_lake(lake, loaded.study, file)
    except (BadInput, DeltaError, OSError) as error:
        sentence = str(error) if isinstance(error, BadInput) else f"study {loaded.study.name}: {first_line(error)}"
        return StudyState(loaded.study.name, file, "its tables cannot be read", problem=sentence)


def _state_in_lake(lake: Lake, study: Study, file: str) -> StudyState:
    at = _last_materialized(lake, study.name)
    if at is None:
        return StudyState(study.name, file, NOT_RUN)
    shards = len(listed_shards(lake, study.spec.corpus.name))
    counts = Counter(shard_states(lake, study).values() if is_begun(lake, study) else ["missing"] * shards)
    done = shards - sum(counts[state] for state in BEHIND)
    word = CHANGED if shards and done == shards and _has_changed(lake, study) else _word(lake, study, shards, done)
    return StudyState(study.name, file, word, shards, done, counts["stale"], at)


def _has_changed(lake: Lake, study: Study) -> bool:
    """Whether the study's file or that of its queries says otherwise than what its gradients were taken of: its shards
    are scored along these, and no table tells."""
    now = StoredNow(lake)
    if now.fingerprint(query_gradients_table(study.name)) != gradients_stamp(now, study):
        return True
    try:
        return now.fingerprint(queries_table(study.spec.queries.name)) != queries_stamp(study)
    except BadInput:
        return False  # a file that is gone has not made what is there another


def _word(lake: Lake, study: Study, shards: int, scored: int) -> str:
    if scored < shards or not shards:
        return PARTLY
    if not _has(lake, rankings_table(study.name)):
        return "no rankings"
    if not _rankings_are_current(lake, study.name):
        return OLD_RANKINGS
    return OLD_FINDINGS if outdated_findings(lake, study) or not _has(lake, report_table(study.name)) else COMPLETE


def is_complete(lake: Lake, study: Study) -> bool:
    """Whether rankings and findings are of all shards as they are scored now."""
    return _word(lake, study, 1, 1) == COMPLETE


def _rankings_are_current(lake: Lake, study: str) -> bool:
    """Whether the candidates that the rankings were merged from are those of now, by content."""
    rankings, candidates = rankings_table(study), candidates_table(study)
    newest = lake.version(rankings)
    written = TableLog(lake.place, rankings.path).newest_write(newest) if newest is not None else None
    read = written.inputs.get(candidates.path) if written else None
    if read is None:
        return False
    try:
        return lake.fingerprints(candidates, version=read) == lake.fingerprints(candidates)
    except BadInput:
        return False  # what they were merged from is no longer in the log


def _has(lake: Lake, table: Table) -> bool:
    return lake.version(table) is not None


def _last_materialized(lake: Lake, study: str) -> datetime | None:
    """The time of the newest write to one of the study's tables."""
    times = []
    for path in table_paths(lake, f"study/{study}"):
        log = TableLog(lake.place, path)
        written = log.newest_write(log.newest_version())
        times += [written.time] if written else []
    return max(times, default=None)
