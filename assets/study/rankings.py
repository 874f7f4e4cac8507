"""study/<study>/rankings: the documents at both ends, per query and method, with text and exact token scores.

Rankings order by the low-rank scores of the pass. Next to them stand exact scores, recomputed for the documents listed
with the full-rank gradient of the query, and their shares per token and per module.
"""

import math
from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.documents import documents_table
from assets.figures.charts import source_shares
from assets.figures.previews import bounded, kept_figure, top_documents
from assets.lake.columns import DOCUMENT_ID, METHOD, QUERY_ID, SHARD, SOURCE, STAMP, TOKEN_IDS
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.methods import NORMED_AS_THEY_ARE, main_method
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.candidates import END, NORM, RANKING, SCORE, candidates_table
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.study.exact import add_exact_scores, agreement_of
from assets.study.influence import document_norms_table, influence_table
from assets.study.query_gradients import query_gradients_table
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "The documents at both ends, per query and method, with their text, exact scores and token scores."


def rankings_table(study: str) -> Table:
    floats = pa.list_(pa.float32())
    return Table(
        key=("study", study, "rankings"),
        grain="one row per method, query, ranking, end and rank",
        columns=(
            METHOD,
            QUERY_ID,
            RANKING,
            END,
            Column("rank", pa.int32(), "Rank over the whole corpus, from 1."),
            DOCUMENT_ID,
            SHARD,
            SOURCE,
            SCORE,
            Column("score_per_nat", pa.float64(), "Score divided by the completion's information in nats."),
            NORM,
            Column("normed_score", pa.float64(), "Score divided by the document's gradient norm, once."),
            Column("exact_score", pa.float64(), "Score by the query's full-rank gradient."),
            Column("text", pa.string(), "The document's text."),
            TOKEN_IDS,
            Column("tokens", pa.list_(pa.string()), "The document's tokens as text."),
            Column("token_scores", floats, "Share of the exact score that flows through the weights at each token."),
            Column("modules", pa.list_(pa.string()), "Names of the tracked modules."),
            Column("module_scores", floats, "Share of the exact score of each module."),
            Column("concentration", pa.float32(), "L2/L1 of the token scores; 1: one token carries everything."),
            Column("likely_spurious", pa.bool_(), "Whether the concentration is above 2/3."),
            STAMP,
        ),
        sort_by=("method", "query_id", "ranking", "end", "rank"),
        row_group_rows=200,  # a page reads the tokens of one row
    )


def rankings_asset(study: Study) -> dg.AssetsDefinition:
    """Merges the shards' candidates and joins what a reader wants to see."""
    name, corpus = study.name, study.spec.corpus.name
    table, check = rankings_table(name), _agreement_check(study)
    all_shards = (candidates_table(name), influence_table(name), document_norms_table(name), documents_table(corpus))
    whole = (coverage_table(name), completions_table(name), query_gradients_table(name))

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch", "polars"),
            checks=[check],
        ),
        deps=[
            *(dg.AssetDep(each.asset_key, partition_mapping=dg.AllPartitionMapping()) for each in all_shards),
            *(each.asset_key for each in whole),
        ],
        pool="gpu",
    )
    def rankings(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _rank(step, study, table, check), checks=[check])

    return rankings


def _agreement_check(study: Study) -> Check:
    least = study.spec.options.min_agreement
    sentence = (
        f"Low-rank scores correlate with exact ones at {least} at least (options.min_agreement), for the median query."
    )
    return Check(rankings_table(study.name), "low_rank_agreement", sentence, blocking=False)


def _rank(step: Step, study: Study, table: Table, check: Check) -> None:
    refuse_incomplete(step, study)
    stamp = _stamp(step, study)
    if step.is_current(table, stamp):
        columns = ("method", "query_id", "document_id", "score", "exact_score")
        _judge(step, study, check, agreement_of(step.lake.scan(table).select(columns).collect()))
        return
    rows, agreement = add_exact_scores(step, study, _ranked(step, study))
    _judge(step, study, check, agreement)
    frame = rows.with_columns(fingerprint=pl.lit(stamp)).select(table.schema.names)
    facts = _agreement_fact(agreement) | _previews(step, study, rows)
    step.write(table, frame.to_arrow(), stamp, metadata=facts)


