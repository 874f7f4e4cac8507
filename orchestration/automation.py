"""Declarative automation: the conditions under which assets follow what they depend on.

What runs without a hand on it, as a study's `automation` section asks, are four pieces (`sensors.py`, `catch_up.py`).
The Dagster UI can switch each on and off; they are off unless the study says otherwise:

- `corpus_<corpus>_files` looks at the source files and lists the shards when a file is new, changed or gone;
- `corpus_<corpus>_ingest` reads and cuts the shards that the list reports as new, changed or removed;
- `study_<study>_score` scores those shards, and ranks when all of them are there;
- `study_<study>_catch_up` lists and computes what is missing, on a schedule.

None of them trains, fits or draws a sample: those assets have no condition, and what depends on them does not follow
their updates. Runs keep what is current, so that an update without a change costs no pass over the corpus, and the pool
`gpu` lets one step at a time use the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

from assets.corpus.documents import documents_table
from assets.corpus.records import records_table, rejected_table
from assets.corpus.shard_list import shards_table, source_key
from assets.corpus.tombstones import tombstones_table
from assets.specs.study import Study
from assets.study.candidates import candidates_table
from assets.study.coverage import coverage_table
from assets.study.influence import document_norms_table, influence_table
from assets.study.rankings import rankings_table


def corpus_keys(study: Study) -> list[dg.AssetKey]:
    """What is made anew of a shard whose source changed, whichever study asks."""
    tables = (records_table, rejected_table, tombstones_table, documents_table)
    return [table(study.spec.corpus.name).asset_key for table in tables]


def study_keys(study: Study) -> list[dg.AssetKey]:
    """What a study makes anew of a shard whose documents changed, and of all shards together after it."""
    tables = (influence_table, document_norms_table, candidates_table, coverage_table, rankings_table)
    return [table(study.name).asset_key for table in tables]


def with_conditions(definitions: Iterable[dg.AssetsDefinition], studies: Iterable[Study]) -> list[dg.AssetsDefinition]:
    """The same assets with the conditions under which they follow what they depend on."""
    conditions = {key: condition for study in studies for key, condition in _conditions(study).items()}
    freshness = {key: policy for study in studies for key, policy in _freshness(study).items()}

    def attach(spec: dg.AssetSpec) -> dg.AssetSpec:
        found = {"automation_condition": conditions.get(spec.key), "freshness_policy": freshness.get(spec.key)}
        return spec.replace_attributes(**{name: value for name, value in found.items() if value})

    return [definition.map_asset_specs(attach) for definition in definitions]


def _conditions(study: Study) -> dict[dg.AssetKey, dg.AutomationCondition]:
    corpus, name = study.spec.corpus.name, study.name
    of_source = _follows(source_key(corpus)).with_label("when its source files are new, changed or gone")
    of_records = _follows(records_table(corpus).asset_key).with_label("when its records are read anew")
    of_documents = _follows(documents_table(corpus).asset_key).with_label("when its documents are cut anew")
    scores = [table(name).asset_key for table in (influence_table, document_norms_table, candidates_table)]
    of_scores = _follows(*scores).with_label("when all shards are scored, and one of them anew")
    return {
        **{table(corpus).asset_key: of_source for table in (records_table, rejected_table, tombstones_table)},
        documents_table(corpus).asset_key: of_records,
        **dict.fromkeys(scores, of_documents),
        **{table(name).asset_key: of_scores for table in (coverage_table, rankings_table)},
    }


def _follows(*keys: dg.AssetKey) -> dg.AutomationCondition:
    """Requests a partition once when one of these is updated or it is new, and when neither it nor anything that it
    depends on is missing or under way.

    An asset waits while what it depends on is being computed, so ten shards that arrive together are one request.
    """
    updated = dg.AutomationCondition.any_deps_updated().allow(dg.AssetSelection.assets(*keys))
    return (
        (dg.AutomationCondition.newly_missing() | updated).since_last_handled()
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )


def _freshness(study: Study) -> dict[dg.AssetKey, dg.FreshnessPolicy]:
    """The list of shards is overdue where a catch-up should have looked at the files and has not."""
    cron = study.spec.automation.catch_up
    if not cron:
        return {}
    *_, day, month, weekday = cron.split()[:5] if not cron.startswith("@") else (cron, "1", "*", "*")
    window = timedelta(hours=26) if (day, month, weekday) == ("*", "*", "*") else timedelta(days=32)
    window = timedelta(days=8) if weekday != "*" else window
    return {shards_table(study.spec.corpus.name).asset_key: dg.FreshnessPolicy.time_window(fail_window=window)}
