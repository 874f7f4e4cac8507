"""The findings of a study as assets and tables, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.findings.ablation.ablation import ablation_asset, ablation_table
from assets.findings.ablation.sample import ablation_sample_asset, ablation_sample_table
from assets.findings.analysis import Analysis, analysis_asset, outdated_analysis
from assets.findings.answer_statistics import (
    answer_statistics_asset,
    answer_statistics_table,
    kind_statistics_table,
)
from assets.findings.answers import ANSWERS
from assets.findings.bm25 import bm25_asset, bm25_table
from assets.findings.claims import claims_asset, claims_stamp, claims_table
from assets.findings.comparison_statistics import comparison_asset, comparison_statistics_table
from assets.findings.correlation import CORRELATION
from assets.findings.evidence import evidence_table
from assets.findings.judging import verdicts_table
from assets.findings.kinds import KINDS
from assets.findings.magnitude import MAGNITUDE
from assets.findings.power_law import POWER_LAW
from assets.findings.report.report import report_asset, report_table
from assets.findings.score_statistics import score_statistics_table, source_statistics_table
from assets.findings.shard_statistics import shard_statistics_asset
from assets.findings.sources import SOURCES
from assets.findings.verdicts import verdicts_asset
from assets.lake.lake import Lake
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.step.stored_now import StoredNow
from compute.errors import BadInput


def findings_assets(study: Study, others: Iterable[Study] = ()) -> list[dg.AssetsDefinition]:
    """BM25 where it is asked for, statistics of shards, the analyses, the claims that they decide, and their page.

    `others` are the studies that it may be compared with.
    """
    decisive = decisive_tables(study)
    return [
        *([bm25_asset(study)] if study.spec.findings.bm25 else []),
        shard_statistics_asset(study),
        answer_statistics_asset(study),
        *([comparison_asset(study, others)] if study.spec.findings.compare else []),
        *(analysis_asset(study, analysis) for analysis in analyses(study)),
        *([verdicts_asset(study)] if study.spec.findings.judge else []),
        claims_asset(study, decisive, analyses(study)),
        *([ablation_sample_asset(study), ablation_asset(study)] if study.spec.ablation else []),
        report_asset(
            study,
            [*decisive, *ablation_tables(study)[1:], claims_table(study.name)],
            lambda step: _outdated(StoredNow(step.lake), study),
        ),
    ]


def analyses(study: Study) -> list[Analysis]:
    """Those that the study can make: kinds of document need rules that tell them."""
    kinds = [KINDS] if study.spec.findings.document_rules else []
    return [CORRELATION, MAGNITUDE, POWER_LAW, ANSWERS, *kinds, SOURCES]


def outdated_findings(lake: Lake, study: Study) -> str | None:
    """A sentence on the first of the study's findings that is not of the scores as they are now; None where all are."""
    try:
        return _outdated(StoredNow(lake), study)
    except BadInput as problem:  # BM25 is behind
        return str(problem)


def _outdated(now: StoredNow, study: Study) -> str | None:
    if problem := outdated_analysis(now, study, analyses(study)):
        return problem
    table, decisive = claims_table(study.name), decisive_tables(study)
    stamp = claims_stamp(now.shard_fingerprints(evidence_table(study.name)), decisive)
    if now.lake.version(table) is None or now.fingerprint(table) not in (None, stamp):
        return f"study {study.name}: {table.path} is not of the evidence as it is now; materialize it first"
    return None


def own_score_tables(study: Study) -> list[Table]:
    """What the findings score by themselves, of all shards in one step."""
    return [bm25_table(study.name)] if study.spec.findings.bm25 else []


def shard_tables(study: Study) -> list[Table]:
    """What is made anew of a shard whose scores changed."""
    kinds = [kind_statistics_table(study.name)] if study.spec.findings.document_rules else []
    tables = (score_statistics_table, source_statistics_table, answer_statistics_table)
    compared = [comparison_statistics_table(study.name)] if study.spec.findings.compare else []
    return [*(table(study.name) for table in tables), *kinds, *compared]


def whole_tables(study: Study) -> list[Table]:
    """What is made anew of all shards after it."""
    return [*decisive_tables(study), evidence_table(study.name), claims_table(study.name)]


def decisive_tables(study: Study) -> list[Table]:
    """Those whose evidence decides the claims: of the analyses, and of a judge where the study names one."""
    verdicts = [verdicts_table(study.name)] if study.spec.findings.judge else []
    return [*(analysis.table(study.name) for analysis in analyses(study)), *verdicts]


def ablation_tables(study: Study) -> list[Table]:
    """The pinned sample and what was found on it, which new shards do not make stale."""
    return [ablation_sample_table(study.name), ablation_table(study.name)] if study.spec.ablation else []


def findings_tables(study: Study) -> list[Table]:
    """All tables of the findings."""
    of_documents = (*own_score_tables(study), *shard_tables(study), *whole_tables(study))
    return [*of_documents, *ablation_tables(study), report_table(study.name)]
