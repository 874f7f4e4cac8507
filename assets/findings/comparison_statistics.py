"""study/<study>/comparison_statistics: how a shard's scores go with those that other studies gave the same documents.

Queries are matched by id and prompt, methods by name; completions may differ, as those of two models do. Two models may
each have a corpus of their own, cut from the same records by the same tokenizer. A shard's rows hold means and sums of
squares around them, so that shards add up to the correlation over the whole corpus.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.tokenizer import tokenizer_table
from assets.lake.columns import METHOD, QUERY_ID, SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.behind import BEHIND, is_begun, shard_states
from assets.study.completions import completions_table
from assets.study.influence import influence_table
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "How the scores of a shard go with those that other studies gave the same documents for the same queries."
KEY = ["method", "query_id"]
WHOLE = ["other_study", *KEY]


def comparison_statistics_table(study: str) -> Table:
    number = pa.float64()
    return Table(
        key=("study", study, "comparison_statistics"),
        grain="one row per shard, other study, method and query",
        columns=(
            SHARD,
            Column("other_study", pa.string(), "The study whose scores these are compared with."),
            METHOD,
            QUERY_ID,
            Column("documents", pa.int64(), "Documents that both have scored."),
            Column("mean", number, "Mean score of the shard's documents, x̄."),
            Column("other_mean", number, "That in the other study, ȳ."),
            Column("m2", number, "Σ (x − x̄)²."),
            Column("other_m2", number, "Σ (y − ȳ)²."),
            Column("co_moment", number, "Σ (x − x̄)(y − ȳ)."),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("other_study", "method", "query_id"),
    )


def comparison_asset(study: Study, others: Iterable[Study]) -> dg.AssetsDefinition:
    """Compares shards with those of the studies that `findings.compare` names, found among `others`."""
    table, by_name = comparison_statistics_table(study.name), {each.name: each for each in others}
    compared = [study, *(by_name[name] for name in study.spec.findings.compare if name in by_name)]
    by_shard = dg.IdentityPartitionMapping()  # also where the other's shards are those of another corpus

    @dg.asset(
        **asset_arguments(
            table, f"study_{study.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",)
        ),
        deps=[
            *(dg.AssetDep(influence_table(each.name).asset_key, partition_mapping=by_shard) for each in compared),
            *(completions_table(each.name).asset_key for each in compared),
        ],
        partitions_def=shard_partitions(study.spec.corpus.name),
        backfill_policy=several_shards_per_run(),
    )
    def statistics(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _compare_shards(step, study, by_name))

    return statistics


def compared_correlations(step: Step, study: Study, documents: Mapping[str, int]) -> pl.DataFrame:
    """Of all shards together: other_study, method, query_id, documents and r (NaN: one of them scores all documents
    alike). `documents` has the number of documents by method; every study that is named must have compared all."""
    schema = {**dict.fromkeys(WHOLE, pl.String), "documents": pl.Int64, "r": pl.Float64}
    if not study.spec.findings.compare:
        return pl.DataFrame(schema=schema)
    rows = step.scan(comparison_statistics_table(study.name)).collect().sort(*WHOLE, "shard")
    found = _correlations(rows.filter(pl.col("other_study").is_in(study.spec.findings.compare)))
    whole = all(documents.get(method) == count for method, count in found.select("method", "documents").iter_rows())
    if not whole or set(found["other_study"]) != set(study.spec.findings.compare):
        raise BadInput(
            f"study {study.name}: its shards are not all compared with {', '.join(study.spec.findings.compare)}; "
            "materialize comparison_statistics of all shards again"
        )
    return found.cast(schema)


def _correlations(rows: pl.DataFrame) -> pl.DataFrame:
    n, x, y = (pl.col(name) for name in ("documents", "mean", "other_mean"))
    dx, dy = (each - (n * each).sum() / n.sum() for each in (x, y))  # of a shard's mean from that of all documents
    sums = rows.group_by(WHOLE, maintain_order=True).agg(
        documents=n.sum(),
        m2=(pl.col("m2") + n * dx * dx).sum(),
        other_m2=(pl.col("other_m2") + n * dy * dy).sum(),
        co_moment=(pl.col("co_moment") + n * dx * dy).sum(),
    )
    r = (pl.col("co_moment") / (pl.col("m2").sqrt() * pl.col("other_m2").sqrt())).clip(-1.0, 1.0)
    return sums.select(*WHOLE, "documents", r=r)


@dataclass(frozen=True)
class _Other:
    """Another study, as far as it can be compared: queries that both have, methods of both, and its shards."""

    name: str
    queries: list[str]
    methods: list[str]
    states: Mapping[str, str]
    stamps: Mapping[str, str]

    def stamp(self, shard: str) -> tuple:
        return (self.name, self.queries, self.methods, self.stamps.get(shard))


def _compare_shards(step: Step, study: Study, by_name: Mapping[str, Study]) -> None:
    table, shards = comparison_statistics_table(study.name), step.context.partition_keys
    others = [_other(step, study, name, by_name) for name in study.spec.findings.compare]
    states, own = shard_states(step.lake, study), step.shard_fingerprints(influence_table(study.name))
    with step.progress(f"{study.name}: comparison with other studies", len(shards), "shards") as progress:

        def compare(shard: str) -> None:
            _refuse_behind(study.name, shard, states)
            for other in others:
                _refuse_behind(other.name, shard, other.states)
            told = [other.stamp(shard) for other in others]
            stamp = fingerprint("comparison_statistics", CODE_VERSION, own[shard], told) if shard in own else None
            if not step.is_current(table, stamp, shard):
                rows = [_shard_rows(step, study, other, shard) for other in others] if stamp else []
                step.write(table, _written(rows, shard, stamp), stamp, shard=shard)
            progress.advance(1)

        step.each_shard(compare, shards)


def _other(step: Step, study: Study, name: str, by_name: Mapping[str, Study]) -> _Other:
    """Raises BadInput where nothing of it can be compared."""
    where, corpus = f"study {study.name}: findings.compare names {name}", study.spec.corpus.name
    if (other := by_name.get(name)) is None:
        raise BadInput(f"{where}, and there is no such study here; correct the name, or add the study's file")
    if not is_begun(step.lake, other) or step.lake.version(influence_table(name)) is None:
        raise BadInput(f"{where}, which has no scores yet; run study {name} first")
    if len({_tokenizer(step, each) for each in (corpus, other.spec.corpus.name)}) > 1:
        raise BadInput(
            f"{where}, whose corpus {other.spec.corpus.name} is cut by another tokenizer than {corpus}; "
            "name a study of documents that are cut alike"
        )
    asked, theirs = (
        step.scan(completions_table(each)).select("query_id", "prompt").collect() for each in (study.name, name)
    )
    queries = asked.join(theirs, on=["query_id", "prompt"])["query_id"].sort().to_list()
    if not queries:
        raise BadInput(f"{where}, but no query has the same id and prompt in both; give both queries that are alike")
    methods = [method for method in sorted(study.spec.options.methods) if method in other.spec.options.methods]
    if not methods:
        raise BadInput(f"{where}, but no method is in both; give both studies a common one (options.methods)")
    stamps = step.shard_fingerprints(influence_table(name))
    return _Other(name, queries, methods, shard_states(step.lake, other), stamps)


def _tokenizer(step: Step, corpus: str) -> str:
    return step.scan(tokenizer_table(corpus)).select("tokenizer_fingerprint").first().collect().item()


def _refuse_behind(study: str, shard: str, states: Mapping[str, str]) -> None:
    state = states.get(shard, "missing")
    if state in BEHIND:
        raise BadInput(
            f"study {study}: shard {shard} is not scored as it should be ({state}), so it cannot be compared; "
            "materialize its influence"
        )


def _shard_rows(step: Step, study: Study, other: _Other, shard: str) -> pl.DataFrame:
    own, theirs = (_scores(step, name, other, shard) for name in (study.name, other.name))
    both = own.join(theirs, on=[*KEY, "document_id"], suffix="_there")
    if not len(own) == len(theirs) == len(both):
        raise BadInput(
            f"study {study.name}: its scores of shard {shard} are of other documents than those of study {other.name}; "
            "materialize the influence of both again"
        )
    x, y = (pl.col(name).cast(pl.Float64) for name in ("score", "score_there"))
    dx, dy = x - x.mean(), y - y.mean()
    return both.group_by(KEY).agg(
        other_study=pl.lit(other.name),
        documents=pl.len().cast(pl.Int64),
        mean=x.mean(),
        other_mean=y.mean(),
        m2=(dx * dx).sum(),
        other_m2=(dy * dy).sum(),
        co_moment=(dx * dy).sum(),
    )


def _scores(step: Step, study: str, other: _Other, shard: str) -> pl.DataFrame:
    wanted = pl.col("method").is_in(other.methods) & pl.col("query_id").is_in(other.queries)
    scores = step.scan(influence_table(study), shard=shard).filter(wanted)
    # Sorted, so that sums are taken in one order however the rows were written.
    return scores.select(*KEY, "document_id", "score").collect().sort(*KEY, "document_id")


def _written(rows: list[pl.DataFrame], shard: str, stamp: str | None) -> pa.Table:
    schema = comparison_statistics_table("any").schema
    if not rows:
        return schema.empty_table()
    whole = pl.concat(rows).with_columns(shard=pl.lit(shard), fingerprint=pl.lit(stamp))
    return whole.select(schema.names).to_arrow()
