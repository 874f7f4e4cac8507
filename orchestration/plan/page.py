"""A plan on a terminal, and as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from assets.findings.report.numerals import plural
from orchestration.plan.recorded import DAGSTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestration.plan.estimate import Plan, Stage

PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
DECOMPOSITIONS = {"decomposition": "float64 decompositions", "host decomposition": "float64 decompositions on the CPU"}
BY_SHARD = ("influence", "document_index")
HEADINGS = ("stage", "operations", "× training", "time", "memory", "lake", "last time", "ratio")


def print_plan(plan: Plan) -> None:
    """What it is for, a table of the stages, and what stands out."""
    from rich.console import Console
    from rich.table import Table as Grid

    wide = None if sys.stdout.isatty() else 200  # a pipe has no width
    console = Console(highlight=False, soft_wrap=True, markup=False, width=wide)
    for line in _basis(plan):
        console.print(line)
    console.print()
    grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        grid.add_column(heading, no_wrap=True, justify="left" if heading == "stage" else "right")
    for stage in plan.stages:
        grid.add_row(*_row(plan, stage))
        if stage.name in BY_SHARD:
            grid.add_row(*_shard_row(plan, stage))
    grid.add_row(*_total(plan), style="bold")
    console.print(grid, soft_wrap=False)
    console.print()
    for line in remarks(plan):
        console.print(line)


def plan_json(plan: Plan) -> dict[str, Any]:
    """Operations, seconds and bytes in full."""
    device, model = plan.hardware, plan.architecture
    return {
        "study": plan.study,
        "hardware": {
            "name": device.name,
            "measured": device.measured,
            "efficiency": device.efficiency,
            "operations_per_second": dict(device.rates),
            "memory_bytes": device.memory,
        },
        "model": {
            "parameters": model.parameters,
            "tracked_modules": len(model.tracked),
            "tracked_weights": sum(each.weights for each in model.tracked),
            "dtype": plan.setting.dtype,
        },
        "corpus": vars(plan.corpus),
        "queries": vars(plan.queries),
        "rank": {"rank": plan.setting.rank or "full", "origin": plan.rank_origin},
        "stages": [_stage_json(plan, stage) for stage in plan.stages],
        "training_pass": {"operations": plan.training_operations, "seconds": plan.training_seconds},
        "total": {
            "operations": plan.operations,
            "seconds": plan.seconds,
            "lake_bytes": sum(stage.cost.lake_bytes for stage in plan.stages),
            "peak_memory_bytes": plan.largest.cost.memory_bytes,
            "training_passes": plan.operations / plan.training_operations,
            "training_passes_of_time": plan.seconds / plan.training_seconds,
        },
        "remarks": list(remarks(plan)),
    }


def remarks(plan: Plan) -> Iterator[str]:
    """The bottleneck, what does not fit into memory, what was not asked for, and how far estimates were off."""
    slow = plan.slowest
    part = max(slow.seconds_by, key=slow.seconds_by.__getitem__)
    share = round(100 * slow.seconds / plan.seconds)
    inside = round(100 * slow.seconds_by[part] / slow.seconds)
    yield f"Bottleneck: {slow.name}, {share} % of the time, of which {inside} % {DECOMPOSITIONS.get(part, part)}."
    for stage in plan.does_not_fit:
        what = max(stage.cost.memory, key=stage.cost.memory.__getitem__)
        yield (
            f"Memory: {stage.name} needs {size(stage.cost.memory_bytes)}, more than the {size(plan.hardware.memory)} "
            f"of {plan.hardware.name}; most of it, {size(stage.cost.memory[what])}, is {what}."
        )
    if plan.unasked:
        yield f"Ablation: {plan.unasked}."
    yield from _calibration(plan)


def _calibration(plan: Plan) -> Iterator[str]:
    """One line for each hardware that stages ran on, and what is to be known of their times."""
    compared = {stage.name: stage.comparison for stage in plan.stages if stage.comparison}
    for hardware in dict.fromkeys(each.hardware for each in compared.values()):
        alike = [each for each in compared.values() if each.hardware == hardware]
        stages = f"{len(alike)} stages" if len(alike) > 1 else "1 stage"
        if hardware:
            took = sum(each.recorded.seconds for each in alike)
            estimated = sum(each.estimated_seconds or 0.0 for each in alike)
            yield (
                f"Last time: {stages} took {duration(took)} on {hardware}; estimated for the same work on it: "
                f"{duration(estimated)}, {estimated / max(took, 1e-3):.2f} times as much."
            )
        else:
            names = sorted({each.recorded.machine or "hardware that was not recorded" for each in alike})
            yield (
                f"Last time: {stages} ran on {', '.join(names)}, whose speed is not known here; their times are not "
                "compared with estimates."
            )
    if of_dagster := [name for name, each in compared.items() if each.recorded.by == DAGSTER]:
        which = "" if len(of_dagster) == len(compared) else f" of {', '.join(of_dagster)}"
        yield f"Last time{which} is as Dagster recorded it: {plan.why_dagster}."


def _basis(plan: Plan) -> Iterator[str]:
    corpus, asked, model, device = plan.corpus, plan.queries, plan.architecture, plan.hardware
    weights, methods = sum(each.weights for each in model.tracked), plural(plan.setting.methods, "method")
    yield f"Study {plan.study}, estimated on {device.name}; nothing was run."
    yield (
        f"  model    {count(model.parameters)} parameters in {plan.setting.dtype}; {len(model.tracked)} tracked "
        f"modules with {count(weights)} weights"
    )
    yield (
        f"  corpus   {corpus.documents:,} documents of {corpus.tokens} tokens on average in {corpus.shards:,} shards "
        f"({corpus.origin}); curvature on {plan.setting.sample_documents:,} of them"
    )
    yield (
        f"  queries  {asked.queries:,} of {asked.tokens} tokens on average, {methods}, rank "
        f"{plan.setting.rank or 'full'} ({plan.rank_origin}; {asked.origin})"
    )
    rates = f"{count(device.rates[plan.setting.dtype])}FLOP/s in {plan.setting.dtype}"
    how = "measured now" if device.measured else "peak, from its data sheet"
    yield f"  speed    {rates} ({how}), of which passes are taken to reach {device.efficiency:.0%}"


def _row(plan: Plan, stage: Stage) -> tuple[str, ...]:
    took = ratio = ""
    if stage.comparison:
        took = duration(stage.comparison.recorded.seconds)
        ratio = "" if stage.comparison.ratio is None else f"{stage.comparison.ratio:.2f}"
    return (
        stage.name,
        count(stage.cost.total),
        f"{stage.cost.total / plan.training_operations:.3f}",
        duration(stage.seconds),
        size(stage.cost.memory_bytes),
        size(stage.cost.lake_bytes),
        took,
        ratio,
    )


def _shard_row(plan: Plan, stage: Stage) -> tuple[str, ...]:
    part = 1 / plan.corpus.shards
    return (
        "  per shard",
        count(stage.cost.total * part),
        "",
        duration(stage.seconds * part),
        "",
        size(stage.cost.lake_bytes * part),
    )


def _total(plan: Plan) -> tuple[str, ...]:
    return (
        "all",
        count(plan.operations),
        f"{plan.operations / plan.training_operations:.3f}",
        duration(plan.seconds),
        size(plan.largest.cost.memory_bytes),
        size(sum(stage.cost.lake_bytes for stage in plan.stages)),
    )


def _stage_json(plan: Plan, stage: Stage) -> dict[str, Any]:
    cost = stage.cost
    told = {
        "stage": stage.name,
        "operations": cost.total,
        "operations_by_precision": dict(cost.operations),
        "training_passes": cost.total / plan.training_operations,
        "seconds": stage.seconds,
        "seconds_by": stage.seconds_by,
        "memory_bytes": cost.memory_bytes,
        "memory_by": cost.memory,
        "lake_bytes": cost.lake_bytes,
    }
    if cost.routes:
        told["routes"] = {name: choice.route for name, choice in cost.routes.items()}
    if stage.name in BY_SHARD:
        shards = plan.corpus.shards
        per_shard = {"operations": cost.total, "seconds": stage.seconds, "lake_bytes": cost.lake_bytes}
        told["per_shard"] = {name: value / shards for name, value in per_shard.items()}
    if stage.comparison:
        told["last_time"] = {
            "seconds": stage.comparison.recorded.seconds,
            "lake_bytes": stage.comparison.recorded.lake_bytes,
            "documents": stage.comparison.recorded.documents,
            "recorded_by": stage.comparison.recorded.by,
            "machine": stage.comparison.recorded.machine,
            "hardware": stage.comparison.hardware,
            "estimated_seconds": stage.comparison.estimated_seconds,
            "estimated_lake_bytes": stage.comparison.estimated_lake_bytes,
            "ratio": stage.comparison.ratio,
        }
    return told


def count(number: float) -> str:
    """1.52 P"""
    for prefix, unit in PREFIXES:
        if number >= unit:
            return f"{_three_digits(number / unit)} {prefix}"
    return f"{_three_digits(number)} "


def size(number: float) -> str:
    for unit, of in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if number >= of:
            return f"{_three_digits(number / of)} {unit}"
    return f"{_three_digits(number / 2**10)} KiB"


def _three_digits(number: float) -> str:
    """And all digits before the point: 1,010 of a unit is less than one of the next, whose 1,024th it is."""
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.3g}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
