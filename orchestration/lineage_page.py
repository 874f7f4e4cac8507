"""The answer of `headwater lineage`, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from orchestration.lineage import Lineage, Origin
from orchestration.lineage_facts import WEIGHTS

FAMILIES = ("study", "curvature", "model", "queries", "corpus")
HEADINGS = ("version", "written", "code", "Dagster", "MLflow")
SHORT_ID = 8
SHORT_DIGEST = 16
WIDTH = 100


def print_lineage(lineage: Lineage, root: str, dagster_ui: str, mlflow_pages: Mapping[str, str]) -> None:
    """The row and what stands behind it, the tree of tables, and where to look on. `mlflow_pages` is by origin."""
    console = Console(highlight=False, soft_wrap=True)
    row = (
        f"{lineage.method} score of document {lineage.document_id} for query {lineage.query_id} "
        f"in study {lineage.study}: "
    )
    console.print(Text.assemble(row, (f"{'+' if lineage.score > 0 else ''}{lineage.score:.4g}", "bold")))
    console.print()
    for label, text in _summary(lineage):
        console.print(Text.assemble((f"  {label:<10}  ", "dim"), text))
    console.print()
    for line in _tree(lineage):
        console.print(line)
    console.print()
    for line in _pointers(lineage, root, dagster_ui, mlflow_pages):
        console.print(line)


def lineage_json(lineage: Lineage, root: str, dagster_ui: str, mlflow_pages: Mapping[str, str]) -> dict[str, Any]:
    """Everything in full; `inputs` name origins by id, the influence row's own comes first."""
    names = ("study", "query_id", "document_id", "method", "score", "fingerprint", "version", "shard")
    row = {name: getattr(lineage, name) for name in names}
    return row | {
        "origins": [_origin_json(origin, root, dagster_ui, mlflow_pages) for origin in lineage.origins.values()]
    }


def _origin_json(origin: Origin, root: str, dagster_ui: str, mlflow_pages: Mapping[str, str]) -> dict[str, Any]:
    entry = origin.entry
    run = origin.said("dagster_run_id")
    return {
        "id": origin.id,
        "table": origin.table,
        "path": f"{root}/{origin.table}",
        "shard": origin.shard,
        "version": entry.version if entry else None,
        "written_at": entry.time.isoformat() if entry else None,
        **{name: origin.said(name) or None for name in ("code_version", "fingerprint")},
        "dagster_run_id": run or None,
        "dagster_url": f"{dagster_ui}/runs/{run}" if run else None,
        "mlflow_run_id": origin.said("mlflow_run_id") or None,
        "mlflow_url": mlflow_pages.get(origin.id),
        "facts": origin.facts,
        "inputs": [{"id": id, "version_read": version} for id, version in origin.inputs.items()],
    }


def _summary(lineage: Lineage) -> Iterator[tuple[str, str]]:
    """The row's origins in words."""
    for queries in (origin for origin in lineage.of("queries") if origin.facts):
        yield "query", f"{lineage.query_id}, read from {queries.facts['location']}"
    for completions in (origin for origin in lineage.of("completions") if origin.facts):
        facts = completions.facts
        told = "the model's own" if facts["generated"] else "given"
        right = {True: ", right", False: ", wrong", None: ""}[facts["is_right"]]
        yield "prompt", _short(facts["prompt"], 86)
        yield "completion", f"{_short(facts['completion'], 56)} ({told}, {facts['nats']:.3g} nats{right})"
    for documents in lineage.of("documents"):
        if facts := documents.facts:
            yield "document", f"window {facts['window']} of record {facts['record_id']}, {facts['tokens']} tokens"
            yield "", _short(facts["text"], 86)
    yield from _source(lineage)
    for checkpoint in lineage.of("checkpoint"):
        yield "model", _model(checkpoint)
    for sample in lineage.of("sample"):
        family, name, _ = sample.table.split("/")
        if sample.facts and family == "curvature":
            facts = sample.facts
            count, version = facts["documents"], facts["documents_version"]
            yield "curvature", f"{name}, fitted on a sample of {count:,} documents, drawn at their version {version}"


def _source(lineage: Lineage) -> Iterator[tuple[str, str]]:
    for records in (origin for origin in lineage.of("records") if origin.facts):
        yield "read from", records.facts["location"]
    for shards in (origin for origin in lineage.of("shards") if origin.facts):
        facts = shards.facts
        rows = f"rows {facts['first_row']}–{facts['last_row']} of {facts['file']}"
        yield "", f"shard {lineage.shard}: {rows}, digest {facts['digest'][:SHORT_DIGEST]}"


