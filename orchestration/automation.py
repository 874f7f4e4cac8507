"""Declarative automation: the conditions under which assets follow what they depend on.

What runs without a hand on it, as a study's `automation` section asks, are four pieces (`sensors.py`, `catch_up.py`).
The Dagster UI can switch each on and off; they are off unless the study says otherwise:

- `corpus_<corpus>_files` looks at the source files and lists the shards when a file is new, changed or gone;
- `corpus_<corpus>_ingest` reads and cuts the shards that the list reports as new, changed or removed;
- `study_<study>_score` scores those shards, and ranks when all of them are there;
- `study_<study>_catch_up` lists and computes what is missing, on a schedule.

None of them trains, fits or draws a sample: those assets have no condition, and what depends on them does not follow
their updates. Runs keep what is current, so that an update without a change costs no pass over the corpus, and the pool
`gpu` lets one step at a time use the model. A shard that fails is asked for once: it is the catch-up, or a person, that
tries it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

from assets.corpus.documents import documents_table
from assets.corpus.records import records_table, rejected_table
from assets.corpus.shard_list import shards_table, source_key
from assets.corpus.tombstones import tombstones_table
from assets.findings.comparison_statistics import comparison_statistics_table
from assets.findings.graph import own_score_tables, shard_tables, whole_tables
from assets.findings.report.report import report_table
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.study.candidates import candidates_table
from assets.study.clustered_runs import influence_by_query_table
from assets.study.coverage import coverage_table
from assets.study.document_index import document_index_table
from assets.study.index_agreement import index_agreement_table
from assets.study.index_statistics import index_statistics_table
from assets.study.influence import document_norms_table, influence_table
from assets.study.rankings import rankings_table

AC = dg.AutomationCondition


def corpus_keys(study: Study) -> list[dg.AssetKey]:
    """What is made anew of a shard whose source changed, whichever study asks."""
    tables = (records_table, rejected_table, tombstones_table, documents_table)
    return [table(study.spec.corpus.name).asset_key for table in tables]


def study_keys(study: Study) -> list[dg.AssetKey]:
    """What a study makes anew of a shard whose documents changed, and of all shards together after it."""
    scored = [*_document_tables(study), *over_all_tables(study), *_index_tables(study)]
    found = [*own_score_tables(study), *shard_tables(study), *whole_tables(study), report_table(study.name)]
    return [table.asset_key for table in (*scored, *found)]


def over_all_tables(study: Study) -> list[Table]:
    """What is made anew of all shards' scores, before the findings."""
    by_query = [influence_by_query_table(study.name)] if study.spec.options.by_query else []
    return [coverage_table(study.name), *by_query, rankings_table(study.name)]


def _document_tables(study: Study) -> list[Table]:
    """What is made anew of a shard whose documents changed."""
    indexed = [document_index_table] if study.spec.options.index else []
    return [table(study.name) for table in (influence_table, document_norms_table, candidates_table, *indexed)]


def _index_tables(study: Study) -> list[Table]:
    """What tells how well the index finds the documents, by shard and of all."""
    told = (index_statistics_table, index_agreement_table) if study.spec.options.index else ()
    return [table(study.name) for table in told]


def with_conditions(definitions: Iterable[dg.AssetsDefinition], studies: Iterable[Study]) -> list[dg.AssetsDefinition]:
    """The same assets with the conditions under which they follow what they depend on."""
    studies = list(studies)
    conditions = {key: condition for study in studies for key, condition in _conditions(study).items()}
    conditions |= {comparison_statistics_table(study.name).asset_key: _compares(study, studies) for study in studies}
    freshness = {key: policy for study in studies for key, policy in _freshness(study).items()}

    def attach(spec: dg.AssetSpec) -> dg.AssetSpec:
        found = {"automation_condition": conditions.get(spec.key), "freshness_policy": freshness.get(spec.key)}
        return spec.replace_attributes(**{name: value for name, value in found.items() if value})

    return [definition.map_asset_specs(attach) for definition in definitions]


def _conditions(study: Study) -> dict[dg.AssetKey, dg.AutomationCondition]:
    corpus = study.spec.corpus.name
    source, documents = source_key(corpus), documents_table(corpus).asset_key
    of_source = _follows_source(source).with_label("when its source files are new, changed or gone")
    of_records = _follows(records_table(corpus).asset_key).with_label("when its records are read anew")
    of_documents = _follows_source(source, documents).with_label("when the documents of a changed source are cut anew")
    scores = [table.asset_key for table in _document_tables(study)]
    of_scores = _follows(*scores).with_label("when all shards are scored, and one of them anew")
    return {
        **{table(corpus).asset_key: of_source for table in (records_table, rejected_table, tombstones_table)},
        documents: of_records,
        **dict.fromkeys(scores, of_documents),
        **{table.asset_key: of_scores for table in over_all_tables(study)},
        **_conditions_of_index(study),
        **_conditions_of_findings(study),
    }


