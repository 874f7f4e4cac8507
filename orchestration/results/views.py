"""Which tables the lake holds, and the views that join the tables of one name across studies, corpora and models.

A table `study/<study>/rankings` is part of the view `rankings`, whose first column says which study each row is of.
What rows and columns mean stands in the lake itself, so that a lake can be read without the studies' files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from assets.lake.lake import Lake
from assets.lake.log import TableLog
from assets.lake.maintenance import table_paths
from assets.lake.tables import Column
from assets.specs.mistakes import near_matches
from compute.errors import BadInput

#: Family of tables, the first part of their path -> the column that names whose they are.
OWNER_COLUMN = {
    "study": "study",
    "queries": "query_set",
    "corpus": "corpus",
    "model": "model",
    "curvature": "curvature",
}


@dataclass(frozen=True)
class View:
    """The tables of one name; `paths` by whose they are."""

    name: str
    family: str
    paths: Mapping[str, str]

    @property
    def owner(self) -> Column:
        """The column that the view has before those of its tables."""
        import pyarrow as pa

        return Column(OWNER_COLUMN[self.family], pa.string(), f"Name of the {self.family} that the row is of.")


@dataclass(frozen=True)
class Moment:
    """Which versions are read: of the tables in `versions` the named one, of all others the newest there was `at`."""

    at: datetime | None = None
    versions: Mapping[str, int] = field(default_factory=dict)

    def version(self, lake: Lake, path: str) -> int | None:
        """None stands for the newest. Raises BadInput where there was none yet."""
        if (version := self.versions.get(path)) is not None:
            return version
        if self.at is None:
            return None
        if (version := TableLog(lake.place, path).version_at(self.at)) is None:
            raise BadInput(f"{path}: there was no such table at {self.at.isoformat(' ', 'seconds')}; name a later time")
        return version


def views_of(lake: Lake) -> dict[str, View]:
    """All views, by name."""
    lake.place.check_layout(mark=False)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for path in table_paths(lake):
        family, _, rest = path.partition("/")
        owner, _, name = rest.rpartition("/")
        if family in OWNER_COLUMN and owner and "/" not in owner:
            found.setdefault((name, family), {})[owner] = path
    return {name: View(name, family, dict(sorted(paths.items()))) for (name, family), paths in sorted(found.items())}


def view_named(views: Mapping[str, View], name: str) -> View:
    """Raises BadInput for a name that no table has."""
    if name not in views:
        raise BadInput(f"there is no table {name} in the lake; {near_matches(name, views, 'tables')}")
    return views[name]


def named_versions(written: Iterable[str]) -> dict[str, int]:
    """Of `study/demo/rankings=3` and the like. Raises BadInput where one is written otherwise."""
    versions = {}
    for each in written:
        path, _, number = each.partition("=")
        if not re.fullmatch("[0-9]{1,18}", number):
            raise BadInput(f"version {each}: write a table's path and a number, as study/demo/rankings=3")
        versions[path] = int(number)
    return versions


def refuse_unknown_versions(views: Iterable[View], moment: Moment) -> None:
    """Raises BadInput where a version is named of a table that is not there: it would be passed over in silence."""
    paths = [path for view in views for path in view.paths.values()]
    for path in moment.versions:
        if path not in paths:
            raise BadInput(f"there is no table {path} in the lake; {near_matches(path, paths, 'tables')}")
