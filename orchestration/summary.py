"""What a finished run leaves on the terminal: the study's tables, and where to read on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Grid

from assets.lake.lake import Lake
from assets.specs.study import Study
from assets.tracking.progress import counted
from orchestration.graph import study_tables


def print_summary(study: Study, lake: Lake, failed: Sequence[str] = ()) -> None:
    """Tables with rows and versions, and below them the checks that `failed`, on standard output."""
    console = Console()
    grid = Grid(title=f"\nStudy {study.name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("table", "left"), ("rows", "right"), ("version", "right")):
        grid.add_column(heading, justify=justify, no_wrap=True)
    for table in study_tables(study):
        version = lake.version(table)
        if version is not None:
            grid.add_row(table.path, f"{lake.count(table):,}", str(version))
    console.print(grid)
    if failed:
        console.print(f"\n{counted(len(failed), 'checks')} failed:", highlight=False, soft_wrap=True)
        for sentence in failed:
            console.print(f"  {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nThe tables are in {lake.place.root}; read one with", highlight=False, soft_wrap=True)
    console.print(
        f'  polars.scan_delta("{lake.place.root}/study/{study.name}/rankings")', highlight=False, soft_wrap=True
    )
    console.print(
        f"or by headwater top {study.name} QUERY, headwater explore, or headwater export {study.name} --to DIRECTORY",
        highlight=False,
        soft_wrap=True,
    )
