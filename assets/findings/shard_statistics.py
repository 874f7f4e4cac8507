"""The step that makes a shard's statistics out of its scores and the sources of its documents."""

from collections.abc import Iterator

import dagster as dg
import numpy as np
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.findings.score_statistics import (
    score_statistics_rows,
    score_statistics_table,
    source_statistics_rows,
    source_statistics_table,
)
from assets.findings.scores import scanned_scores, score_stamps, score_tables
from assets.lake.lake import Lake
from assets.specs.methods import NORMED_AS_THEY_ARE
from assets.specs.study import Study
from assets.step.declaring import AFTER_A_CRASH, dagster_name, spec_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.study.influence import document_norms_table
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "Moments, histogram and both ends of a shard's scores: what the findings add up, so that scores are read once."
SOURCES_STORY = "How the scores of each source are distributed, for over- and under-representation."


def shard_statistics_asset(study: Study) -> dg.AssetsDefinition:
    """Sums up the scores of shards."""
    stories = {score_statistics_table: STORY, source_statistics_table: SOURCES_STORY}
    upstream = (*score_tables(study), document_norms_table(study.name), documents_table(study.spec.corpus.name))
    deps = [table.asset_key for table in upstream]
    group = f"study_{study.name}"

    @dg.multi_asset(
        name=dagster_name(f"study__{study.name}__score_statistics"),
        specs=[
            dg.AssetSpec(
                **spec_arguments(table(study.name), group, CODE_VERSION, story, owners=study.spec.owners), deps=deps
            )
            for table, story in stories.items()
        ],
        partitions_def=shard_partitions(study.spec.corpus.name),
        backfill_policy=several_shards_per_run(),
        retry_policy=AFTER_A_CRASH,
    )
    def statistics(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _sum_up_shards(step, study))

    return statistics


def statistics_stamps(stored: Step | StoredNow, study: Study) -> dict[str, str]:
    """The fingerprint that the statistics of each scored shard have when they are up to date."""
    documents = stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    return {
        shard: fingerprint("score_statistics", CODE_VERSION, study.spec.findings.depth, scores, documents.get(shard))
        for shard, scores in score_stamps(stored, study).items()
    }


def _sum_up_shards(step: Step, study: Study) -> None:
    shards, stamps = step.context.partition_keys, statistics_stamps(step, study)
    with step.progress(f"{study.name}: statistics of scores", len(shards), "shards") as progress:

        def sum_up(shard: str) -> None:
            _sum_up_shard(step, study, shard, stamps.get(shard))
            progress.advance(1)

        step.each_shard(sum_up, shards)


def _sum_up_shard(step: Step, study: Study, shard: str, stamp: str | None) -> None:
    tables = (score_statistics_table(study.name), source_statistics_table(study.name))
    if all([step.is_current(table, stamp, shard) for table in tables]):
        return
    keys, ids, sources, scores = _scores(step, study, shard)
    norms = _norms(step, study, shard)
    with np.errstate(divide="ignore", invalid="ignore"):
        normed = np.where(norms > 0, scores / norms, 0).astype(np.float32)
    for place, (method, _) in enumerate(keys):
        if method in NORMED_AS_THEY_ARE:
            normed[place] = scores[place]
    ranked = {"normed": normed, "raw": scores}
    depth = study.spec.findings.depth
    rows = [score_statistics_rows(shard, name, keys, ids, each, depth, stamp) for name, each in ranked.items()]
    step.write(tables[0], pa.concat_tables(rows), stamp, shard=shard)
    rows = [source_statistics_rows(shard, name, keys, sources, each, stamp) for name, each in ranked.items()]
    step.write(tables[1], pa.concat_tables(rows), stamp, shard=shard)


def _norms(step: Step, study: Study, shard: str) -> np.ndarray:
    """Gradient norms of the shard's documents, in the order of their ids."""
    norms = step.scan(document_norms_table(study.name), shard=shard).select("document_id", "norm")
    return norms.sort("document_id").collect()["norm"].to_numpy()


def _scores(step: Step, study: Study, shard: str) -> tuple[list[tuple[str, str]], list[str], list[str], np.ndarray]:
    """Keys (method, query), document ids, their sources, and the scores as a matrix, one row per key."""
    documents = step.scan(documents_table(study.spec.corpus.name), shard=shard)
    listed = documents.select("document_id", "source").sort("document_id").with_row_index("place").collect()
    placed = scanned_scores(step, study, shard).join(listed.lazy().select("document_id", "place"), on="document_id")
    scored = placed.sort("method", "query_id", "place").select("method", "query_id", "score").collect()
    keys = scored.select("method", "query_id").unique(maintain_order=True).rows()
    if len(scored) != len(keys) * len(listed):
        raise BadInput(
            f"study {study.name}: shard {shard} has {len(scored)} scores for {len(listed)} documents and {len(keys)} "
            "methods and queries; materialize its influence again"
        )
    scores = scored["score"].to_numpy().reshape(len(keys), len(listed))
    return keys, listed["document_id"].to_list(), listed["source"].to_list(), scores
