"""study/<study>/influence, /document_norms and /candidates: a shard's documents scored for all queries, in one pass.

Positive scores mean that weighting the document up lowers the loss of the query's completion.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import ShardDocuments, documents_table, shard_documents
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.tokenizer import tokenizer_table
from assets.curvature.factors import stored_curvature
from assets.curvature.sample import typical_tokens
from assets.figures.charts import influence_distribution
from assets.figures.previews import kept_figure
from assets.lake.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.model.memory import refuse_beyond_memory, refuse_bound_beyond_gpu
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.checks import Check, check_specs
from assets.step.declaring import AFTER_A_CRASH, dagster_name, spec_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, Written, run_step
from assets.step.stored_now import StoredNow
from assets.study.candidates import best_of, candidate_rows, candidates_table, score_sample
from assets.study.completions import completions_table
from assets.study.query_gradients import query_gradients_table, refuse_other_curvature
from assets.study.routes_told import tell_routes
from assets.study.shards_in_flight import bytes_beside
from assets.study.stored_gradients import stored_gradients
from assets.tracking.tracking import Tracking
from compute.methods import whitens

if TYPE_CHECKING:
    from compute.influence import Scores
    from compute.passes import OnBatch

CODE_VERSION = "1"
STORY = "All documents for all queries, by one pass over the corpus; positive: more of it would lower the loss."
NORMS_STORY = "How large each document's gradient is, by which rankings are normed, and its loss."
CANDIDATES_STORY = "The best and worst of a shard, which is all that rankings read of it."


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
    corpus, checks = study.spec.corpus.name, influence_checks(study.name)
    stories = {influence_table: STORY, document_norms_table: NORMS_STORY, candidates_table: CANDIDATES_STORY}
    deps = [each.asset_key for each in (documents_table(corpus), *origins(study))]

    @dg.multi_asset(
        name=dagster_name(f"study__{study.name}__influence"),  # no study's job can be called so
        specs=[
            dg.AssetSpec(
                **spec_arguments(
                    table(study.name),
                    f"study_{study.name}",
                    CODE_VERSION,
                    story,
                    owners=study.spec.owners,
                    kinds=("torch",),
                ),
                deps=deps,
            )
            for table, story in stories.items()
        ],
        check_specs=check_specs(checks),
        partitions_def=shard_partitions(corpus),
        backfill_policy=several_shards_per_run(),
        retry_policy=AFTER_A_CRASH,
        pool="gpu",
    )
    def influence(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _score_shards(step, study), checks=checks)

    return influence


def influence_checks(study: str) -> tuple[Check, Check]:
    """Of the scores of a shard before they are written: a shard that fails has no rows."""
    table = influence_table(study)
    return (
        Check(table, "scores_finite", "Every score and every document's gradient norm is finite."),
        Check(table, "every_document_scored_once", "A shard holds one score per method, query and document."),
    )


def scores_tables(study: str) -> tuple[Table, Table, Table]:
    """The tables that come out of the one pass over a shard."""
    return (influence_table(study), document_norms_table(study), candidates_table(study))


def expected_stamps(stored: Step | StoredNow, study: Study, shards: Iterable[str]) -> dict[str, str | None]:
    """The fingerprint that each shard's scores have when they are up to date; None for a shard without documents.

    `stored` tells fingerprints, as of a step or as they are now.
    """
    options = [study.spec.options.top_k, study.spec.model.dtype]
    if study.spec.options.products != "float32":  # the default is not named, so that older scores stay current
        options.append(study.spec.options.products)
    inputs = fingerprint("influence", CODE_VERSION, *options, [stored.fingerprint(each) for each in origins(study)])
    documents = stored.shard_fingerprints(documents_table(study.spec.corpus.name))
    return {shard: fingerprint(inputs, documents[shard]) if shard in documents else None for shard in shards}


def origins(study: Study) -> tuple[Table, ...]:
    """What every shard's scores come from, next to its documents."""
    return (query_gradients_table(study.name), checkpoint_table(study.spec.model.name))


