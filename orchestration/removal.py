"""`headwater delete`: what a study alone refers to, or what no study refers to any more, is named and then removed.

A part of the lake is what studies share by name: study/<name>, queries/<name>, curvature/<name>, model/<name> and
corpus/<name>, with all tables in it. Files go first, then what Dagster knows of them, then the study's registration:
after a removal that was killed, the same command finds the rest.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.corpus.partitions import partitions_name
from assets.lake.damage import first_line
from assets.lake.maintenance import table_paths
from assets.specs.mistakes import near_matches
from assets.specs.study import Study
from compute.errors import BadInput
from orchestration.maintenance import UNFINISHED, unfinished_backfills
from orchestration.resources import resources_of
from orchestration.run import clear_after_killed_runs
from orchestration.studies import LoadedStudy, load_studies, study_parts

if TYPE_CHECKING:
    from assets.lake.lake import Lake
    from orchestration.home import Home

#: In the order in which they are removed: what was computed before what it was computed from.
FAMILIES = ("study", "queries", "curvature", "model", "corpus")
#: A checkpoint unpacked from the lake, whole or (with a process's number) in the making.
CACHED = re.compile(r"(?P<model>.+)-[0-9a-f]{16}(\.\d+)?")


@dataclass(frozen=True)
class DoomedTable:
    """A table to be removed; `rows` is None where its log cannot be read."""

    path: str
    rows: int | None
    bytes: int
    versions: int | None


@dataclass
class Removal:
    """What is removed, and what stays because of whom."""

    study: str | None
    parts: list[str] = field(default_factory=list)
    tables: list[DoomedTable] = field(default_factory=list)
    loose_files: int = 0  # in these parts, but of no table: a removal that was killed left them
    loose_bytes: int = 0
    caches: dict[Path, int] = field(default_factory=dict)  # unpacked checkpoints and their size
    registration: Path | None = None  # the study's link or file in the studies directory
    kept: dict[str, list[str]] = field(default_factory=dict)  # part -> the studies that refer to it

    @property
    def bytes(self) -> int:
        return sum(table.bytes for table in self.tables) + self.loose_bytes + sum(self.caches.values())

    @property
    def is_empty(self) -> bool:
        return not (self.parts or self.caches or self.registration)


def plan_removal(home: Home, lake: Lake, instance: dg.DagsterInstance, study: str | None) -> Removal:
    """What `study` alone refers to, or (without one) what no study refers to.

    Raises BadInput where that cannot be told, and while a run is at work on it.
    """
    lake.place.check_layout(mark=False)
    loaded = load_studies(home.studies)
    _refuse_broken(loaded, home.studies)
    references = _references(loaded)
    there = _parts_there(home, lake, instance)
    if study is None:
        if not loaded:
            raise BadInput(
                f"{home.studies}: holds no study files, so that everything in the lake would go; name the directory "
                "that they are in (HEADWATER_STUDIES), or remove the lake's own directory"
            )
        doomed = there - set(references)
        removal = Removal(None, kept={part: references[part] for part in _ordered(there & set(references))})
    else:
        target = next((each for each in loaded if each.study.name == study), None)
        own = _parts_of(target.study) if target else {f"study/{study}"} & there
        if not own:
            known = near_matches(study, [each.study.name for each in loaded], "studies")
            raise BadInput(f"study {study}: is neither registered nor in the lake; {known}")
        others = {part: [name for name in references.get(part, ()) if name != study] for part in own}
        doomed = {part for part in own if not others[part]}
        kept = {part: others[part] for part in _ordered(own - doomed)}
        removal = Removal(study, registration=target.path if target else None, kept=kept)
    removal.parts = _ordered(doomed & there)
    caches = (path for path in _caches(home) if f"model/{_cached_model(path)}" in doomed)
    removal.caches = {path: sum(file.stat().st_size for file in path.rglob("*")) for path in caches}
    _look_up_sizes(lake, removal)
    if doomed:
        _refuse_while_in_use(home, instance, doomed)
    return removal


def remove(
    home: Home, lake: Lake, instance: dg.DagsterInstance, removal: Removal, on_part: Callable[[str], None] | None = None
) -> None:
    """Carries a removal out. `on_part` is called with each part that is gone."""
    try:
        for path in removal.caches:
            shutil.rmtree(path)
        for part in removal.parts:
            for path in table_paths(lake, part):
                lake.place.delete_table(path)
            lake.place.delete(part)
            _forget(instance, part)
            if on_part is not None:
                on_part(part)
        if removal.registration is not None:
            removal.registration.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"the removal stopped halfway ({first_line(error)}); mend that and give the command again"
        ) from error


def _refuse_broken(loaded: list[LoadedStudy], directory: Path) -> None:
    if broken := [each.error for each in loaded if each.error]:
        raise BadInput(
            f"nothing is removed while a study file cannot be read, for it may refer to anything; mend it, or take it "
            f"out of {directory}:\n" + "\n".join(broken)
        )


def _references(loaded: list[LoadedStudy]) -> dict[str, list[str]]:
    """Part -> the names of the studies that refer to it."""
    references: dict[str, list[str]] = {}
    for each in loaded:
        for part in _parts_of(each.study):
            references.setdefault(part, []).append(each.study.name)
    return references


def _parts_of(study: Study) -> set[str]:
    families = {"query_model": "model"}
    shared = {f"{families.get(label, label)}/{part.name}" for label, part in study_parts(study)}
    return shared | {f"study/{study.name}"}


def _parts_there(home: Home, lake: Lake, instance: dg.DagsterInstance) -> set[str]:
    """Every part that the lake has files of, Dagster remembers, or the cache holds a checkpoint of."""
    in_lake = {info.path for family in FAMILIES for info in lake.place.listed(family) if not info.is_file}
    remembered = {"/".join(key.path[:2]) for key in instance.get_asset_keys() if len(key.path) > 2}
    cached = {f"model/{_cached_model(path)}" for path in _caches(home)}
    return in_lake | {part for part in remembered if part.split("/")[0] in FAMILIES} | cached


def _ordered(parts: set[str]) -> list[str]:
    return sorted(parts, key=lambda part: (FAMILIES.index(part.split("/")[0]), part))


def _caches(home: Home) -> list[Path]:
    directory = home.cache / "checkpoints"
    return sorted(path for path in directory.iterdir() if CACHED.fullmatch(path.name)) if directory.is_dir() else []


def _cached_model(path: Path) -> str:
    return CACHED.fullmatch(path.name)["model"]


def _look_up_sizes(lake: Lake, removal: Removal) -> None:
    for part in removal.parts:
        sizes = {info.path: info.size for info in lake.place.listed(part, deep=True) if info.is_file}
        for path in table_paths(lake, part):
            of_table = [name for name in sizes if name.startswith(f"{path}/")]
            size = sum(sizes.pop(name) for name in of_table)
            removal.tables.append(DoomedTable(path, *_rows_and_versions(lake, path, size)))
        removal.loose_files += len(sizes)
        removal.loose_bytes += sum(sizes.values())


def _rows_and_versions(lake: Lake, path: str, size: int) -> tuple[int | None, int, int | None]:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(f"{lake.place.root}/{path}", storage_options=lake.place.options)
        rows = pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist()
        return sum(rows), size, table.version() + 1
    except (DeltaError, OSError, KeyError):
        return None, size, None  # a removal that was killed has been here


def _refuse_while_in_use(home: Home, instance: dg.DagsterInstance, parts: set[str]) -> None:
    """A run without a selection of assets (a job of operations, such as maintenance) may work on anything."""
    clear_after_killed_runs(instance, resources_of(home)["tracking"])
    for name, selection in _in_progress(instance):
        touched = {"/".join(key.path[:2]) for key in selection or ()} & parts
        if touched or selection is None:
            what = f"is at work on {_ordered(touched)[0]}" if touched else "may be at work on what would be removed"
            raise BadInput(f"{name} {what}; wait until it has ended, or cancel it in the Dagster UI")


def _in_progress(instance: dg.DagsterInstance) -> Iterator[tuple[str, frozenset[dg.AssetKey] | None]]:
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED))):
        run = record.dagster_run
        yield f"Dagster run {run.run_id[:8]} ({run.job_name})", run.asset_selection
    for backfill in unfinished_backfills(instance):
        selection = backfill.asset_selection
        yield f"backfill {backfill.backfill_id}", None if selection is None else frozenset(selection)


def _forget(instance: dg.DagsterInstance, part: str) -> None:
    """Makes Dagster show what is gone as never materialized; its runs and their logs stay."""
    family, name = part.split("/")
    if family == "corpus":
        for shard in instance.get_dynamic_partitions(partitions_name(name)):
            instance.delete_dynamic_partition(partitions_name(name), shard)
    if keys := instance.get_asset_keys(prefix=[family, name]):
        instance.wipe_assets(keys)
