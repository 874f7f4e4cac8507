"""study/<study>/document_index: of each document's gradient what finds it for a query that is yet to be asked.

A row holds a few thousand bits of the whitened gradient (`compute/gradient_sketch.py`, `compute/sign_codes.py`), from
which any query's EK-FAC score is estimated. It depends on documents, model, curvature and damping, and on no query.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from assets.corpus.documents import ShardDocuments, documents_table, shard_documents
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.tokenizer import tokenizer_table
from assets.curvature.factors import eigenbasis_table, eigenvalues_table, stored_curvature
from assets.curvature.sample import typical_tokens
from assets.lake.columns import DOCUMENT_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.model.memory import refuse_beyond_memory
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, Written, run_step
from assets.step.stored_now import StoredNow
from assets.study.shards_in_flight import bytes_beside_index
from assets.tracking.tracking import Tracking

if TYPE_CHECKING:
    from torch import nn

    from compute.gradient_sketch import GradientSketch
    from compute.passes import OnBatch

CODE_VERSION = "1"
STORY = "A compressed, whitened gradient of each document, for queries that are not in the set; headwater ask reads it."


def document_index_table(study: str) -> Table:
    return Table(
        key=("study", study, "document_index"),
        grain="one row per document",
        columns=(
            SHARD,
            DOCUMENT_ID,
            Column(
                "code",
                pa.binary(),
                "Signs of the sketch of the gradient, whitened by (Λ+λ)^-½ in the eigenbasis: one bit per dimension.",
            ),
            Column("factor", pa.float32(), "‖x‖²/‖x‖₁ of the sketch x; factor · ⟨signs, q⟩ estimates a score."),
            Column("norm", pa.float32(), "Norm of the document's plain gradient over the tracked modules."),
            STAMP,
        ),
        partition_by=("shard",),
        row_group_rows=4_096,  # whole vectors: 16 MiB at 32,768 dimensions
    )


def document_index_asset(study: Study) -> dg.AssetsDefinition:
    """Indexes shards of documents, in a pass of its own."""
    table, check = document_index_table(study.name), _finite_check(study)

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{study.name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=[check],
        ),
        deps=[table.asset_key for table in (documents_table(study.spec.corpus.name), *_origins(study))],
        partitions_def=shard_partitions(study.spec.corpus.name),
        backfill_policy=several_shards_per_run(),
        pool="gpu",
    )
    def document_index(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _index_shards(step, study), checks=[check])

    return document_index


def expected_index_stamps(stored: Reading | StoredNow, study: Study, shards: Iterable[str]) -> dict[str, str | None]:
    """The fingerprint that each shard's rows have when they are up to date; None for a shard without documents."""
    options = study.spec.options
    settings = (options.index.dimensions, options.damping, study.spec.model.dtype)
    inputs = fingerprint(
        "document_index", CODE_VERSION, *settings, [stored.fingerprint(each) for each in _origins(study)]
    )
    documents = stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    return {shard: fingerprint(inputs, documents[shard]) if shard in documents else None for shard in shards}


def shards_to_index(stored: Reading | StoredNow, study: Study) -> list[str]:
    """The shards whose documents are not indexed as they are now, or that have none any more, in order."""
    found = stored.shard_fingerprints(document_index_table(study.name))
    documents = stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    expected = expected_index_stamps(stored, study, found.keys() | documents.keys())
    return sorted(shard for shard, stamp in expected.items() if found.get(shard) != stamp)


def study_sketch(study: Study, curvature, modules):
    """The sketch of the study's index, under its curvature."""
    from compute.gradient_sketch import GradientSketch

    return GradientSketch(curvature, modules, study.spec.options.index.dimensions)


def _origins(study: Study) -> tuple[Table, ...]:
    fit = study.spec.curvature.name
    return (eigenbasis_table(fit), eigenvalues_table(fit), checkpoint_table(study.spec.model.name))


