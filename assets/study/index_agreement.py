"""study/<study>/index_agreement: how well the index of documents tells the scores of the queries that there are.

What it will do for a query that is asked later is measured on those of the set: the estimates of the index against the
scores of the pass, over all documents, and whether the documents that come first are among those that it proposes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from assets.curvature.factors import stored_curvature
from assets.lake.columns import QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.memory import refuse_beyond_memory
from assets.model.opening import open_traced_model
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.study.document_index import document_index_table, study_sketch
from assets.study.index_search import codes_of, index_batches, refuse_without_index
from assets.study.influence import document_norms_table, influence_table
from assets.study.query_gradients import query_gradients_table
from assets.study.stored_gradients import stored_gradients
from assets.tracking.tracking import Tracking

if TYPE_CHECKING:
    from compute.sign_codes import CodeQuery

CODE_VERSION = "1"
STORY = "Estimates of the index against the scores of the pass: what headwater ask will find of a query's documents."
FIRST, OVERLAPPING = 10, 50
ORDERS = {"raw": ("score", "estimate"), "normed": ("normed_score", "normed_estimate")}


def index_agreement_table(study: str) -> Table:
    found = f"Share of the {FIRST} documents with the highest {{}} that are among the proposed ones."
    return Table(
        key=("study", study, "index_agreement"),
        grain="one row per query",
        columns=(
            QUERY_ID,
            Column("documents", pa.int64(), "Documents that were compared."),
            Column("pearson", pa.float64(), "Correlation of estimates with EK-FAC scores; NaN: all are alike."),
            Column("overlap", pa.int32(), f"How many of the {OVERLAPPING} best by estimates are so by scores too."),
            Column(
                "proposed", pa.int32(), "Documents that the index proposes: options.index.candidates, or all of fewer."
            ),
            Column("found", pa.float64(), found.format("score")),
            Column("found_normed", pa.float64(), found.format("score ÷ norm")),
            STAMP,
        ),
        sort_by=("query_id",),
    )


def index_agreement_asset(study: Study) -> dg.AssetsDefinition:
    """Estimates all scores by the index, and compares them with those of the pass."""
    name = study.name
    table, check = index_agreement_table(name), _found_check(study)
    by_shard = (document_index_table(name), influence_table(name), document_norms_table(name))

    @dg.asset(
        **asset_arguments(
            table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",), checks=[check]
        ),
        deps=[
            *(dg.AssetDep(each.asset_key, partition_mapping=dg.AllPartitionMapping()) for each in by_shard),
            coverage_table(name).asset_key,
            query_gradients_table(name).asset_key,
        ],
        pool="gpu",
    )
    def index_agreement(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _compare(step, study, table, check), checks=[check])

    return index_agreement


def _found_check(study: Study) -> Check:
    index = study.spec.options.index
    sentence = (
        f"Of the {FIRST} documents with the highest score ÷ norm, a share of {index.min_found} "
        f"(options.index.min_found) is among the {index.candidates} that the index proposes, in the mean over queries."
    )
    return Check(index_agreement_table(study.name), "documents_found", sentence, blocking=False)


def _compare(step: Step, study: Study, table: Table, check: Check) -> None:
    refuse_incomplete(step, study)
    refuse_without_index(step, study)
    stamp = _stamp(step, study)
    if step.is_current(table, stamp):
        _judge(step, study, check, step.lake.scan(table).collect())
        return
    rows = _agreement(step, study).with_columns(fingerprint=pl.lit(stamp)).select(table.schema.names)
    facts = {f"mean {name}": float(rows[name].mean()) for name in ("pearson", "overlap", "found", "found_normed")}
    step.write(table, rows.to_arrow(), stamp, metadata={name: value for name, value in facts.items() if value == value})
    _judge(step, study, check, rows)


def _judge(step: Step, study: Study, check: Check, rows: pl.DataFrame) -> None:
    """Also of what was kept: the option may have changed since."""
    found, index = float(rows["found_normed"].mean() or 0.0), study.spec.options.index
    low = (
        f"study {study.name}: the index proposes {found:.2f} of the best documents; raise options.index.dimensions or "
        "options.index.candidates"
    )
    step.check(check, None if found >= index.min_found else low, metadata={"share found, mean": found})


def _stamp(step: Step, study: Study) -> str:
    by_shard = [step.shard_fingerprints(each(study.name)) for each in (document_index_table, influence_table)]
    return fingerprint("index_agreement", CODE_VERSION, study.spec.options.index.candidates, by_shard)


@dataclass
class Compared:
    """What is kept of the shards that have been compared: sums for correlations, and both ends' best documents."""

    proposed: int
    sums: list[pl.DataFrame] = field(default_factory=list)
    best: dict[str, pl.DataFrame] = field(default_factory=dict)

    def add(self, rows: pl.DataFrame) -> None:
        """Of one shard, a row per query and document, with the columns of ORDERS."""
        x, y = pl.col("score").cast(pl.Float64), pl.col("estimate").cast(pl.Float64)
        sums = rows.group_by("query_id").agg(
            n=pl.len(), x=x.sum(), y=y.sum(), xx=(x * x).sum(), yy=(y * y).sum(), xy=(x * y).sum()
        )
        self.sums.append(sums)
        for pair in ORDERS.values():
            for by in pair:
                kept = [self.best[by]] if by in self.best else []
                order = pl.concat([*kept, rows]).sort("query_id", by, "document_id", descending=[False, True, False])
                most = max(OVERLAPPING, self.proposed)
                self.best[by] = order.group_by("query_id", maintain_order=True).head(most)

    def rows(self) -> pl.DataFrame:
        sums = pl.concat(self.sums).group_by("query_id").sum()
        n, x, y = (pl.col(name) for name in ("n", "x", "y"))
        covariance = pl.col("xy") - x * y / n
        spread = ((pl.col("xx") - x * x / n) * (pl.col("yy") - y * y / n)).sqrt()
        rows = sums.select("query_id", documents=n.cast(pl.Int64), pearson=covariance / spread)
        rows = rows.join(self._shared("raw", OVERLAPPING, OVERLAPPING).rename({"shared": "overlap"}), on="query_id")
        for name, ranking in (("found", "raw"), ("found_normed", "normed")):
            shared = self._shared(ranking, FIRST, self.proposed)
            rows = rows.join(shared.select("query_id", (pl.col("shared") / pl.col("of")).alias(name)), on="query_id")
        return rows.with_columns(
            pl.col("overlap").cast(pl.Int32), proposed=pl.min_horizontal("documents", self.proposed).cast(pl.Int32)
        )

    def _shared(self, ranking: str, first: int, among: int) -> pl.DataFrame:
        """Per query how many of the `first` by scores are among so many by estimates, and `of` how many."""
        by_score, by_estimate = (
            self.best[by].group_by("query_id", maintain_order=True).head(count).select("query_id", "document_id")
            for by, count in zip(ORDERS[ranking], (first, among), strict=True)
        )
        marked = by_score.join(by_estimate.with_columns(there=pl.lit(1)), on=["query_id", "document_id"], how="left")
        return marked.group_by("query_id").agg(shared=pl.col("there").sum(), of=pl.len())


