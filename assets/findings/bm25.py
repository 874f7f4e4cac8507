"""study/<study>/bm25: the documents ranked by the words that they share with a query, to compare with influence.

How rare a word is, and how long a document, is measured over the whole corpus: one more shard changes every score of
every other. So this is one asset over all shards and made anew with each, which is why a study has to ask for it
(`findings.bm25`). It reads the texts twice, first to count words and then to score, and holds one shard at a time.
"""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.lake.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.methods import BM25
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.study.influence import score_rows
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "All documents by the words that they share with prompt and completion; made anew with every new shard."


def bm25_table(study: str) -> Table:
    return Table(
        key=("study", study, BM25),
        grain="one row per query and document",
        columns=(
            SHARD,
            METHOD,
            QUERY_ID,
            DOCUMENT_ID,
            Column("score", pa.float32(), "BM25 of the document for prompt and completion; 0: no word in common."),
            STAMP,
        ),
        partition_by=("shard",),  # rows are written as those of influence
    )


def bm25_asset(study: Study) -> dg.AssetsDefinition:
    """Scores all shards in one step, each in a commit of its own."""
    name, table = study.name, bm25_table(study.name)
    documents = documents_table(study.spec.corpus.name).asset_key

    @dg.asset(
        **asset_arguments(table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("numpy",)),
        deps=[
            dg.AssetDep(documents, partition_mapping=dg.AllPartitionMapping()),
            completions_table(name).asset_key,
            coverage_table(name).asset_key,  # a corpus of which a part is missing has other frequencies
        ],
    )
    def bm25(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _score_corpus(step, study, table))

    return bm25


def bm25_stamp(step: Step | StoredNow, study: Study) -> str:
    """The fingerprint that BM25 of every shard has, with the documents and completions as they are now."""
    documents = step.shard_fingerprints(documents_table(study.spec.corpus.name))
    return fingerprint(BM25, CODE_VERSION, documents, step.fingerprint(completions_table(study.name)))


def _score_corpus(step: Step, study: Study, table: Table) -> None:
    refuse_incomplete(step, study)
    stamp, documents = bm25_stamp(step, study), documents_table(study.spec.corpus.name)
    shards = sorted(step.shard_fingerprints(documents))
    step.lake.ensure(table)
    held = step.current_shards(table, stamp, shards)
    if held is None:
        return
    stored = step.stored_fingerprints(table, step.lake.version(table))
    for gone in sorted(stored.keys() - set(shards)):
        step.write(table, table.schema.empty_table(), stamp, where={"shard": gone})
    if not shards:
        return
    from compute.bm25 import Bm25

    completions = step.scan(completions_table(study.name)).select("query_id", pl.col("prompt") + pl.col("completion"))
    bm25 = Bm25(dict(completions.collect().iter_rows()))
    with step.progress(f"{study.name}: words of the corpus", len(shards), "shards") as progress:
        for shard in shards:
            bm25.count(_texts(step, documents, shard)["text"].to_list())
            progress.advance(1)
    step.tracking.log_metrics({"documents": bm25.documents, "words": bm25.words}, 0)
    with step.progress(f"{study.name}: BM25", len(shards) - len(held), "shards") as progress:
        for shard in (each for each in shards if each not in held):
            _score_shard(step, table, shard, _texts(step, documents, shard), bm25, stamp)
            progress.advance(1)


def _texts(step: Step, documents: Table, shard: str) -> pl.DataFrame:
    return step.scan(documents, shard=shard).select("document_id", "text").sort("document_id").collect()


def _score_shard(step: Step, table: Table, shard: str, documents: pl.DataFrame, bm25, stamp: str) -> None:
    keys = [(BM25, query_id) for query_id in bm25.query_ids]
    ids, texts = documents["document_id"].to_list(), documents["text"].to_list()
    rows = score_rows(table, shard, keys, ids, bm25.scores(texts), stamp)
    # Dagster knows the table as one piece, and is told of all shards by the last of them.
    whole = {"dagster/row_count": bm25.documents * len(keys), "documents": bm25.documents, "words": bm25.words}
    step.write(table, rows, stamp, where={"shard": shard}, metadata=whole)
