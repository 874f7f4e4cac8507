"""What `headwater delete` shows before it asks, and says when it is done."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table as Grid

from compute.errors import BadInput
from orchestration.removal import Removal

UNITS = ("B", "kB", "MB", "GB", "TB")


def print_removal(removal: Removal) -> None:
    """What would be removed, and what stays because other studies refer to it."""
    console = Console(highlight=False, soft_wrap=True)
    if removal.is_empty:
        console.print("Nothing to remove: a registered study refers to everything that there is.")
        return
    whose = f"study {removal.study} and what it alone refers to" if removal.study else "what no study refers to"
    console.print(f"[bold]To be removed[/]: {whose}\n")
    _print_grid(console, _tables(removal))
    if besides := _besides(removal):
        console.print("\n[bold]Besides[/]\n")
        for line in besides:
            console.print(f"  {line}", markup=False)
    if removal.kept:
        console.print("\n[bold]Stays[/]\n")
        _print_grid(console, _kept(removal))
    console.print()


def confirmed(removal: Removal) -> bool:
    """Asks on the terminal; without one, nobody can answer."""
    if not sys.stdin.isatty():
        raise BadInput("nothing was removed: there is no terminal to ask on; give --yes to remove what is listed")
    print(
        f"Remove this, {size(removal.bytes)} in all? It cannot be undone. [y/N] ", end="", file=sys.stderr, flush=True
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_removed(removal: Removal) -> None:
    """What was done, and what was not."""
    whose = f", and study {removal.study} is no longer registered" if removal.registration else ""
    print(f"Removed {size(removal.bytes)}{whose}.")
    print("MLflow's runs and models and Dagster's run history stay. Reload the definitions in an open Dagster UI.")


def size(count: int) -> str:
    """Bytes for people: 12.3 MB."""
    value = float(count)
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _tables(removal: Removal) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column("  table", no_wrap=True)
    for heading in ("rows", "size", "versions"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for table in removal.tables:
        rows, versions = ("?" if value is None else f"{value:,}" for value in (table.rows, table.versions))
        grid.add_row(f"  {table.path}", rows, size(table.bytes), versions)
    return grid


def _besides(removal: Removal) -> list[str]:
    """What is not a table."""
    lines = []
    bare = [part for part in removal.parts if not any(table.path.startswith(f"{part}/") for table in removal.tables)]
    if bare:
        lines.append(f"what Dagster remembers of {', '.join(bare)}, which has no tables any more")
    if removal.loose_files:
        lines.append(
            f"{removal.loose_files} files of no table ({size(removal.loose_bytes)}), left by an earlier removal"
        )
    lines += [f"{path} (unpacked checkpoint, {size(bytes)})" for path, bytes in removal.caches.items()]
    if removal.registration is not None and removal.registration.is_symlink():
        lines.append(f"{removal.registration} (link; {removal.registration.resolve()} itself stays)")
    elif removal.registration is not None:
        lines.append(f"{removal.registration} (your study file: keep a copy if you still need it)")
    return lines


def _kept(removal: Removal) -> Grid:
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for part, studies in removal.kept.items():
        named = ", ".join(studies[:3]) + (", …" if len(studies) > 3 else "")
        grid.add_row(
            f"  {part}", f"study {named} refers to it" if len(studies) == 1 else f"studies {named} refer to it"
        )
    return grid


def _print_grid(console: Console, grid: Grid) -> None:
    if grid.row_count:
        console.print(grid, soft_wrap=False, width=None if console.is_terminal else 500)