def pass_over_documents(
    study: Study, model, modules, gradients: list[tuple[str, dict]], typical: int, curvature, products: str = ""
):
    """The engine's pass along these gradients, each with its method, for documents of `typical` tokens.

    It has the study's options; `products` takes the place of the study's own precision. The `curvature` is what
    trackstar whitens documents by, and None where no method does.
    """
    from compute.checkpoint import DTYPES
    from compute.influence import InfluencePass

    options = study.spec.options
    products = products or options.products
    return InfluencePass(
        model,
        modules,
        [each for _, each in gradients],
        typical_tokens=typical,
        token_budget=options.token_budget,
        memory_bytes=options.memory_bytes,
        products=None if products == "float32" else DTYPES[products],
        methods=[method for method, _ in gradients],
        curvature=curvature,
    )


def _score_shards(step: Step, study: Study) -> None:
    """Scores the shards that are not current; the model and the queries' gradients are loaded once for all of them."""
    from compute.routes import factors_bytes

    tables, documents = scores_tables(study.name), documents_table(study.spec.corpus.name)
    stamps = expected_stamps(step, study, step.context.partition_keys)
    due = [shard for shard in stamps if not all([step.is_current(table, stamps[shard], shard) for table in tables])]
    if not due:
        return
    for table in tables:
        step.lake.ensure(table)
    model, modules = open_traced_model(step, study)
    length, rows = typical_tokens(step, study.spec.curvature.name), step.lake.partition_rows(documents)
    queries = step.scan(completions_table(study.name)).select(pl.len()).collect().item()
    most = max((rows.get(shard, 0) for shard in due), default=0)
    sizes = {"documents": max(1, most), "tokens": length, "queries": queries, "shard_documents": most}
    directions = queries * len(study.spec.options.methods)
    beside = bytes_beside(most, length, directions, study.spec.options.top_k, several=len(due) > 1)
    refuse_beyond_memory(study, "influence", model, modules, beside=beside, **sizes)
    refuse_bound_beyond_gpu(study, "influence", model)
    curvature = _whitening(step, study, model, modules)
    gradients = stored_gradients(step, study.name, factors_bytes(study.spec.options.memory_bytes))
    keys = list(gradients)
    influence_pass = pass_over_documents(
        study, model, modules, [(method, each) for (method, _), each in gradients.items()], length, curvature
    )
    del gradients  # the pass has laid them out
    step.tracking.log_params({"queries": len({query for _, query in keys})})
    routes = tell_routes(step.tracking, influence_pass.chosen, modules)
    step.version(tokenizer_table(study.spec.corpus.name))  # which tells MLflow, and reading ahead must not
    kinds = dict(step.scan(completions_table(study.name)).select("query_id", "kind").collect().iter_rows())
    places = {shard: place for place, shard in enumerate(due)}
    pictured = False  # one a run: it costs more than a small shard
    total = sum(rows.get(shard, 0) for shard in due)
    with step.progress(f"{study.name}: influence", total, "documents") as progress:

        def read(shard: str) -> ShardDocuments:
            return shard_documents(step, study.spec.corpus.name, shard)

        def score(shard: str, documents: ShardDocuments, look: Callable[[], None]) -> Callable[[], list[Written]]:
            nonlocal pictured

            def on_batch(count: int, _: int) -> None:
                progress.advance(count)
                look()

            scored = _score_shard(step, study, influence_pass, keys, shard, documents, on_batch)
            rate = {"documents": progress.done, "documents_per_second": progress.done / progress.seconds}
            step.tracking.log_metrics(rate | {"shard_tokens": documents.tokens}, places[shard])
            picture = {} if pictured or not documents.ids else _picture(step, scored, kinds)
            pictured = pictured or bool(picture)
            return lambda: _write_shard(step, study, scored, stamps[shard], routes | picture)

        step.each_shard_overlapped(due, read=read, work=score)


def _whitening(step: Step, study: Study, model, modules):
    """The curvature, where a method divides by the norm of a document's whitened gradient."""
    if not whitens(study.spec.options.methods):
        return None
    refuse_other_curvature(step, study)
    return stored_curvature(step, study, model, modules)


@dataclass(frozen=True)
class _ScoredShard:
    """The scores of a shard's documents along each of `keys`, a method and a query."""

    shard: str
    keys: list[tuple[str, str]]
    documents: ShardDocuments
    scores: "Scores"


