"""curvature/<fit>/sample: the documents that the curvature is fitted on, pinned with their tokens."""

from collections.abc import Iterator

import dagster as dg
import polars as pl

from assets.corpus.document_sample import sample_settings, stored_sample, table_of_sample, write_sample
from assets.corpus.documents import documents_table
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.model.checkpoint import checkpoint_table
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "Pinned: the fit stays as it is when the corpus grows. Materialize it by hand to draw and fit anew."


def sample_table(fit: str) -> Table:
    grain = "one row per document of the sample that the curvature is fitted on"
    return table_of_sample(("curvature", fit, "sample"), grain)


def sample_asset(study: Study) -> dg.AssetsDefinition:
    """Draws the sample by hashed document id, after looking whether the model can be traced as asked."""
    fit, corpus = study.spec.curvature, study.spec.corpus
    table, documents = sample_table(fit.name), documents_table(corpus.name)
    checkpoint = checkpoint_table(study.spec.model.name)

    @dg.asset(
        **asset_arguments(table, f"curvature_{fit.name}", CODE_VERSION, STORY, owners=study.spec.owners),
        deps=[
            dg.AssetDep(documents.asset_key, partition_mapping=dg.AllPartitionMapping()),
            checkpoint.asset_key,
        ],
    )
    def sample(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _draw(step, study, table))

    return sample


def _draw(step: Step, study: Study, table: Table) -> None:
    fit, corpus = study.spec.curvature, study.spec.corpus
    settings = sample_settings(step, "curvature_sample", CODE_VERSION, corpus, fit.sample_documents, fit.seed)
    if step.is_pinned(table, settings):
        return
    open_traced_model(step, study, device="cpu")  # an unknown module pattern or a foreign tokenizer is told now
    purpose = f"fit curvature {fit.name} on"
    write_sample(step, table, corpus, fit.sample_documents, fit.seed, settings, purpose)


def typical_tokens(step: Reading, fit: str) -> int:
    """The mean length of a document, told by the pinned sample: the same whatever shards a step is given."""
    mean = step.scan(sample_table(fit)).select(pl.col("token_ids").list.len().mean()).collect().item()
    return int(mean or 1)


def sample_sequences(step: Reading, fit: str) -> list:
    """The pinned documents as the engine takes them."""
    return stored_sample(step, sample_table(fit))