def _judge(step: Step, study: Study, check: Check, agreement: float) -> None:
    """Also of rankings that were kept: the option may have changed since."""
    if math.isnan(agreement):
        step.check(
            check,
            f"study {study.name}: how low-rank scores correlate with exact ones could not be measured, since no query "
            "lists two documents with different scores",
        )
        return
    low = f"study {study.name}: low-rank scores correlate with exact ones at {agreement:.3f}; {_remedy(study)}"
    problem = None if agreement >= study.spec.options.min_agreement else low
    step.check(check, problem, metadata={"Pearson, median": agreement})


def _remedy(study: Study) -> str:
    options = study.spec.options
    if options.rank == "full":
        return "set options.products to float32" if options.products != "float32" else "see the model's dtype"
    return "raise options.agreement" if options.rank == "auto" else "raise options.rank"


def _agreement_fact(agreement: float) -> dict[str, float]:
    """Not of what could not be measured: NaN is no JSON."""
    return {} if math.isnan(agreement) else {"low-rank agreement (Pearson, median)": agreement}


def _stamp(step: Step, study: Study) -> str:
    """What the rankings depend on: every shard's scores, and the queries."""
    shards = step.shard_fingerprints(candidates_table(study.name))
    whole = [step.fingerprint(completions_table(study.name)), step.fingerprint(query_gradients_table(study.name))]
    return fingerprint("rankings", CODE_VERSION, study.spec.options.top_k, shards, whole)


def _ranked(step: Step, study: Study) -> pl.DataFrame:
    """The top k of all shards' candidates, with the documents' text and tokens."""
    keys = ("method", "query_id", "ranking", "end")
    by_ranking = pl.when(pl.col("ranking") == "raw").then("score").otherwise("normed_score")
    divided = (pl.col("score") / pl.col("norm")).fill_nan(0.0)
    normed = pl.when(pl.col("method").is_in(NORMED_AS_THEY_ARE)).then("score").otherwise(divided)
    candidates = (
        step.scan(candidates_table(study.name))
        .with_columns(normed_score=normed.cast(pl.Float64))
        .with_columns(order=by_ranking * pl.when(pl.col("end") == "top").then(-1).otherwise(1))
        .sort(*keys, "order", "document_id")
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over(keys))
        .filter(pl.col("rank") <= study.spec.options.top_k)
        .drop("order", "fingerprint")
        .collect()
    )
    if candidates.is_empty():
        raise BadInput(f"study {study.name}: no document has been scored; materialize its influence first")
    nats = step.scan(completions_table(study.name)).select("query_id", "nats").collect()
    ranked = candidates.join(nats, on="query_id", how="left").with_columns(
        score_per_nat=pl.col("score") / pl.col("nats")
    )
    return ranked.join(_listed_documents(step, study, candidates), on="document_id", how="left", maintain_order="left")


def _listed_documents(step: Step, study: Study, candidates: pl.DataFrame) -> pl.DataFrame:
    """Of the shards that hold them, and by conditions that Parquet's readers can push down: texts and tokens of what is
    not listed are not decoded."""
    listed = pl.col("shard").is_in(candidates["shard"].unique()) & pl.col("document_id").is_in(
        candidates["document_id"].unique()
    )
    documents = step.scan(documents_table(study.spec.corpus.name)).filter(listed)
    return documents.select("document_id", "source", "text", "token_ids").collect()


def _previews(step: Step, study: Study, rows: pl.DataFrame) -> dict:
    """The top documents of some queries, and which sources they are from."""
    queries = step.scan(completions_table(study.name)).collect()
    top = (
        rows.filter(method=main_method(study.spec.options.methods), ranking="normed", end="top")
        .group_by("source")
        .agg(top=pl.len())
    )
    documents = step.scan(documents_table(study.spec.corpus.name))
    shares = documents.group_by("source").agg(corpus=pl.len()).collect().join(top, on="source", how="left").fill_null(0)
    figure = kept_figure(step.tracking, "sources", lambda: source_shares(shares))
    return bounded({"top documents": top_documents(rows, queries), **figure})