def _agreement(step: Step, study: Study) -> pl.DataFrame:
    queries = _code_queries(step, study)
    shards = step.lake.partition_rows(
        document_index_table(study.name), version=step.version(document_index_table(study.name))
    )
    compared = Compared(study.spec.options.index.candidates)
    with step.progress(f"{study.name}: index agreement", sum(shards.values()), "documents") as progress:
        for shard, count in shards.items():
            compared.add(_of_shard(step, study, queries, shard))
            progress.advance(count)
    return compared.rows()


def _code_queries(step: Step, study: Study) -> dict[str, "CodeQuery"]:
    """The queries' sketches by id, of their EK-FAC gradients as the pass takes them."""
    from compute.sign_codes import CodeQuery

    model, modules = open_traced_model(step, study)
    queries = step.scan(completions_table(study.name)).select(pl.len()).collect().item()
    sizes = {"documents": 1, "tokens": study.spec.corpus.max_tokens, "queries": queries}
    refuse_beyond_memory(study, "index_agreement", model, modules, **sizes)
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
    rows = rows.drop("query_place", "place").with_columns(estimate=pl.Series(estimates, dtype=pl.Float32))

    def over(value: str) -> pl.Expr:
        return pl.when(pl.col("norm") > 0).then(pl.col(value) / pl.col("norm")).otherwise(0.0)

    return rows.with_columns(normed_score=over("score"), normed_estimate=over("estimate"))


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
