"""study/<study>/index_statistics: of each shard what tells how well the index finds its documents, and what adds up.

The queries of the set stand in for those that are asked later: the index's estimates of their scores against the
scores of the pass, over all documents of the shard. One more shard adds its rows; the others are not read again.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.curvature.factors import stored_curvature
from assets.lake.columns import QUERY_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.memory import refuse_beyond_memory
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.study.completions import completions_table
from assets.study.document_index import document_index_table, study_sketch
from assets.study.index_search import codes_of, index_batches
from assets.study.influence import influence_table
from assets.study.moments import Moments
from assets.study.query_gradients import query_gradients_table
from assets.study.stored_gradients import stored_gradients
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

if TYPE_CHECKING:
    from compute.sign_codes import CodeQuery

CODE_VERSION = "1"
STORY = "Estimates of the index against the scores of the pass, summed up: index_agreement adds the shards up."
FIRST, OVERLAPPING = 10, 50
PAIR = ("score", "estimate")
FLOATS, SCORES = pa.list_(pa.float64()), pa.list_(pa.float32())


def index_statistics_table(study: str) -> Table:
    best = "The highest {} by the index, falling: as many as options.index.candidates, and 50 at least."
    return Table(
        key=("study", study, "index_statistics"),
        grain="one row per shard and query",
        columns=(
            SHARD,
            QUERY_ID,
            Column("documents", pa.int64(), "Documents that were compared."),
            Column("means", FLOATS, "Mean EK-FAC score, and mean estimate of it."),
            Column("co_moments", FLOATS, "Σ (x − x̄)(y − ȳ) of score with score, score with estimate, both estimates."),
            Column("best_estimates", SCORES, best.format("estimates")),
            Column("top_scores", SCORES, f"The {OVERLAPPING} highest scores, falling; ties by document id."),
            Column("top_estimates", SCORES, "The estimates of these documents."),
            Column("best_normed_estimates", SCORES, best.format("estimates ÷ norm")),
            Column("top_normed_scores", SCORES, f"The {FIRST} highest scores ÷ norm, falling; ties by document id."),
            Column("top_normed_estimates", SCORES, "The estimates ÷ norm of these documents."),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("query_id",),
        row_group_rows=1_000,
    )


def index_statistics_asset(study: Study) -> dg.AssetsDefinition:
    """Estimates the scores of shards by the index, and compares them with those of the pass."""
    table = index_statistics_table(study.name)

    @dg.asset(
        **asset_arguments(
            table, f"study_{study.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",)
        ),
        deps=[each(study.name).asset_key for each in (document_index_table, influence_table, query_gradients_table)],
        partitions_def=shard_partitions(study.spec.corpus.name),
        backfill_policy=several_shards_per_run(),
        pool="gpu",
    )
    def index_statistics(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _compare_shards(step, study))

    return index_statistics


def estimates_kept(candidates: int) -> int:
    """Of a query's highest estimates in a shard, and of all shards together."""
    return max(OVERLAPPING, candidates)


def index_statistics_stamps(stored: Step | StoredNow, study: Study) -> dict[str, str]:
    """The fingerprint that the statistics of each indexed shard have when they are up to date. Raises BadInput for a
    shard that is scored and not indexed, or the other way round."""
    indexed, scored = (
        stored.shard_fingerprints(table(study.name)) for table in (document_index_table, influence_table)
    )
    for shard in sorted(indexed.keys() ^ scored.keys()):
        missing, there = ("document_index", "scored") if shard in scored else ("influence", "indexed")
        raise BadInput(f"study {study.name}: shard {shard} is {there}, and has no rows in {missing}; materialize it")
    kept = estimates_kept(study.spec.options.index.candidates)
    return {
        shard: fingerprint("index_statistics", CODE_VERSION, kept, of_index, scored[shard])
        for shard, of_index in indexed.items()
    }