def _conditions_of_index(study: Study) -> dict[dg.AssetKey, dg.AutomationCondition]:
    if not (tables := _index_tables(study)):
        return {}
    statistics, agreement = (table.asset_key for table in tables)
    compared = (influence_table(study.name).asset_key, document_index_table(study.name).asset_key)
    of_shard = _follows(*compared).with_label("when its scores or its index are made anew")
    of_all = _follows(statistics).with_label("when all shards are compared, and one of them anew")
    return {statistics: of_shard, agreement: of_all}


def _conditions_of_findings(study: Study) -> dict[dg.AssetKey, dg.AutomationCondition]:
    own, shards, whole = (
        [table.asset_key for table in each(study)] for each in (own_score_tables, shard_tables, whole_tables)
    )
    *analyses, evidence, claims = whole
    of_coverage = _follows(coverage_table(study.name).asset_key).with_label("when all shards are scored, and one anew")
    # One more shard changes what BM25 says of all: it has to be there before a new one is summed up.
    of_scores = _follows(*own, when_missing=False) if own else _follows(influence_table(study.name).asset_key)
    of_scores = of_scores.with_label("when its scores are made anew")
    of_shards = _follows(*shards).with_label("when all shards are summed up, and one of them anew")
    of_analyses = _follows(*analyses).with_label("when an analysis is made anew")
    of_claims = _follows(claims).with_label("when the claims are decided anew")
    return {
        **dict.fromkeys(own, of_coverage),
        **dict.fromkeys(shards, of_scores),
        **dict.fromkeys(analyses, of_shards),
        **dict.fromkeys((evidence, claims), of_analyses),
        report_table(study.name).asset_key: of_claims,
    }


def _compares(study: Study, studies: Iterable[Study]) -> dg.AutomationCondition:
    """Of what is computed from the scores of several studies, each shard."""
    compared = [each for each in studies if each is study or each.name in study.spec.findings.compare]
    keys = [influence_table(each.name).asset_key for each in compared]
    return _follows(*keys).with_label("when its scores, or those that they are compared with, are made anew")


def _follows(*keys: dg.AssetKey, when_missing: bool = True) -> dg.AutomationCondition:
    """Requests a partition once when one of these is updated, or (`when_missing`) it is newly missing.

    Unlike Dagster's `any_deps_updated`, it counts an update by a run that was to make the follower too: such a run may
    have ended in between. Where it did not, the follower's own update is the later one.
    """
    these = dg.AssetSelection.assets(*keys)
    updated = AC.any_deps_match(AC.newly_updated()).allow(these).with_label("updated")
    with_it = AC.any_deps_match(AC.will_be_requested()).allow(these).with_label("requested with it")
    due = (_since_asked(updated) & updated.since(AC.newly_updated())) | with_it
    return ((AC.newly_missing().since_last_handled() | due) if when_missing else due) & _free()


def _follows_source(source: dg.AssetKey, after: dg.AssetKey | None = None) -> dg.AutomationCondition:
    """Requests a shard once when its source changed, and (where given) `after` has been made anew since then.

    The listing reports a shard's source only where its content changed. What lies between may be reported without a
    change: a run over a range of shards materializes those that it keeps too, and Dagster has one data version for all
    of them. Nor does a shard that somebody cuts anew by hand, or one that is wiped, start the scoring.
    """
    changed = AC.asset_matches(source, AC.newly_updated()).with_label("source changed")
    waiting = changed.since(AC.asset_matches(after, AC.newly_updated())) if after else None
    made = AC.newly_updated() & ~waiting if waiting else AC.newly_updated()
    # A run that was at work on the shard before its source changed has read the old one: its end settles nothing.
    overtaken = changed & AC.in_progress() & ~AC.in_progress().newly_true()
    due = (_since_asked(changed) & changed.since(made)) | _since_asked(overtaken).with_label("changed under way")
    return (due & ~waiting if waiting else due) & _free()


def _since_asked(trigger: dg.AutomationCondition) -> dg.AutomationCondition:
    """True until the partition is requested. Resets stand apart, and not as one "or": only of a plain one does Dagster
    compare the times within a tick.
    """
    return trigger.since(AC.newly_requested()) & trigger.since(AC.initial_evaluation())


def _free() -> dg.AutomationCondition:
    """Neither the partition nor anything that it depends on is under way, and nothing of that is missing.

    An asset waits while what it depends on is being computed, so ten shards that arrive together are one request.
    """
    return ~AC.any_deps_missing() & ~AC.any_deps_in_progress() & ~AC.in_progress()


def _freshness(study: Study) -> dict[dg.AssetKey, dg.FreshnessPolicy]:
    """The list of shards is overdue from the moment at which a catch-up should make it until it is made."""
    automation = study.spec.automation
    if not automation.catch_up:
        return {}
    policy = dg.FreshnessPolicy.cron(automation.catch_up, timedelta(minutes=1), automation.timezone)
    return {shards_table(study.spec.corpus.name).asset_key: policy}
