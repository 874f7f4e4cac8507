"""study/<study>/ablation_sample: the documents on which settings are compared, pinned with their tokens."""

from collections.abc import Iterator

import dagster as dg

from assets.corpus.document_sample import sample_settings, table_of_sample, write_sample
from assets.corpus.documents import documents_table
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.step import Step, run_step
from assets.tracking.progress import note
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "Pinned: the ablation stays as it is when the corpus grows. Materialize it by hand to draw and compare anew."


def ablation_sample_table(study: str) -> Table:
    grain = "one row per document of the sample on which settings are compared"
    return table_of_sample(("study", study, "ablation_sample"), grain)


def ablation_sample_asset(study: Study) -> dg.AssetsDefinition:
    """Draws the sample by hashed document id, over all shards."""
    table, documents = ablation_sample_table(study.name), documents_table(study.spec.corpus.name)

    @dg.asset(
        **asset_arguments(table, f"study_{study.name}", CODE_VERSION, STORY, owners=study.spec.owners),
        deps=[dg.AssetDep(documents.asset_key, partition_mapping=dg.AllPartitionMapping())],
    )
    def sample(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _draw(step, study, table))

    return sample


def _draw(step: Step, study: Study, table: Table) -> None:
    corpus, spec = study.spec.corpus, study.spec.ablation
    settings = sample_settings(step, "ablation_sample", CODE_VERSION, corpus, spec.documents, spec.seed)
    if step.is_pinned(table, settings):
        return
    drawn = write_sample(step, table, corpus, spec.documents, spec.seed, settings, "compare settings on")
    if len(drawn) < spec.documents:
        sentence = (
            f"corpus {corpus.name} holds {len(drawn):,} documents, fewer than options.ablation.documents "
            f"({spec.documents:,}): settings are compared on all of them"
        )
        step.context.log.info(sentence)
        note(sentence)
