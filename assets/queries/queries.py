"""queries/<set>/queries: the query set as its author wrote it; no model is involved."""

from collections.abc import Iterator
from dataclasses import asdict

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.figures.previews import table_of
from assets.lake.columns import POSITION, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.queries.reading import read_queries
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking

CODE_VERSION = "2"
STORY = "The query set as its author wrote it; no model is involved."

PROMPT = Column("prompt", pa.string(), "The prompt; it carries no loss.")
TASK = Column("task", pa.string(), "Task of the query, such as arithmetic.", nullable=True)
KIND = Column("kind", pa.string(), "factual, reasoning, control, or the set's own word.", nullable=True)
ANSWER = Column("answer", pa.string(), "The right answer, where it is known.", nullable=True)
STEP_ANSWERS = Column(
    "step_answers",
    pa.list_(pa.string()),
    "What the steps to the answer come to, in their order; empty: none are known.",
)


def queries_table(query_set: str) -> Table:
    return Table(
        key=("queries", query_set, "queries"),
        grain="one row per query",
        columns=(
            POSITION,
            QUERY_ID,
            PROMPT,
            Column(
                "completion", pa.string(), "The completion to explain; null asks for the model's own.", nullable=True
            ),
            TASK,
            KIND,
            ANSWER,
            Column("match", pa.string(), "How the answer must stand in a completion: contains, ends.", nullable=True),
            STEP_ANSWERS,
            Column("extra", pa.string(), "The row's other fields, as a JSON object."),
            Column("location", pa.string(), "File and line or row that it was read from."),
            STAMP,
        ),
        sort_by=("position",),
    )


def queries_asset(study: Study) -> dg.AssetsDefinition:
    """Reads the query set's file."""
    spec = study.spec.queries
    table = queries_table(spec.name)

    @dg.asset(**asset_arguments(table, f"queries_{spec.name}", CODE_VERSION, STORY, owners=study.spec.owners))
    def queries(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _read_set(step, study, table))

    return queries


def queries_stamp(study: Study) -> str:
    """The fingerprint that the queries of the file, as it is now, have. Raises BadInput where it cannot be read."""
    return _stamp([asdict(query) for query in read_queries(study.spec.queries, study.base)])


def _stamp(read: list[dict]) -> str:
    return fingerprint("queries", CODE_VERSION, read)


def _read_set(step: Step, study: Study, table: Table) -> None:
    read = [asdict(query) for query in read_queries(study.spec.queries, study.base)]
    stamp = _stamp(read)
    if step.is_current(table, stamp):
        return
    rows = [row | {"position": position, "fingerprint": stamp} for position, row in enumerate(read)]
    kinds = {kind: sum(row["kind"] == kind for row in read) for kind in sorted({r["kind"] or "" for r in read})}
    data = pa.Table.from_pylist(rows, schema=table.schema)
    first = table_of(pl.from_arrow(data), limit=4, columns=["query_id", "kind", "task", "prompt", "answer"])
    step.write(table, data, stamp, metadata={"kinds": kinds, "first queries": first})
