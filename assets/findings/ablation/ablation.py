"""study/<study>/ablation: how well the scores of each setting agree with full-rank float32 EK-FAC, query by query.

Only the pinned sample of documents is scored, for all queries of the study, by the same pass as its shards. What a pass
takes stands next to how well it agrees, so that rank and precision can be chosen by both. The paper found a Pearson of
.96 for low rank, .95 with 2 diagonal blocks and .93 with 4.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from assets.curvature.factors import covariances_table, eigenbasis_table, eigenvalues_table
from assets.curvature.sample import sample_table
from assets.figures.previews import bounded, kept_figure, table_of
from assets.findings.ablation.own_setting import own_agreement, own_problem, own_sentence
from assets.findings.ablation.sample import ablation_sample_table
from assets.findings.ablation.scoring import Scored, Scoring
from assets.findings.ablation.unasked import or_without, told_how_to_do_without
from assets.findings.ablation.variants import REFERENCE, Variant, own_variant, variants_of
from assets.findings.analysis import SHOWN, drawn, evidence_metrics
from assets.findings.evidence import Evidence, evidence_rows, evidence_table
from assets.findings.uncertainty.bootstrap import Interval
from assets.findings.uncertainty.values import mean_interval
from assets.lake.columns import METHOD, POSITION, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.findings import FindingsSpec
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.completions import completions_table, query_side_dtypes, query_side_tables
from assets.tracking.tracking import Tracking
from compute.agreement import query_agreement

CODE_VERSION = "1"
STORY = "How well settings that cost less agree with full-rank float32 EK-FAC on a sample of documents, and their time."
ANALYSIS = "ablation"
EVERY_QUERY = "all queries"
SCORED_BY = "ekfac"  # what evidence is about: the scores that all settings are compared with


def ablation_table(study: str) -> Table:
    number = pa.float64()
    return Table(
        key=("study", study, "ablation"),
        grain="one row per setting and query",
        columns=(
            POSITION,
            Column("variant", pa.string(), "What differs from full-rank float32 EK-FAC, which is called full rank."),
            Column("is_study", pa.bool_(), "Whether it is the setting by which the study itself is scored."),
            METHOD,
            Column("rank", pa.string(), "Rank of query gradients per module: a number, full, or auto."),
            Column("products", pa.string(), "Precision in which scoring multiplies gradients."),
            Column("dtype", pa.string(), "Precision of the model's weights and activations."),
            Column("blocks", pa.int32(), "Diagonal blocks that the fit's A and S are cut into; 1: not cut."),
            QUERY_ID,
            Column("pearson", number, "Pearson's correlation with the scores at full rank, over the documents."),
            Column("spearman", number, "Spearman's: that of the ranks."),
            Column("overlap", pa.int32(), "Documents that both top lists have."),
            Column("listed", pa.int32(), "Length of those lists: 50, or a sixth of fewer than 300 documents."),
            Column("documents", pa.int32(), "Documents compared."),
            Column(
                "seconds", number, "Of the pass over them for all queries: the processor's on a CPU, else the clock's."
            ),
            STAMP,
        ),
        sort_by=("position",),
    )


def ablation_asset(study: Study) -> dg.AssetsDefinition:
    """Scores the sample under every setting."""
    table, checks = ablation_table(study.name), ablation_checks(study)

    @dg.asset(
        **asset_arguments(
            table,
            f"study_{study.name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("torch",),
            checks=checks,
        ),
        deps=[each.asset_key for each in _upstream(study)],
        pool="gpu",
    )
    def ablation(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _ablate(step, study, table), checks=checks)

    return ablation


def ablation_checks(study: Study) -> tuple[Check, Check, Check]:
    table, least = ablation_table(study.name), study.spec.options.min_agreement
    own = f"As the study is scored, every query correlates with full-rank float32 at {least} (options.min_agreement)."
    return (
        Check(table, "agreement_finite", "Every setting's scores have a correlation with those at full rank."),
        Check(table, "every_query_once", "Every setting has one row per query of the study."),
        Check(table, "own_setting_agrees", own, blocking=False),
    )


def _upstream(study: Study) -> tuple[Table, ...]:
    fit = study.spec.curvature.name
    of_fit = (table(fit) for table in (sample_table, covariances_table, eigenbasis_table, eigenvalues_table))
    return (ablation_sample_table(study.name), completions_table(study.name), *of_fit, *query_side_tables(study))


def _stamp(step: Step, study: Study) -> str:
    spec, options, findings = study.spec.ablation, study.spec.options, study.spec.findings
    return fingerprint(
        ANALYSIS,
        CODE_VERSION,
        spec.model_dump(exclude={"documents", "seed"}),  # these are the sample's
        [options.rank, options.agreement, options.agreement_documents, options.products, options.damping],
        query_side_dtypes(study),
        [findings.resamples, findings.seed],
        [step.fingerprint(table) for table in _upstream(study)],
    )


def _ablate(step: Step, study: Study, table: Table) -> None:
    stamp = _stamp(step, study)
    if step.is_current(table, stamp):
        _check_own_setting(step, study, step.lake.scan(table).collect())
        return
    with told_how_to_do_without(study):
        scoring = Scoring(step, study)
        rows = pl.DataFrame(_compared(step, study, scoring)).with_row_index("position")
    _check_rows(step, study, rows, scoring.query_ids)
    _check_own_setting(step, study, rows)
    found = ablation_evidence(rows, study.spec.findings)
    told = evidence_rows(ANALYSIS, found, stamp)
    step.write(evidence_table(study.name), told, stamp, where={"analysis": ANALYSIS})
    step.tracking.log_metrics(evidence_metrics(found), 0)
    documents, queries = len(scoring.documents), len(scoring.queries)
    facts = {"settings": rows["variant"].n_unique(), "queries": queries, "documents": documents}
    step.tracking.log_params(facts | {"own setting": own_variant(study).name})
    data = rows.with_columns(fingerprint=pl.lit(stamp)).select(table.schema.names)
    shown = {"the study's own setting": own_sentence(rows)} | _previews(step, rows, pl.from_arrow(told))
    step.write(table, data.to_arrow().cast(table.schema), stamp, metadata={**facts, **shown})


def _compared(step: Step, study: Study, scoring: Scoring) -> Iterator[dict]:
    """The rows of the table, setting by setting; the reference is the first."""
    variants, own = variants_of(study), own_variant(study)
    total = len(variants) * len(scoring.documents)
    expected: Scored | None = None
    with step.progress(f"{study.name}: ablation by {len(variants)} settings", total, "documents") as progress:
        for variant in variants:
            scored = scoring.scored(variant, progress)
            expected = expected or scored
            for row in agreement_rows(variant, scoring.query_ids, scored, expected):
                yield row | {"is_study": variant == own}


def agreement_rows(
    variant: Variant, query_ids: Sequence[str], scored: Scored, expected: Scored
) -> Iterator[dict[str, object]]:
    """One row per query: how the scores of the variant agree with those that are `expected`."""
    agreed = query_agreement(scored.scores_QD, expected.scores_QD)
    constant = {
        "variant": variant.name,
        "method": variant.method,
        "rank": str(variant.rank),
        "products": variant.products,
        "dtype": variant.dtype,
        "blocks": variant.blocks,
        "listed": agreed.listed,
        "documents": scored.scores_QD.shape[1],
        "seconds": scored.seconds,
    }
    for number, query_id in enumerate(query_ids):
        yield constant | {
            "query_id": query_id,
            "pearson": float(agreed.pearson_Q[number]),
            "spearman": float(agreed.spearman_Q[number]),
            "overlap": int(agreed.overlap_Q[number]),
        }


def _check_rows(step: Step, study: Study, rows: pl.DataFrame, query_ids: Sequence[str]) -> None:
    finite, once, _ = ablation_checks(study)
    bad = rows.filter(~(pl.col("pearson").is_finite() & pl.col("spearman").is_finite()))
    problem = None
    if len(bad):
        variant, query = bad.select("variant", "query_id").row(0)
        problem = (
            f"study {study.name}: scores of query {query} under the setting '{variant}' have no correlation with those "
            "at full rank (all are equal, or one is not finite)"
        )
        problem = or_without(study, problem)
    step.check(finite, problem)
    of_variants = rows.group_by("variant").agg("query_id")
    uneven = [name for name, ids in of_variants.iter_rows() if sorted(ids) != sorted(query_ids)]
    problem = f"study {study.name}: setting '{uneven[0]}' has not one row per query" if uneven else None
    step.check(once, problem)


def _check_own_setting(step: Step, study: Study, rows: pl.DataFrame) -> None:
    """Also of rows that were kept: the option may have changed since."""
    own = own_agreement(rows)
    facts = {"Pearson, mean": own.mean, "Pearson, worst": own.worst, "query": own.query_id, "setting": own.setting}
    problem = own_problem(study.name, rows, study.spec.options.min_agreement)
    step.check(ablation_checks(study)[-1], problem, metadata=facts)


def ablation_evidence(rows: pl.DataFrame, settings: FindingsSpec) -> list[Evidence]:
    """Of rows of the table: the mean agreement of each setting over all queries, with its interval."""
    compared, found = rows.filter(pl.col("variant") != REFERENCE.name), []
    for (variant,), part in compared.group_by("variant", maintain_order=True):
        for statistic, values_Q in _statistics(part).items():
            interval = mean_interval(values_Q, resamples=settings.resamples, seed=settings.seed)
            named = {"method": SCORED_BY, "statistic": f"{statistic}, {variant}"}
            found.append(Evidence.of_group(EVERY_QUERY, _possible(interval), len(values_Q), **named))
    return found


def _statistics(part: pl.DataFrame) -> Mapping[str, np.ndarray]:
    """Values per query, by the words of the evidence."""
    return {
        "Pearson correlation": part["pearson"].to_numpy(),
        "Spearman correlation": part["spearman"].to_numpy(),
        f"share of the top {part['listed'][0]} in common": (part["overlap"] / part["listed"]).to_numpy(),
    }


def _possible(interval: Interval) -> Interval:
    """No correlation and no share ends above 1."""
    return Interval(interval.estimate, interval.low, min(interval.high, 1.0) if interval.high > 1 else interval.high)


def _previews(step: Step, rows: pl.DataFrame, evidence: pl.DataFrame) -> dict:
    figure = kept_figure(step.tracking, ANALYSIS, lambda: drawn(ANALYSIS, rows, evidence))
    tables = {"agreement": table_of(summary(rows), limit=24), "evidence": table_of(evidence, limit=12, columns=SHOWN)}
    return bounded(figure | tables)


def summary(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per setting: mean and worst query, and the pass's time next to that at full rank."""
    full = rows.filter(variant=REFERENCE.name)["seconds"][0]
    return rows.group_by("variant", maintain_order=True).agg(
        study=pl.col("is_study").first(),
        pearson=pl.col("pearson").mean(),
        worst_pearson=pl.col("pearson").min(),
        spearman=pl.col("spearman").mean(),
        top_in_common=(pl.col("overlap") / pl.col("listed")).mean(),
        worst_top_in_common=(pl.col("overlap") / pl.col("listed")).min(),
        seconds=pl.col("seconds").first(),
        times_full_rank=pl.col("seconds").first() / full,
    )
