"""study/<study>/claims: which of the paper's effects hold here, and which in the controls too (analysis 7).

`claim_rules` has the rules; which claims there are stands here.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.figures.previews import table_of
from assets.findings.analysis import Analysis, outdated_analysis
from assets.findings.claim_rules import Claim, is_specific, verdict_of
from assets.findings.cuts import cut_name, tested_percentage
from assets.findings.evidence import evidence_table
from assets.lake.columns import METHOD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.declaring import AFTER_A_CRASH, dagster_name, spec_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.step.stored_now import StoredNow
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "3"
EVIDENCE_STORY = "What every analysis found, in the same words; each analysis wrote its own part."
STORY = "Whether each of the paper's effects holds in this study, and whether it holds in the controls too."
REPRESENTED = re.compile(r"representation of (.*, top \d+)$", re.DOTALL)
INFLUENCE = re.compile(r"positive influence per nat, top ([0-9.e+-]+) %$")


def claims_table(study: str) -> Table:
    number = pa.float64()
    return Table(
        key=("study", study, "claims"),
        grain="one row per claim and method",
        columns=(
            Column("claim", pa.string(), "Short name of the claim."),
            METHOD,
            Column("sentence", pa.string(), "The claim."),
            Column("holds", pa.bool_(), "Whether the evidence shows that it holds for the queries."),
            Column(
                "in_controls",
                pa.bool_(),
                "Whether it does for their controls; null: there are none, or too few to tell.",
                nullable=True,
            ),
            Column(
                "more_than_controls",
                pa.bool_(),
                "Whether the effect is shown to be larger than in their controls; null: none, or too few to tell.",
                nullable=True,
            ),
            Column(
                "task_specific",
                pa.bool_(),
                "True: it holds, not in the controls, and is larger. False: it does not, or does there. Null: open.",
                nullable=True,
            ),
            Column(
                "verdict",
                pa.string(),
                "The same in words: not found; too few queries; holds, and no controls, too few controls, in controls "
                "too, controls may too (neither shown nor told apart), not in controls.",
            ),
            Column("analysis", pa.string(), "The analysis whose evidence decides it."),
            Column("statistic", pa.string(), "What is compared there."),
            Column("group", pa.string(), "Queries that it is about."),
            Column("contrast", pa.string(), "Queries that they are compared with; null: chance.", nullable=True),
            Column("estimate", number, "The mean, or the difference."),
            Column("low", number, "Lower end of its 95 % interval."),
            Column("high", number, "Upper end of its 95 % interval."),
            Column("chance", number, "What chance gives; NaN: a contrast."),
            Column("p_adjusted", number, "Corrected p-value: of a contrast, or against chance; NaN: unknown."),
            Column("queries", pa.int32(), "Queries that it is decided on."),
            Column("control_estimate", number, "The same mean or difference of the controls; NaN: there are none."),
            Column("control_low", number, "Lower end of its interval."),
            Column("control_high", number, "Upper end of its interval."),
            Column("control_p_adjusted", number, "Its corrected p-value."),
            Column("control_queries", pa.int32(), "Controls that it is of; 0: there are none."),
            STAMP,
        ),
        sort_by=("claim", "method"),
    )


def claims_asset(study: Study, decisive: Sequence[Table], analyses: Sequence[Analysis]) -> dg.AssetsDefinition:
    """Gathers the evidence of which each of the `decisive` tables' steps has written a part, and decides all claims on
    it; `analyses` are those of them that must be of the scores as they are now."""
    table, group = claims_table(study.name), f"study_{study.name}"
    stories = {evidence_table(study.name): EVIDENCE_STORY, table: STORY}

    @dg.multi_asset(
        name=dagster_name(f"study__{study.name}__claims"),
        specs=[
            dg.AssetSpec(
                **spec_arguments(each, group, CODE_VERSION, story, owners=study.spec.owners, kinds=("polars",)),
                deps=[each.asset_key for each in decisive],
            )
            for each, story in stories.items()
        ],
        retry_policy=AFTER_A_CRASH,
    )
    def claims(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _decide(step, study, table, decisive, analyses))

    return claims


def claims_stamp(evidence: Mapping[str, str], decisive: Sequence[Table]) -> str:
    """The fingerprint that the claims have when they are up to date with the evidence, given its own by analysis."""
    return fingerprint("claims", CODE_VERSION, {name: evidence.get(name) for name in _names(decisive)})


def _names(decisive: Sequence[Table]) -> list[str]:
    return [each.key[-1] for each in decisive]


def _decide(step: Step, study: Study, table: Table, decisive: Sequence[Table], analyses: Sequence[Analysis]) -> None:
    if problem := outdated_analysis(StoredNow(step.lake), study, analyses):
        raise BadInput(problem)
    stamps = step.lake.fingerprints(evidence_table(study.name), version=step.version(evidence_table(study.name)))
    names, stamp = _names(decisive), claims_stamp(stamps, decisive)
    evidence = step.scan(evidence_table(study.name)).filter(pl.col("analysis").is_in(names)).collect()
    gathered = {"dagster/row_count": len(evidence), "Delta version": step.version(evidence_table(study.name))}
    step.report.add(evidence_table(study.name), None, stamp, gathered)
    if step.is_current(table, stamp):
        return
    rows = decided(evidence)
    specific = sum(bool(row["task_specific"]) for row in rows)
    data = pa.Table.from_pylist([row | {"fingerprint": stamp} for row in rows], schema=table.schema)
    told = ("method", "sentence", "verdict", "estimate", "low", "high")
    facts = {"claims": len(rows), "hold": sum(row["holds"] for row in rows), "hold and not in controls": specific}
    step.write(table, data, stamp, metadata=facts | {"claims decided": table_of(pl.from_arrow(data), 20, told, 120)})


def decided(evidence: pl.DataFrame) -> list[dict]:
    """Every claim that the evidence can decide, for every method."""
    keys, rows = ("analysis", "method", "statistic", "group", "contrast"), []
    known = {tuple(row[key] for key in keys): row for row in evidence.iter_rows(named=True)}
    for method in evidence["method"].unique().sort():
        for claim in _claims(evidence):
            if row := claim.evidence(known, method):
                control = claim.of_controls().evidence(known, method)
                rows.append(_decided(claim, row, control, claim.against_controls(known, method)))
    return rows


def _decided(claim: Claim, row: dict, control: dict | None, contrast: dict | None) -> dict:
    holds, in_controls = claim.holds(row), claim.holds(control) if control else None
    more = claim.is_larger(row, control, contrast) if control else None
    verdict = verdict_of(holds, bool(control), in_controls, more)
    kept = {name: row[name] for name in ("method", "estimate", "low", "high", "chance", "p_adjusted", "queries")}
    numbers = ("estimate", "low", "high", "p_adjusted")
    of_control = {f"control_{name}": control[name] if control else math.nan for name in numbers}
    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "holds": bool(holds),
        "in_controls": in_controls,
        "more_than_controls": more,
        "task_specific": is_specific(verdict),
        "verdict": verdict,
        "analysis": claim.analysis,
        "statistic": claim.statistic,
        "group": claim.group,
        "contrast": claim.contrast,
        **kept,
        **of_control,
        "control_queries": control["queries"] if control else 0,
    }


def _claims(evidence: pl.DataFrame) -> Iterator[Claim]:
    """The paper's effects; what is counted at the top is asked at every depth that the corpus has."""
    kinds = [group for group in evidence["group"].unique().sort() if group in ("factual", "reasoning")]
    found = evidence.select("analysis", "statistic").unique().sort("statistic", "analysis").rows()
    for analysis, statistic in found:
        if analysis == "verdicts":
            yield from _claims_of_judge(statistic)
        elif analysis == "answers" and statistic.startswith("answer in the "):
            depth = statistic.removeprefix("answer in the ")
            for kind in kinds:
                what = "the answer" if kind == "factual" else "the answers of all steps"
                sentence = f"Documents with {what} of {kind} queries are in the {depth} more often than by chance."
                yield Claim(f"answers of {kind} queries, {depth}", "answers", sentence, statistic, kind)
            sentence = f"Answers of factual queries are in the {depth} more often than those of reasoning queries."
            yield Claim(f"answers, {depth}", "answers", sentence, statistic, "factual", "reasoning")
        elif analysis == "kinds":
            sentence = "Procedural documents are over-represented among the most influential ones of reasoning queries."
            yield Claim("procedural documents", "kinds", sentence, statistic, "reasoning")
        elif analysis == "sources" and (represented := REPRESENTED.match(statistic)):
            source = represented[1]
            for kind in kinds:
                sentence = f"Documents of {source}, are over-represented for {kind} queries."
                yield Claim(f"{source}, {kind}", "sources", sentence, statistic, kind)
    for kind in kinds:
        sentence = f"{kind.capitalize()} queries of the same task draw on the same documents more than those of others."
        same, other = f"{kind}, same task", f"{kind}, other task"
        yield Claim(f"same task, {kind}", "correlation", sentence, "mean correlation", same, other)
    sentence = "Reasoning queries draw on the same documents as each other more than factual queries do."
    yield Claim("shared documents", "correlation", sentence, "mean correlation", "factual", "reasoning", sign=-1)
    if cuts := [float(match[1]) for _, statistic in found if (match := INFLUENCE.match(statistic))]:
        cut = cut_name(tested_percentage(cuts))
        sentence = f"The {cut} of documents have more influence per nat on factual than on reasoning queries."
        statistic = f"positive influence per nat, {cut}"
        yield Claim("magnitude", "magnitude", sentence, statistic, "factual", "reasoning")
        sentence = "That influence varies more among factual than among reasoning queries."
        yield Claim("volatility", "magnitude", sentence, f"volatility of {statistic}", "factual", "reasoning")
    sentence = "Influence falls off more steeply with rank for factual than for reasoning queries."
    yield Claim("power law", "power_law", sentence, "slope", "factual", "reasoning", sign=-1)


def _claims_of_judge(statistic: str) -> Iterator[Claim]:
    """Contrasts alone: nobody judged the whole corpus, so what chance gives is not known."""
    asked, _, judge = statistic.partition(", by ")  # a judge's name has no comma
    depth, kinds = asked.rpartition(", ")[2].removeprefix("answer in the "), ("factual", "reasoning")
    if asked.startswith("answer in the "):
        sentence = f"{judge} finds the answers of factual queries in the {depth} more often than of reasoning queries."
        yield Claim(f"answers, {depth}, by {judge}", "verdicts", sentence, statistic, *kinds)
    else:
        sentence = f"{judge} finds more procedural documents in the {depth} of reasoning than of factual queries."
        yield Claim(f"procedural documents, {depth}, by {judge}", "verdicts", sentence, statistic, *kinds, sign=-1)