def _compare_shards(step: Step, study: Study) -> None:
    """The queries are sketched once for all shards that are due."""
    table, stamps = index_statistics_table(study.name), index_statistics_stamps(step, study)
    shards = step.context.partition_keys
    due = [shard for shard in shards if not step.is_current(table, stamps.get(shard), shard)]
    if not due:
        return
    index = document_index_table(study.name)
    rows = step.lake.partition_rows(index, version=step.version(index))
    most = max((rows.get(shard, 0) for shard in due), default=0)
    queries = _code_queries(step, study, most) if most else {}
    kept = estimates_kept(study.spec.options.index.candidates)
    total = sum(rows.get(shard, 0) for shard in due)
    with step.progress(f"{study.name}: the index's estimates", total, "documents") as progress:

        def compare(shard: str) -> None:
            stamp = stamps.get(shard)
            found = statistics_rows(_of_shard(step, study, queries, shard), kept) if rows.get(shard) else ()
            told = [row | {"shard": shard, "fingerprint": stamp} for row in found]
            step.write(table, pa.Table.from_pylist(told, schema=table.schema), stamp, shard=shard)
            progress.advance(rows.get(shard, 0))
            step.tracking.log_metrics({"documents": progress.done}, due.index(shard))

        step.each_shard(compare, due)


def _code_queries(step: Step, study: Study, shard_documents: int) -> dict[str, "CodeQuery"]:
    """The queries' sketches by id, of their EK-FAC gradients as the pass takes them."""
    from compute.sign_codes import CodeQuery

    model, modules = open_traced_model(step, study)
    queries = step.scan(completions_table(study.name)).select(pl.len()).collect().item()
    sizes = {"documents": shard_documents, "tokens": study.spec.corpus.max_tokens, "queries": queries}
    refuse_beyond_memory(study, "index_statistics", model, modules, shard_documents=shard_documents, **sizes)
    gradients = stored_gradients(step, study.name)
    sketch = study_sketch(study, stored_curvature(step, study, model, modules), modules)
    return {
        query_id: CodeQuery(sketch.of_direction({name: each.dense() for name, each in of_query.items()}))
        for (method, query_id), of_query in gradients.items()
        if method == "ekfac"
    }


def _of_shard(step: Step, study: Study, queries: Mapping[str, "CodeQuery"], shard: str) -> pl.DataFrame:
    """A row per query and document. The codes of a batch are compared with all queries while they are in memory, so
    that the index is read once."""
    listed, estimates_QD = _estimated(step, study, queries, shard)
    places = pl.DataFrame({"query_id": list(queries)}).with_row_index("query_place")
    scores = step.scan(influence_table(study.name), shard=shard).filter(method="ekfac")
    scores = scores.select("query_id", "document_id", "score").join(places.lazy(), on="query_id")
    rows = scores.join(listed.lazy(), on="document_id").collect()
    estimates = estimates_QD[rows["query_place"].to_numpy(), rows["place"].to_numpy()]
    return rows.drop("query_place", "place").with_columns(estimate=pl.Series(estimates, dtype=pl.Float32))


def _estimated(
    step: Step, study: Study, queries: Mapping[str, "CodeQuery"], shard: str
) -> tuple[pl.DataFrame, np.ndarray]:
    """The shard's documents with their norms and places, and the estimates of all queries in that order."""
    listed, estimates = [], []
    for batch in index_batches(step, study, shard):
        codes, factors_D = codes_of(batch), batch.column("factor").to_numpy()
        estimates.append(np.stack([query.estimates(codes, factors_D) for query in queries.values()]))
        listed.append(pl.DataFrame({name: pl.from_arrow(batch.column(name)) for name in ("document_id", "norm")}))
    return pl.concat(listed).with_row_index("place"), np.concatenate(estimates, axis=1)


def statistics_rows(compared: pl.DataFrame, most: int) -> Iterator[dict]:
    """Of one shard's rows per query and document, with `score`, `estimate` and `norm`: a row per query."""
    over = pl.when(pl.col("norm") > 0)
    normed = {f"normed_{name}": over.then(pl.col(name) / pl.col("norm")).otherwise(0.0) for name in PAIR}
    for (query_id,), rows in compared.with_columns(**normed).group_by("query_id"):
        moments = Moments.of(np.stack([rows[name].to_numpy() for name in PAIR]))
        top = rows.sort("score", "document_id", descending=[True, False]).head(OVERLAPPING)
        top_normed = rows.sort("normed_score", "document_id", descending=[True, False]).head(FIRST)
        yield {
            "query_id": query_id,
            "documents": len(rows),
            "means": moments.mean,
            "co_moments": moments.co_moments[np.triu_indices(2)],
            "best_estimates": rows["estimate"].top_k(most).sort(descending=True),
            "top_scores": top["score"],
            "top_estimates": top["estimate"],
            "best_normed_estimates": rows["normed_estimate"].top_k(most).sort(descending=True),
            "top_normed_scores": top_normed["normed_score"],
            "top_normed_estimates": top_normed["normed_estimate"],
        }