def _score_shard(
    step: Step, study: Study, influence_pass, keys, shard: str, documents: ShardDocuments, on_batch: "OnBatch"
) -> _ScoredShard:
    """Raises CheckFailedError for scores that are not to be written."""
    scores = influence_pass.score(documents.sequences, on_batch=on_batch)
    _check_scores(step, study, shard, keys, documents.ids, scores)
    return _ScoredShard(shard, keys, documents, scores)


def _picture(step: Step, scored: _ScoredShard, kinds: dict[str, str | None]) -> dict:
    sampled = score_sample(scored.keys, scored.scores.scores_QD, kinds)
    return kept_figure(step.tracking, "scores", lambda: influence_distribution(sampled))


def _write_shard(step: Step, study: Study, scored: _ScoredShard, stamp: str | None, shown: dict) -> list[Written]:
    """Commits the shard's rows of all three tables, influence last, with what is `shown` of it: it may run beside the
    work on the next shard."""
    influence, norms, candidates = scores_tables(study.name)
    shard, keys, documents, scores = scored.shard, scored.keys, scored.documents, scored.scores
    best_rows = candidate_rows(
        shard, keys, documents.ids, scores.scores_QD, scores.norms_D, study.spec.options.top_k, stamp
    )
    rows = score_rows(influence, shard, keys, documents.ids, scores.scores_QD, stamp)
    best, tokens = best_of(best_rows), documents.tokens
    facts = {"documents": len(documents.ids), "tokens": tokens, "best of the shard": best} | shown
    norm_rows = _norm_rows(norms, shard, documents, scores, stamp)
    return [
        step.commit(norms, norm_rows, stamp, shard=shard, metadata=_norm_facts(scores, tokens)),
        step.commit(candidates, best_rows, stamp, shard=shard, metadata={"best": best}),
        step.commit(influence, rows, stamp, shard=shard, metadata=facts),
    ]


def _norm_facts(scores, tokens: int) -> dict:
    import numpy as np

    if not tokens:
        return {}
    return {
        "median norm": float(np.median(scores.norms_D)),
        "loss (nats per token)": float(scores.loss_D.sum() / tokens),
    }


def _check_scores(step: Step, study: Study, shard: str, keys, ids: list[str], scores) -> None:
    import numpy as np

    finite, once = influence_checks(study.name)
    where = f"study {study.name}: shard {shard}"
    bad = np.flatnonzero(~(np.isfinite(scores.scores_QD).all(axis=0) & np.isfinite(scores.norms_D)))
    problem = (
        f"{where}: {len(bad)} documents have a score that is not finite, such as {ids[bad[0]]}" if len(bad) else None
    )
    step.check(finite, problem, shard=shard)
    shape, expected = scores.scores_QD.shape, (len(set(keys)), len(set(ids)))
    problem = f"{where}: scores are {shape}, and should be one per method, query and document, {expected}"
    step.check(once, None if shape == expected else problem, shard=shard)


def score_rows(table: Table, shard: str, keys, ids: list[str], scores_qd, stamp: str) -> Iterator[pa.RecordBatch]:
    """All scores of a shard by method, query and falling score, a query at a time; for tables with these columns."""
    import numpy as np

    identities = pa.array(ids, pa.string())
    for (method, query_id), scores in sorted(zip(keys, scores_qd, strict=True), key=lambda pair: pair[0]):
        order = np.argsort(-scores, kind="stable")
        constant = {"shard": shard, "method": method, "query_id": query_id, "fingerprint": stamp}
        columns = {name: pa.repeat(pa.scalar(value), len(ids)) for name, value in constant.items()}
        columns |= {"document_id": identities.take(pa.array(order)), "score": pa.array(scores[order], pa.float32())}
        yield pa.RecordBatch.from_arrays([columns[name] for name in table.schema.names], schema=table.schema)


def _norm_rows(table: Table, shard: str, documents: ShardDocuments, scores: "Scores", stamp: str | None) -> pa.Table:
    columns = {
        "shard": [shard] * len(documents.ids),
        "document_id": documents.ids,
        "norm": pa.array(scores.norms_D, pa.float32()),
        "loss": pa.array(scores.loss_D, pa.float64()),
        "tokens": pa.array([len(each) for each in documents.sequences], pa.int32()),
        "fingerprint": [stamp] * len(documents.ids),
    }
    return pa.table(columns, schema=table.schema)
