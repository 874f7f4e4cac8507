"""What all analyses have in common: an asset over all shards that writes its table, its evidence and its figures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from assets.figures.previews import bounded, kept_figure, table_of
from assets.findings.evidence import Evidence, evidence_rows, evidence_table
from assets.findings.groups import grouped
from assets.findings.outdated import outdated_shards, refuse_outdated
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.tracking.tracking import Tracking

if TYPE_CHECKING:
    from assets.figures.drawing import Figure


SHOWN = ("method", "group", "contrast", "statistic", "estimate", "low", "high", "p_adjusted")


@dataclass(frozen=True)
class Found:
    """What an analysis found: its table's rows without the fingerprint, and its evidence."""

    rows: pl.DataFrame
    evidence: Sequence[Evidence]
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """One of the paper's analyses. `by_shard` are the statistics that it adds up; `find` does the work."""

    name: str
    code_version: str
    story: str
    table: Callable[[str], Table]
    by_shard: Callable[[Study], Sequence[Table]]
    find: Callable[[Step, Study], Found]


def analysis_asset(study: Study, analysis: Analysis) -> dg.AssetsDefinition:
    """The analysis as an asset of the study."""
    name, table = study.name, analysis.table(study.name)
    deps: Iterable = (
        *(dg.AssetDep(t.asset_key, partition_mapping=dg.AllPartitionMapping()) for t in analysis.by_shard(study)),
        completions_table(name).asset_key,
        coverage_table(name).asset_key,
    )

    @dg.asset(
        **asset_arguments(
            table, f"study_{name}", analysis.code_version, analysis.story, owners=study.spec.owners, kinds=("polars",)
        ),
        deps=deps,
    )
    def found(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _analyse(step, study, analysis, table))

    return found


def queries_of(step: Step, study: Study) -> pl.DataFrame:
    """The study's queries with their groups (`groups.grouped`)."""
    return grouped(step.scan(completions_table(study.name)).collect())


def framed(rows: Iterable[Mapping], table: Table, *without: str) -> pl.DataFrame:
    """Rows as a frame with the types of the table's columns, also where there are none; `without` some of them."""
    columns = pl.from_arrow(table.schema.empty_table()).drop("fingerprint", *without).schema
    return pl.DataFrame(list(rows), schema=columns)


def drawn(analysis: str, rows: pl.DataFrame, evidence: pl.DataFrame) -> "Figure":
    """The figure of an analysis, out of its table's rows and its evidence."""
    from assets.findings import charts

    return getattr(charts, f"{analysis}_figure")(rows, evidence)


def _analyse(step: Step, study: Study, analysis: Analysis, table: Table) -> None:
    refuse_incomplete(step, study)
    refuse_outdated(step, study, analysis.by_shard(study))
    stamp = analysis_stamp(step, study, analysis)
    if step.is_current(table, stamp):
        return
    found = analysis.find(step, study)
    evidence, where = evidence_table(study.name), {"analysis": analysis.name}
    rows = evidence_rows(analysis.name, found.evidence, stamp)
    step.write(evidence, rows, stamp, where=where)
    told = pl.from_arrow(rows)
    previews = kept_figure(step.tracking, analysis.name, lambda: drawn(analysis.name, found.rows, told))
    previews |= {"evidence": table_of(told, limit=12, columns=SHOWN)}
    step.tracking.log_metrics(evidence_metrics(found.evidence), 0)
    frame = found.rows.with_columns(fingerprint=pl.lit(stamp)).select(table.schema.names)
    step.write(table, frame.to_arrow().cast(table.schema), stamp, metadata={**found.facts, **bounded(previews)})


def analysis_stamp(stored: Step | StoredNow, study: Study, analysis: Analysis) -> str:
    """The fingerprint that the analysis has when it is up to date."""
    shards = [stored.shard_fingerprints(table) for table in analysis.by_shard(study)]
    queries = stored.fingerprint(completions_table(study.name))
    # A judge changes no analysis, and the shards' statistics know what they are compared with.
    settings = study.spec.findings.model_dump(mode="json", exclude={"judge", "compare"})
    return fingerprint(analysis.name, analysis.code_version, settings, shards, queries)


def outdated_analysis(now: StoredNow, study: Study, analyses: Sequence[Analysis]) -> str | None:
    """A sentence on the first of the analyses that is not of the scores as they are now; None where all are.

    Looks at their rows and their evidence; one that found nothing has neither, and is of any scores. Raises BadInput
    where BM25 is behind.
    """
    if problem := outdated_shards(now, study, [table for each in analyses for table in each.by_shard(study)]):
        return problem
    evidence = now.shard_fingerprints(evidence_table(study.name))
    for analysis in analyses:
        table, stamp = analysis.table(study.name), analysis_stamp(now, study, analysis)
        if now.lake.version(table) is None or {evidence.get(analysis.name), now.fingerprint(table)} - {None, stamp}:
            return f"study {study.name}: {table.path} is not of the scores as they are now; materialize it first"
    return None


def evidence_metrics(evidence: Sequence[Evidence]) -> dict[str, float]:
    """For MLflow: the estimates under names that it takes."""
    named = {
        f"{each.method}/{each.statistic}/{each.group}{f' - {each.contrast}' if each.contrast else ''}": each.estimate
        for each in evidence
    }
    return {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in name): value for name, value in named.items()}
