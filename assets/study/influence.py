"""study/<study>/influence, /document_norms and /candidates: a shard's documents scored for all queries, in one pass.

Positive scores mean that weighting the document up lowers the loss of the query's completion.
"""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from assets.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, STAMP
from assets.corpus.documents import document_rows, documents_table
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.fingerprints import fingerprint
from assets.lake import Lake
from assets.model.checkpoint import checkpoint_table
from assets.model.opening import open_traced_model
from assets.step import Step, asset_arguments, dagster_name, open_step
from assets.study.candidates import candidate_rows, candidates_table
from assets.study.query_gradients import query_gradients_table, stored_gradients
from assets.study.spec import Study
from assets.tables import Column, Table
from assets.tracking import Tracking

CODE_VERSION = "1"


def influence_table(study: str) -> Table:
    return Table(
        key=("study", study, "influence"),
        grain="one row per method, query and document",
        columns=(
            SHARD,
            METHOD,
            QUERY_ID,
            DOCUMENT_ID,
            Column("score", pa.float32(), "Positive: more of the document would lower the completion's loss."),
            STAMP,
        ),
        partition_by=("shard",),  # rows are written by method, query and falling score: a top list reads one row group
    )


def document_norms_table(study: str) -> Table:
    return Table(
        key=("study", study, "document_norms"),
        grain="one row per document",
        columns=(
            SHARD,
            DOCUMENT_ID,
            Column("norm", pa.float32(), "Norm of the document's gradient over the tracked modules."),
            Column("loss", pa.float64(), "The document's summed cross-entropy, in nats."),
            Column("tokens", pa.int32(), "Number of tokens, special ones included."),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("document_id",),
    )


def influence_asset(study: Study) -> dg.AssetsDefinition:
    """Scores shards of documents; the tables of a shard come out of one pass."""
    corpus = study.spec.corpus.name
    upstream = (query_gradients_table(study.name), checkpoint_table(study.spec.model.name))
    tables = (influence_table(study.name), document_norms_table(study.name), candidates_table(study.name))
    deps = [dg.AssetKey(each.key) for each in (documents_table(corpus), *upstream)]

    @dg.multi_asset(
        name=dagster_name(f"study_{study.name}_influence"),
        specs=[
            dg.AssetSpec(**asset_arguments(table, f"study_{study.name}", CODE_VERSION), deps=deps) for table in tables
        ],
        partitions_def=shard_partitions(corpus),
        backfill_policy=several_shards_per_run(),
        pool="gpu",
    )
    def influence(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        with open_step(context, lake, tracking) as step:
            inputs = fingerprint(
                "influence",
                CODE_VERSION,
                study.spec.options.top_k,
                study.spec.model.dtype,
                [step.fingerprint(each) for each in upstream],
            )
            _score_shards(step, study, {shard: _stamp(step, corpus, shard, inputs) for shard in context.partition_keys})
        for table in tables:
            yield dg.MaterializeResult(asset_key=table.key)

    return influence


def _stamp(step: Step, corpus: str, shard: str, inputs: str) -> str | None:
    """None for a shard without documents."""
    documents_stamp = step.fingerprint(documents_table(corpus), shard)
    return documents_stamp and fingerprint(inputs, documents_stamp)


def _score_shards(step: Step, study: Study, stamps: dict[str, str | None]) -> None:
    """Scores the shards that are not current; the model and the queries' gradients are loaded once for all of them."""
    tables = (influence_table(study.name), document_norms_table(study.name), candidates_table(study.name))
    due = {
        shard: stamp
        for shard, stamp in stamps.items()
        if not all([step.is_current(table, stamp, shard) for table in tables])
    }
    if not due:
        return
    from compute.influence import InfluencePass

    gradients = stored_gradients(step, study.name)
    model, modules = open_traced_model(step, study)
    influence_pass = InfluencePass(
        model, modules, list(gradients.values()), typical_tokens=_typical_tokens(step, study.spec.corpus.name)
    )
    step.tracking.log_params(
        {"queries": len({query for _, query in gradients}), "routes": influence_pass.route_names()}
    )
    total = _documents_in(step, study.spec.corpus.name, due)
    with step.progress(f"{study.name}: influence", total, "documents") as progress:
        for number, (shard, stamp) in enumerate(due.items()):
            tokens = _score_shard(step, study, influence_pass, list(gradients), shard, stamp, progress)
            rate = {"documents": progress.done, "documents_per_second": progress.done / progress.seconds}
            step.tracking.log_metrics(rate | {"shard_tokens": tokens}, number)


def _score_shard(step: Step, study: Study, influence_pass, keys, shard: str, stamp: str, progress) -> int:
    from compute.batches import Sequence

    documents = document_rows(step, study.spec.corpus.name, shard)
    scores = influence_pass.score(
        [Sequence(row["document_id"], row["token_ids"]) for row in documents],
        token_budget=study.spec.options.token_budget,
        on_batch=lambda count, _: progress.advance(count),
    )
    ids = [row["document_id"] for row in documents]
    top_k = study.spec.options.top_k
    influence, norms = influence_table(study.name), document_norms_table(study.name)
    tokens = sum(row["tokens"] for row in documents)
    step.write(norms, _norm_rows(norms, shard, documents, scores, stamp), stamp, shard=shard)
    candidates = candidate_rows(shard, keys, ids, scores.scores_QD, scores.norms_D, top_k, stamp)
    step.write(candidates_table(study.name), candidates, stamp, shard=shard)
    rows = _influence_rows(influence, shard, keys, ids, scores.scores_QD, stamp)
    step.write(influence, rows, stamp, shard=shard, metadata={"documents": len(ids), "tokens": tokens})
    return tokens


def _influence_rows(table: Table, shard: str, keys, ids: list[str], scores_qd, stamp: str) -> Iterator[pa.RecordBatch]:
    """All scores of a shard by method, query and falling score, a query at a time."""
    import numpy as np

    identities = pa.array(ids, pa.string())
    for (method, query_id), scores in sorted(zip(keys, scores_qd, strict=True), key=lambda pair: pair[0]):
        order = np.argsort(-scores, kind="stable")
        constant = {"shard": shard, "method": method, "query_id": query_id, "fingerprint": stamp}
        columns = {name: pa.repeat(pa.scalar(value), len(ids)) for name, value in constant.items()}
        columns |= {"document_id": identities.take(pa.array(order)), "score": pa.array(scores[order], pa.float32())}
        yield pa.RecordBatch.from_arrays([columns[name] for name in table.schema.names], schema=table.schema)


def _norm_rows(table: Table, shard: str, documents: list[dict], scores, stamp: str) -> pa.Table:
    columns = {
        "shard": [shard] * len(documents),
        "document_id": [row["document_id"] for row in documents],
        "norm": pa.array(scores.norms_D, pa.float32()),
        "loss": pa.array(scores.loss_D, pa.float64()),
        "tokens": pa.array([row["tokens"] for row in documents], pa.int32()),
        "fingerprint": [stamp] * len(documents),
    }
    return pa.table(columns, schema=table.schema)


def _typical_tokens(step: Step, corpus: str) -> int:
    import polars as pl

    mean = step.scan(documents_table(corpus)).select(pl.col("tokens").mean()).collect().item()
    return int(mean or 1)


def _documents_in(step: Step, corpus: str, shards) -> int:
    import polars as pl

    return (
        step.scan(documents_table(corpus)).filter(pl.col("shard").is_in(list(shards))).select(pl.len()).collect().item()
    )
