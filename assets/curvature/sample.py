"""curvature/<fit>/sample: the documents that the curvature is fitted on, pinned with their tokens.

The sample keeps the token ids themselves, so that a fit can be repeated after the corpus changed. New shards do not
make it stale; materialize it by hand to fit on what the corpus holds then.
"""

import hashlib
from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import document_identity, documents_table
from assets.corpus.sampling import drawn
from assets.corpus.tokenizer import tokenizer_table
from assets.figures.charts import document_lengths
from assets.figures.previews import kept_figure, table_of
from assets.lake.columns import DOCUMENT_ID, POSITION, SHARD, STAMP, TOKEN_IDS
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "Pinned: the fit stays as it is when the corpus grows. Materialize it by hand to draw and fit anew."


def sample_table(fit: str) -> Table:
    return Table(
        key=("curvature", fit, "sample"),
        grain="one row per document of the sample that the curvature is fitted on",
        columns=(
            POSITION,
            DOCUMENT_ID,
            SHARD,
            Column("documents_version", pa.int64(), "Delta version of the corpus's documents that it was read from."),
            TOKEN_IDS,
            STAMP,
        ),
        sort_by=("position",),
        row_group_rows=1_000,
    )


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
    tokenizer = step.fingerprint(tokenizer_table(corpus.name))
    drawing = (fit.sample_documents, fit.seed, document_identity(corpus), tokenizer)
    settings = fingerprint("curvature_sample", CODE_VERSION, *drawing)
    if step.is_pinned(table, settings):
        return
    open_traced_model(step, study, device="cpu")  # an unknown module pattern or a foreign tokenizer is told now
    rows = _drawn_documents(step, study)
    stamp = fingerprint(settings, _content(rows))
    columns = {
        "documents_version": pa.array([step.version(documents_table(corpus.name))] * len(rows), pa.int64()),
        "fingerprint": pa.array([stamp] * len(rows)),
        "position": pa.array(range(len(rows)), pa.int64()),
    }
    data = {name: rows[name].to_arrow() for name in ("document_id", "shard", "token_ids")} | columns
    lengths = rows.select("document_id", "shard", tokens=pl.col("token_ids").list.len())
    figure = kept_figure(step.tracking, "document_lengths", lambda: document_lengths(lengths))
    preview = {"documents": table_of(lengths), **figure}
    step.write(table, pa.table(data), stamp, settings=settings, metadata=preview)


def typical_tokens(step: Reading, fit: str) -> int:
    """The mean length of a document, told by the pinned sample: the same whatever shards a step is given."""
    mean = step.scan(sample_table(fit)).select(pl.col("token_ids").list.len().mean()).collect().item()
    return int(mean or 1)


def sample_sequences(step: Step, fit: str) -> list:
    """The pinned documents as the engine takes them."""
    from compute.batches import Sequence

    rows = step.scan(sample_table(fit)).select("position", "document_id", "token_ids").sort("position").collect()
    return [Sequence(row["document_id"], row["token_ids"]) for row in rows.iter_rows(named=True)]


def _drawn_documents(step: Step, study: Study):
    documents = documents_table(study.spec.corpus.name)
    fit = study.spec.curvature
    identities = step.scan(documents).select("document_id", "shard").collect()
    if identities.is_empty():
        raise BadInput(f"corpus {study.spec.corpus.name}: holds no documents to fit curvature {fit.name} on")
    chosen = drawn(identities, "document_id", fit.sample_documents, fit.seed)
    tokens = step.scan(documents).select("document_id", "token_ids").join(chosen.lazy(), on="document_id", how="semi")
    return chosen.join(tokens.collect(), on="document_id", how="left", maintain_order="left")


def _content(rows) -> str:
    """A digest of the sampled documents and their tokens, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for document_id, token_ids in rows.select("document_id", "token_ids").iter_rows():
        digest.update(f"{document_id}\0{token_ids}\n".encode())
    return digest.hexdigest()
