"""The asset study/<study>/verdicts: a judge reads the most influential documents, where the study names one.

It asks of each whether it holds the query's answer and of what kind it is for the query's task. What a verdict costs is
not lost: replies are written while the judge is at work, also where it fails, and what was asked before is not asked
again, even if the document was not among the top ones in between. Verdicts that cannot be read are left out of every
share; how many they are is told.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping

import dagster as dg
import polars as pl

from assets.corpus.documents import documents_table
from assets.figures.previews import bounded, kept_figure, table_of
from assets.findings.analysis import SHOWN, drawn, evidence_metrics, queries_of
from assets.findings.answer_statistics import study_rules
from assets.findings.comparing import Comparing
from assets.findings.document_rules import PROCEDURAL
from assets.findings.evidence import Evidence, evidence_rows, evidence_table
from assets.findings.judge import Judge, judge_fingerprint, open_judge
from assets.findings.judge_agreement import cohens_kappa, kinds_of_both, raw_agreement
from assets.findings.judging import (
    ANSWERS,
    CONTAINS,
    KINDS,
    PROMPT_VERSION,
    UNCLEAR,
    Question,
    answer_questions,
    judged,
    kept_replies,
    kind_question,
    verdict_rows,
    verdicts_table,
)
from assets.findings.merged import merged_ends
from assets.findings.outdated import refuse_outdated
from assets.findings.score_statistics import score_statistics_table
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.queries.queries import queries_table
from assets.specs.methods import main_method
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.tracking.tracking import Tracking

CODE_VERSION = "2"
STORY = "What a judge says of each query's most influential documents: is the answer there, and of what kind are they."
ANALYSIS = "verdicts"
SAVED_EVERY, SAVED_SECONDS = 200, 60.0
"""Verdicts, or seconds, after which they are written: so many a process that is killed may lose."""


def verdicts_asset(study: Study) -> dg.AssetsDefinition:
    """Asks the study's judge. A local one takes the place that models have on this machine."""
    name, table = study.name, verdicts_table(study.name)
    by_shard = (score_statistics_table(name), documents_table(study.spec.corpus.name))
    whole = (completions_table(name), coverage_table(name), queries_table(study.spec.queries.name))

    @dg.asset(
        **asset_arguments(table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",)),
        deps=[
            *(dg.AssetDep(each.asset_key, partition_mapping=dg.AllPartitionMapping()) for each in by_shard),
            *(each.asset_key for each in whole),
        ],
        pool="gpu" if study.spec.findings.judge.local else None,
    )
    def verdicts(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _give_verdicts(step, study, table))

    return verdicts


def _give_verdicts(step: Step, study: Study, table: Table) -> None:
    refuse_incomplete(step, study)
    refuse_outdated(step, study, [score_statistics_table(study.name)])
    stamp = _stamp(step, study)
    if step.is_current(table, stamp):
        return
    top = _top_documents(step, study)
    texts = _texts(step, study, top)
    questions = list(_questions(step, study, top, texts))
    judge = open_judge(study.spec.findings.judge, study.base)
    before = _asked_before(step, table)
    kept, others = kept_replies(before), _of_others(before, questions, judge)
    rows = _asked(step, study, judge, questions, kept, others)
    frame = pl.from_arrow(verdict_rows(table, rows, stamp))
    queries = queries_of(step, study)
    comparing = Comparing(queries, study.spec.findings)
    found = verdict_evidence(frame, comparing, top["method"].first(), judge.name, _depth(top))
    told = evidence_rows(ANALYSIS, found, stamp)
    step.write(evidence_table(study.name), told, stamp, where={"analysis": ANALYSIS})
    step.tracking.log_metrics(evidence_metrics(found), 0)
    tasks = dict(queries.select("query_id", "task").iter_rows())
    facts = _facts(frame, judge, kept) | _agreement(study, frame, tasks, texts)
    previews = _previews(step, frame, pl.from_arrow(told))
    step.write(table, verdict_rows(table, [*rows, *others], stamp), stamp, metadata=facts | previews)


def _stamp(step: Step, study: Study) -> str:
    settings, rules = study.spec.findings, study_rules(study)
    return fingerprint(
        ANALYSIS,
        CODE_VERSION,
        PROMPT_VERSION,
        [settings.ranking, settings.depth, settings.resamples, settings.seed, rules and rules.content],
        [settings.judge.name, settings.judge.documents, settings.judge.document_characters],
        judge_fingerprint(settings.judge, study.base),
        [step.shard_fingerprints(score_statistics_table(study.name)), study.spec.options.methods],
        [step.fingerprint(each) for each in (completions_table(study.name), queries_table(study.spec.queries.name))],
    )


def _top_documents(step: Step, study: Study) -> pl.DataFrame:
    """The documents to be judged: method (one), query_id, rank, document_id, shard."""
    method, settings = main_method(study.spec.options.methods), study.spec.findings
    ends = merged_ends(step, study, settings.ranking, "top")
    return ends.filter(pl.col("method") == method, pl.col("rank") <= settings.judge.documents).drop("score")


def _depth(top: pl.DataFrame) -> int:
    return int(top["rank"].max() or 0)


def _texts(step: Step, study: Study, top: pl.DataFrame) -> dict[str, str]:
    listed = pl.col("shard").is_in(top["shard"].unique()) & pl.col("document_id").is_in(top["document_id"].unique())
    documents = step.scan(documents_table(study.spec.corpus.name)).filter(listed)
    return dict(documents.select("document_id", "text").collect().iter_rows())


def _questions(step: Step, study: Study, top: pl.DataFrame, texts: Mapping[str, str]) -> Iterator[Question]:
    """All that is asked, by query and rank."""
    longest = study.spec.findings.judge.document_characters
    asked = step.scan(queries_table(study.spec.queries.name)).collect()
    queries = {row["query_id"]: row for row in asked.iter_rows(named=True)}
    for query_id, document in top.sort("query_id", "rank").select("query_id", "document_id").iter_rows():
        yield from answer_questions(queries[query_id], document, texts[document], longest=longest)
        yield kind_question(queries[query_id], document, texts[document], longest=longest)


def _asked_before(step: Step, table: Table) -> pl.DataFrame:
    """What the table holds, also what a run that failed has left there."""
    if step.lake.version(table) is None:
        return pl.from_arrow(table.schema.empty_table())
    return step.lake.collect(table, step.lake.scan(table, allow_empty=True))


def _of_others(before: pl.DataFrame, questions: list[Question], judge: Judge) -> list[dict]:
    """The rows of what is not asked now, to be kept until it is again."""
    asked = [question.asked_of(judge) for question in questions]
    others = before.filter(~pl.col("question").is_in(asked)).with_columns(is_current=pl.lit(False))
    return others.drop("fingerprint").to_dicts()


def _asked(
    step: Step, study: Study, judge: Judge, questions: list[Question], kept: Mapping[str, str], others: list[dict]
) -> list[dict]:
    """The rows of all questions; those that are known first, so that what is written on the way holds them too."""
    table, rows = verdicts_table(study.name), []
    known_first = sorted(questions, key=lambda question: question.asked_of(judge) not in kept)

    def save() -> None:
        # Not by the step: this is no materialization. The mark is none that a finished table can have.
        unfinished = fingerprint("unfinished", step.context.run.run_id, len(rows))
        commit = {"dagster_run_id": step.context.run.run_id, "fingerprint": unfinished}
        step.lake.overwrite(table, verdict_rows(table, [*rows, *others], unfinished), commit=commit)
        step.context.log.info(f"{table.path}: {len(rows)} of {len(questions)} verdicts are written")

    with step.progress(f"{study.name}: verdicts of {judge.name}", len(questions), "verdicts") as progress:
        unsaved, saved_at = 0, time.monotonic()
        try:
            for row in judged(judge, known_first, kept):
                rows.append(row)
                unsaved += row["question"] not in kept
                progress.advance(1)
                if unsaved >= SAVED_EVERY or (unsaved and time.monotonic() - saved_at > SAVED_SECONDS):
                    save()
                    unsaved, saved_at = 0, time.monotonic()
        except BaseException:  # also of a run that is cancelled
            if unsaved:
                save()
            raise
    return rows


def verdict_evidence(rows: pl.DataFrame, comparing: Comparing, method: str, judge: str, depth: int) -> list[Evidence]:
    """Of the rows of the table: the share of queries that are answered among their top documents, and the mean share of
    procedural ones. What chance gives is not known, since nobody judged the whole corpus."""
    clear = rows.filter(pl.col("verdict") != UNCLEAR)
    answers, kinds = (clear.filter(analysis=analysis) for analysis in (ANSWERS, KINDS))
    parts = rows.filter(analysis=ANSWERS).select("query_id", "part").unique()
    answered = pl.DataFrame(list(_answered(parts, answers)), {"query_id": pl.String, "value": pl.Float64}, orient="row")
    procedural = kinds.group_by("query_id").agg(value=pl.col("verdict").is_in(PROCEDURAL).mean())
    return [
        *comparing.shares(method, f"answer in the top {depth}, by {judge}", answered),
        *comparing.found(
            method, f"share of procedural documents, top {depth}, by {judge}", procedural, bounds=(0.0, 1.0)
        ),
    ]


def _answered(parts: pl.DataFrame, clear: pl.DataFrame) -> Iterator[tuple[str, float]]:
    """Of every query, 1.0 where each part of its answer is in one of its documents; NaN where a part has no verdict."""
    found: dict[tuple[str, str], bool] = {}
    for query, part, verdict in clear.select("query_id", "part", "verdict").iter_rows():
        found[query, part] = found.get((query, part), False) or verdict == CONTAINS
    for query, of_query in itertools.groupby(sorted(parts.iter_rows()), key=lambda row: row[0]):
        told = [found.get(each) for each in of_query]
        yield query, math.nan if None in told else float(all(told))


def _facts(frame: pl.DataFrame, judge: Judge, kept: Mapping[str, str]) -> dict:
    asked = frame["question"].unique()
    counts = frame.group_by("analysis", "verdict").len().sort("analysis", "verdict")
    return {
        "judge": judge.name,
        "asked now": sum(question not in kept for question in asked),
        "asked before": sum(question in kept for question in asked),
        "unclear": int((frame["verdict"] == UNCLEAR).sum()),
        **{f"{analysis}: {verdict}": count for analysis, verdict, count in counts.iter_rows()},
    }


def _agreement(study: Study, frame: pl.DataFrame, tasks: Mapping[str, str], texts: Mapping[str, str]) -> dict:
    """With the study's rules on the kinds of the same documents; empty where the study has none."""
    if (rules := study_rules(study)) is None:
        return {}
    both = kinds_of_both(frame, tasks, texts, rules)
    pairs = both.select("judge", "rules").rows()
    measured = {
        "agreement with the rules": raw_agreement(pairs),
        "agreement with the rules (Cohen's kappa)": cohens_kappa(pairs),
    }
    counts = both.group_by("judge", "rules").len("documents").sort("documents", "judge", descending=[True, False])
    return {
        "documents that the rules know of": len(pairs),
        **{name: value for name, value in measured.items() if not math.isnan(value)},  # NaN is no JSON
        "judge and rules": table_of(counts, limit=16),
    }


def _previews(step: Step, frame: pl.DataFrame, evidence: pl.DataFrame) -> dict:
    figure = kept_figure(step.tracking, ANALYSIS, lambda: drawn(ANALYSIS, frame, evidence))
    shown = frame.select("query_id", "part", "document_id", "verdict", "reply").sort("query_id", "document_id", "part")
    return bounded(
        figure | {"evidence": table_of(evidence, limit=12, columns=SHOWN), "verdicts": table_of(shown, limit=8)}
    )