def _model(checkpoint: Origin) -> str:
    name, facts = checkpoint.table.split("/")[1], checkpoint.facts
    if not facts:
        return f"{name} (its rows are no longer kept)"
    revision = f" at revision {facts['revision']}" if "revision" in facts else ""
    origin = "trained here" if facts["trained_here"] else f"from {facts['location']}{revision}"
    weights = [(file, each["sha256"]) for file, each in facts["files"].items() if file.endswith(WEIGHTS)]
    listed = ", ".join(f"{file} sha256 {digest[:SHORT_DIGEST]}…" for file, digest in weights[:1])
    more = f" and {len(weights) - 1} more files" if len(weights) > 1 else ""
    return f"{name} ({origin}), {listed}{more}"


def _tree(lineage: Lineage) -> Iterator[Text]:
    """One line per table, what it was computed from below it; a table that stands above already is not opened again."""
    lines = list(_branches(lineage, lineage.root, "", "", set()))
    width = max(len(guide) + len(origin.name) + 2 * again for guide, origin, again in lines)
    yield Text(f"{'what it came from':<{width}}  {_columns(HEADINGS)}".rstrip(), style="bold")
    for guide, origin, again in lines:
        name = f"{origin.name} ↑" if again else origin.name
        columns = "" if again else _columns(_cells(origin))
        padded = f"{name:<{width - len(guide)}}  {columns}".rstrip()
        yield Text.assemble((guide, "dim"), (padded, "dim" if again else ""))


def _branches(
    lineage: Lineage, origin: Origin, guide: str, below: str, shown: set[str]
) -> Iterator[tuple[str, Origin, bool]]:
    again = origin.id in shown
    yield guide, origin, again
    if again:
        return
    shown.add(origin.id)
    inputs = sorted(
        _nearest_inputs(lineage, origin), key=lambda each: (FAMILIES.index(each.table.split("/")[0]), each.id)
    )
    for each in inputs:
        last = each is inputs[-1]
        yield from _branches(
            lineage, each, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), shown
        )


def _nearest_inputs(lineage: Lineage, origin: Origin) -> list[Origin]:
    """Its inputs, without those that another of its inputs was computed from: they stand below that one."""
    further = set().union(*(_behind(lineage, id) for id in origin.inputs))
    return [lineage.origins[id] for id in origin.inputs if id not in further]


def _behind(lineage: Lineage, id: str) -> set[str]:
    inputs = lineage.origins[id].inputs
    return set(inputs).union(*(_behind(lineage, each) for each in inputs))


def _cells(origin: Origin) -> tuple[str, ...]:
    if origin.entry is None:
        return ("?", "its commit is gone", "", "", "")
    runs = (origin.said(name)[:SHORT_ID] for name in ("dagster_run_id", "mlflow_run_id"))
    return (
        str(origin.entry.version),
        f"{origin.entry.time.astimezone():%Y-%m-%d %H:%M}",
        origin.said("code_version"),
        *runs,
    )


def _columns(cells: tuple[str, ...]) -> str:
    version, written, code, dagster, mlflow = cells
    return f"{version:>7}  {written:<16}  {code:<4}  {dagster:<8}  {mlflow:<8}"


def _pointers(lineage: Lineage, root: str, dagster_ui: str, mlflow_pages: Mapping[str, str]) -> Iterator[Text]:
    """Where to look on: the runs' pages, and how to read a table as it was."""
    runs = dict.fromkeys(run for origin in lineage.origins.values() if (run := origin.said("dagster_run_id")))
    for number, run in enumerate(runs):
        yield Text.assemble(("Dagster  " if not number else "         ", "bold"), f"{dagster_ui}/runs/{run}")
    if page := mlflow_pages.get(lineage.root.id):
        yield Text.assemble(("MLflow   ", "bold"), page)
    entry = lineage.root.entry
    version = entry.version if entry else lineage.version
    read = f'pl.scan_delta("{root}/{lineage.root.table}", version={version})'
    yield Text.assemble(("Read it  ", "bold"), read)


def _short(text: str, width: int) -> str:
    return f"“{textwrap.shorten(text, width, placeholder='…')}”"