def _finite_check(study: Study) -> Check:
    return Check(document_index_table(study.name), "index_finite", "Every factor and every norm is finite.")


def _index_shards(step: Step, study: Study) -> None:
    """Indexes the shards that are not current; model and curvature are loaded once for all of them."""
    table, documents = document_index_table(study.name), documents_table(study.spec.corpus.name)
    stamps = expected_index_stamps(step, study, step.context.partition_keys)
    due = [shard for shard in stamps if not step.is_current(table, stamps[shard], shard)]
    if not due:
        return
    step.lake.ensure(table)
    model, modules = open_traced_model(step, study)
    rows, length = step.lake.partition_rows(documents), typical_tokens(step, study.spec.curvature.name)
    most = max((rows.get(shard, 0) for shard in due), default=0)
    beside = bytes_beside_index(most, length, study.spec.options.index.dimensions, several=len(due) > 1)
    sizes = {"documents": max(1, most), "tokens": length}
    refuse_beyond_memory(study, "document_index", model, modules, beside=beside, **sizes)
    engine = _Engine(model, study_sketch(study, stored_curvature(step, study, model, modules), modules))
    facts = {"dimensions": engine.sketch.dimensions, "directions kept": engine.sketch.directions}
    step.tracking.log_params(facts)
    step.version(tokenizer_table(study.spec.corpus.name))  # which tells MLflow, and reading ahead must not
    places = {shard: place for place, shard in enumerate(due)}
    total = sum(rows.get(shard, 0) for shard in due)
    with step.progress(f"{study.name}: document index", total, "documents") as progress:

        def read(shard: str) -> ShardDocuments:
            return shard_documents(step, study.spec.corpus.name, shard)

        def index(shard: str, found: ShardDocuments, look: Callable[[], None]) -> Callable[[], list[Written]]:
            def on_batch(count: int, _: int) -> None:
                progress.advance(count)
                look()

            of_shard = list(engine.rows(step, study, shard, found, stamps[shard], on_batch))
            step.check(_finite_check(study), None, shard=shard)
            step.tracking.log_metrics({"documents": progress.done}, places[shard])
            return lambda: [step.commit(table, of_shard, stamps[shard], shard=shard, metadata=facts)]

        step.each_shard_overlapped(due, read=read, work=index)


@dataclass(frozen=True)
class _Engine:
    """The model, and the sketch of its gradients."""

    model: "nn.Module"
    sketch: "GradientSketch"

    def rows(
        self, step: Step, study: Study, shard: str, documents: ShardDocuments, stamp: str | None, on_batch: "OnBatch"
    ) -> Iterator[pa.RecordBatch]:
        """The shard's rows as the pass gives them, a batch of documents at a time. Raises CheckFailedError for a
        gradient that is not finite."""
        import numpy as np

        from compute.document_index import indexed_documents

        table, budget = document_index_table(study.name), study.spec.options.token_budget
        found = indexed_documents(self.model, self.sketch, documents.sequences, token_budget=budget, on_batch=on_batch)
        for batch in found:
            ids = [documents.ids[index] for index in batch.index_B]
            bad = np.flatnonzero(~(np.isfinite(batch.factors_B) & np.isfinite(batch.norms_B)))
            if len(bad):
                problem = f"study {study.name}: shard {shard} has a gradient that is not finite, of {ids[bad[0]]}"
                step.check(_finite_check(study), problem, shard=shard)
            columns = {
                "shard": pa.repeat(pa.scalar(shard), len(ids)),
                "document_id": pa.array(ids, pa.string()),
                "code": pa.array([code.tobytes() for code in batch.codes], pa.binary()),
                "factor": pa.array(batch.factors_B, pa.float32()),
                "norm": pa.array(batch.norms_B, pa.float32()),
                "fingerprint": pa.repeat(pa.scalar(stamp), len(ids)),
            }
            yield pa.RecordBatch.from_arrays([columns[name] for name in table.schema.names], schema=table.schema)
