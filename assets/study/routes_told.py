"""The routes that a pass multiplies by, explained: of every module in MLflow, and of shapes that differ in Dagster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from assets.figures.previews import table_of

if TYPE_CHECKING:
    from assets.tracking.tracked_run import StepRun
    from compute.routes import Choice, Routes
    from compute.tracked_modules import TrackedModule

FILE = "routes.json"
ROWS_SHOWN = 40
NAME_CHARACTERS = 80
REASON = "why not the others"
LEGEND = """\
The time of a document's scores and norm at each module, as a multiple of the module's own forward pass; the cheapest \
route that the memory allows is taken. A bias is one more column of the inputs.

- factors: the document's activations meet the queries' factors; no gradient is formed.
- formed: the document's gradient, times the dense gradients of all queries, which are kept.
- rebuilt: dense gradients that do not fit are made of their factors again, some rows at a time.
"""


def tell_routes(run: StepRun, chosen: Routes, modules: Sequence[TrackedModule]) -> dict[str, dg.MarkdownMetadataValue]:
    """Every module's choice among the artifacts of the step's MLflow run, how often each route is taken among its
    parameters; and a table, as metadata."""
    taken = list(chosen.names().values())
    run.log_params({"routes": {route: taken.count(route) for route in sorted(set(taken))}})
    run.log_dict(routes_record(chosen, modules), FILE)
    return {"routes": routes_md(chosen, modules)}


def routes_record(chosen: Routes, modules: Sequence[TrackedModule]) -> dict:
    """What each route would take at each module, in time and in multiplications, as multiples of its forward pass."""
    of_modules = {
        module.name: {
            "outputs": module.out_features,
            "inputs": module.in_dim,
            "route": choice.route,
            "time": choice.costs,
            "multiplications": choice.multiplications,
            "do not fit into options.memory_mib": choice.beyond_memory,
        }
        for module in modules
        for choice in (chosen.choices[module.name],)
    }
    return {"documents gathered": chosen.gathered, "factors kept": chosen.kept, "modules": of_modules}


def routes_md(chosen: Routes, modules: Sequence[TrackedModule]) -> dg.MarkdownMetadataValue:
    """One row per shape of modules and route; of ranks that differ the costs are a range."""

    def kind(module: TrackedModule) -> tuple:
        choice = chosen.choices[module.name]
        return module.out_features, module.in_dim, choice.route, choice.beyond_memory

    groups = [list(alike) for _, alike in groupby(sorted(modules, key=kind), kind)]
    place = {module.name: index for index, module in enumerate(modules)}
    groups.sort(key=lambda alike: place[alike[0].name])
    shared = _shared([module.name for module in modules])
    rows = pl.DataFrame([_row(alike, chosen.choices, shared) for alike in groups])
    if not any(rows[REASON]):
        rows = rows.drop(REASON)
    said = [*_of_all(chosen), *([f"Names begin with `{shared}`."] if shared else [])]
    table = table_of(rows, ROWS_SHOWN, None, NAME_CHARACTERS)
    return dg.MetadataValue.md("\n\n".join(filter(None, [LEGEND.strip(), " ".join(said), table.md_str])))


def _shared(names: Sequence[str]) -> str:
    """What all names begin with, left out of the rows, which a page of 1,400 pixels would cut otherwise."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{alike[0]}." for alike in takewhile(lambda each: len(set(each)) == 1, parts))


def _row(alike: list[TrackedModule], choices: Mapping[str, Choice], shared: str) -> dict:
    first, of_modules = choices[alike[0].name], [choices[module.name] for module in alike]
    return {
        "modules": len(alike),
        "first": alike[0].name.removeprefix(shared),
        "outputs × inputs": f"{alike[0].out_features:,} × {alike[0].in_dim:,}",
        "route": first.route,
        **{route: _range([each.costs[route] for each in of_modules]) for route in first.costs},
        REASON: _why(first),
    }


def _range(costs: list[float]) -> str:
    least, most = (f"{each:,.3g}" for each in (min(costs), max(costs)))
    return least if least == most else f"{least} to {most}"


def _why(choice: Choice) -> str:
    if choice.beyond_memory:
        return f"{' and '.join(choice.beyond_memory)}: beyond options.memory_mib"
    return ""  # they take longer, as the row shows


def _of_all(chosen: Routes) -> Iterator[str]:
    if chosen.gathered:
        yield f"The gradients of {chosen.gathered} documents are gathered for one product."
    if not chosen.kept:
        yield "The queries' factors are more than half of options.memory_mib, and are read for every product."
