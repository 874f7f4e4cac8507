"""The routes of a pass as they are told: whole in MLflow, and a row per shape and route in Dagster."""

from __future__ import annotations

import pytest

from assets.study.routes_told import FILE, routes_md, tell_routes
from compute.routes import Workload, choose_routes
from compute.tracked_modules import TrackedModule

MIB = 2**20
LAYERS = 24
MODULES = [
    TrackedModule(f"layers.{layer}.mlp.{side}", *sides, True)
    for layer in range(LAYERS)
    for side, sides in (("up", (256, 1024)), ("down", (1024, 256)))
]


class Run:
    """Notes what a run is told."""

    def __init__(self) -> None:
        self.params, self.files = {}, {}

    def log_params(self, params) -> None:
        self.params |= params

    def log_dict(self, content, file) -> None:
        self.files[file] = content


def chosen(queries: int, memory_mib: int, documents: int = 32):
    return choose_routes(
        MODULES, {each.name: [16] * queries for each in MODULES}, Workload(256, documents, memory_mib * MIB)
    )


def rows(text: str) -> list[list[str]]:
    """Cells of the table below its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_module_is_in_the_file_with_the_costs_of_every_route():
    run, routes = Run(), chosen(64, 1024)
    tell_routes(run, routes, MODULES)
    record = run.files[FILE]
    assert list(record["modules"]) == [each.name for each in MODULES]
    for name, told in record["modules"].items():
        choice = routes.choices[name]
        assert (told["route"], told["time"], told["multiplications"]) == (
            choice.route,
            choice.costs,
            choice.multiplications,
        )
        assert told["time"].keys() == {"factors", "formed", "rebuilt"}
        cheaper = [route for route, cost in told["time"].items() if cost < told["time"][told["route"]]]
        assert told["do not fit into options.memory_mib"] == cheaper
    assert sum(run.params["routes"].values()) == len(MODULES) and set(run.params["routes"]) == {"formed", "rebuilt"}


def test_the_table_has_a_row_per_shape_and_route_with_how_many_modules_there_are():
    routes = chosen(64, 1024)
    told = rows(routes_md(routes, MODULES).md_str)
    assert sum(int(row[0]) for row in told) == len(MODULES) and 2 < len(told) <= 4
    assert told[0][1] == "0.mlp.up" and told[0][2] == "1,024 × 257"
    for row in told:
        choice = routes.choices[f"layers.{row[1]}"]
        assert row[3] == choice.route
        assert [float(cost) for cost in row[4:7]] == pytest.approx(list(choice.costs.values()), rel=0.01)
        assert row[7] == ("formed: beyond options.memory_mib" if row[3] == "rebuilt" else "")


def test_what_holds_of_all_modules_is_told_above():
    text = routes_md(chosen(4, 8192, documents=8), MODULES).md_str
    assert "The gradients of 32 documents are gathered" in text and "read for every product" not in text
    assert "read for every product" in routes_md(chosen(1000, 1024), MODULES).md_str


def test_the_text_says_what_routes_are_and_gives_no_reason_where_others_take_longer():
    text = routes_md(chosen(4, 8192), MODULES).md_str
    assert len(text) <= 1000  # Dagster hides longer ones
    assert all(f"\n- {route}: " in text for route in ("factors", "formed", "rebuilt")) and "A bias is" in text
    assert "Names begin with `layers.`." in text and "why not the others" not in text


def test_ranks_that_differ_are_a_range():
    ranks = {each.name: [4 + index % 3] * 8 for index, each in enumerate(MODULES)}
    told = rows(routes_md(choose_routes(MODULES, ranks, Workload(4, 32, 1024 * MIB)), MODULES).md_str)
    assert len(told) == 2 and " to " in told[0][4]
