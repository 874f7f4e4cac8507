"""What a colleague needs of a study: the tables that one reads as files, and the report as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from assets.lake.tables import FINGERPRINT
from assets.specs.mistakes import near_matches
from compute.errors import BadInput
from orchestration.results.printing import write_rows
from orchestration.results.results import Results
from orchestration.results.sources import sources_of
from orchestration.results.views import Moment, View

READ = (
    "completions",
    "rankings",
    "correlation",
    "magnitude",
    "power_law",
    "answers",
    "kinds",
    "sources",
    "verdicts",
    "ablation",
    "evidence",
    "claims",
)
"""The tables of a study that people read; scores, factors and statistics are exported where they are asked for."""


def export_study(results: Results, study: str, directory: Path, form: str, tables: list[str]) -> Iterator[Path]:
    """Writes the tables as files of `form` (parquet, csv), and report.html; yields each file that is written.

    `tables`: names, or none for those that people read. Raises BadInput for an unknown study or table, and where
    `directory` holds files already.
    """
    paths = {name: view.paths[study] for name, view in results.views.items() if study in view.paths}
    paths = {name: path for name, path in paths.items() if path.startswith("study/")}
    if not paths:
        known = {each for view in results.views.values() if view.family == "study" for each in view.paths}
        raise BadInput(f"study {study}: is not in {results.lake.place.root}; {near_matches(study, known, 'studies')}")
    for name in tables:
        if name not in paths:
            raise BadInput(f"study {study}: has no table {name}; {near_matches(name, paths, 'tables')}")
    _prepare(directory)
    for name in tables or [name for name in READ if name in paths]:
        target = directory / f"{name}.{form}"
        _write(results, View(name, "study", {study: paths[name]}), target)
        yield target
    if "report" in paths and not tables:
        target = directory / "report.html"
        page = results.table("report").filter(study=study).select("html").collect()
        target.write_text(page.item(), encoding="utf-8")
        yield target


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{directory}: cannot be made ({error.strerror}); name another directory") from error
    if any(directory.iterdir()):
        raise BadInput(f"{directory}: holds files already, and none is replaced; name a directory that is new or empty")


def _write(results: Results, view: View, target: Path) -> None:
    """The one table of `view`, as a view serves it: of a clustered table the live runs alone."""
    (source,) = sources_of(results.lake, view, Moment())
    frame = source.frame().drop(FINGERPRINT)
    with results.lake.reading([source.read]):
        if target.suffix == ".parquet":
            frame.sink_parquet(target)
        else:
            write_rows(frame.collect(), target, "csv")
