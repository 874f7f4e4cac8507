"""study/<study>/coverage: how much of the corpus has been scored, shard by shard; rankings wait for it.

Told from Delta's logs alone (rows and fingerprints per shard), so that it costs next to nothing however large the
corpus is. Its checks stand between the shards and whatever is computed over all of them.
"""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.corpus.records import records_table, twice_sentence
from assets.lake.columns import SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.behind import BEHIND, shard_states
from assets.study.candidates import candidates_table
from assets.study.completions import completions_table
from assets.study.influence import document_norms_table, influence_table
from assets.study.query_gradients import query_gradients_table
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "Whether each shard is scored, for the queries and documents as they are now; rankings wait for it."


def coverage_table(study: str) -> Table:
    return Table(
        key=("study", study, "coverage"),
        grain="one row per shard of the corpus",
        columns=(
            SHARD,
            Column(
                "state", pa.string(), "scored; stale: from other text, queries or model; missing; empty: no documents."
            ),
            Column("documents", pa.int64(), "Documents of the shard."),
            Column("scores", pa.int64(), "Rows of influence."),
            Column("expected_scores", pa.int64(), "Documents times queries times methods."),
            Column("norms", pa.int64(), "Rows of document_norms."),
            STAMP,
        ),
        sort_by=("shard",),
    )


def coverage_asset(study: Study) -> dg.AssetsDefinition:
    """Counts what the shards hold, and stops where something is missing."""
    name, corpus = study.name, study.spec.corpus.name
    table, checks = coverage_table(name), coverage_checks(study)
    by_shard = (influence_table(name), document_norms_table(name), candidates_table(name), documents_table(corpus))

    @dg.asset(
        **asset_arguments(
            table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",), checks=checks
        ),
        deps=[
            *(dg.AssetDep(each.asset_key, partition_mapping=dg.AllPartitionMapping()) for each in by_shard),
            completions_table(name).asset_key,
            query_gradients_table(name).asset_key,
        ],
    )
    def coverage(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _cover(step, study, table), checks=checks)

    return coverage


def coverage_checks(study: Study) -> tuple[Check, Check, Check]:
    table = coverage_table(study.name)
    return (
        Check(
            table, "shards_complete", "Every shard of the corpus is scored, with the model and queries as they are now."
        ),
        Check(table, "every_document_scored_once", "Every shard has one score per method, query and document."),
        Check(table, "keys_unique", "No record id stands in two shards, so a document id means one document."),
    )


def _cover(step: Step, study: Study, table: Table) -> None:
    rows = _shard_rows(step, study)
    counts = {state: sum(row["state"] == state for row in rows) for state in ("scored", "empty", "stale", "missing")}
    complete, once, unique = coverage_checks(study)
    stamp = fingerprint("coverage", CODE_VERSION, rows)
    if not step.is_current(table, stamp):
        data = pa.Table.from_pylist([row | {"fingerprint": stamp} for row in rows], schema=table.schema)
        step.write(table, data, stamp, metadata={f"{state} shards": count for state, count in counts.items()})
    step.check(complete, _incomplete(study, {row["shard"]: row["state"] for row in rows}), metadata=counts)
    step.check(once, _not_once(study, rows), metadata={"scores": sum(row["scores"] for row in rows)})
    step.check(unique, _twice(step, study))


def _shard_rows(step: Step, study: Study) -> list[dict]:
    corpus, name = study.spec.corpus.name, study.name
    documents, scores, norms = (
        step.lake.partition_rows(table, version=step.version(table))
        for table in (documents_table(corpus), influence_table(name), document_norms_table(name))
    )
    pairs = step.scan(completions_table(name)).select("query_id").collect().height * len(study.spec.options.methods)
    return [
        {
            "shard": shard,
            "state": state,
            "documents": documents.get(shard, 0),
            "scores": scores.get(shard, 0),
            "expected_scores": documents.get(shard, 0) * pairs,
            "norms": norms.get(shard, 0),
        }
        for shard, state in shard_states(step.lake, study).items()
    ]


def refuse_incomplete(step: Step, study: Study) -> None:
    """Raises BadInput where a shard is not scored as it should be, or a record id stands twice: what is computed over
    all shards looks for itself, since the checks of coverage stop only what runs with it."""
    states = shard_states(step.lake, study)
    if problem := _incomplete(study, states) or _twice(step, study):
        raise BadInput(problem)


def _incomplete(study: Study, states: dict[str, str]) -> str | None:
    behind = [shard for shard, state in states.items() if state in BEHIND]
    if not behind:
        return None
    return (
        f"study {study.name}: {len(behind)} of {len(states)} shards are not scored as they should be (shard "
        f"{behind[0]}: {states[behind[0]]}); materialize their records, documents and influence"
    )


def _not_once(study: Study, rows: list[dict]) -> str | None:
    for row in rows:
        if row["scores"] != row["expected_scores"] or row["norms"] != row["documents"]:
            return (
                f"study {study.name}: shard {row['shard']} has {row['scores']} scores and {row['norms']} norms for "
                f"{row['documents']} documents, and should have {row['expected_scores']} and {row['documents']}; "
                "materialize its influence again"
            )
    return None


def _twice(step: Step, study: Study) -> str | None:
    """Looked for by 64-bit hashes, eight bytes a record; only ids whose hashes meet are compared."""
    table = records_table(study.spec.corpus.name)
    hashed = step.scan(table).select(hash=pl.col("record_id").hash()).collect()["hash"]
    meeting = hashed.filter(hashed.is_duplicated()).unique()
    if meeting.is_empty():
        return None
    identities = step.scan(table).select("record_id").filter(pl.col("record_id").hash().is_in(meeting))
    twice = identities.group_by("record_id").len().filter(pl.col("len") > 1).sort("record_id").head(1).collect()
    for record_id, count in twice.iter_rows():
        rows = step.scan(table).filter(record_id=record_id).select("location").sort("location").collect()
        return twice_sentence(study.spec.corpus.name, record_id, count, rows["location"].to_list())
    return None
