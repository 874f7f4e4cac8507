"""The asset graph of studies: which assets a study needs, and one definition for what studies share."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.corpus.documents import documents_asset, documents_table
from assets.corpus.partitions import partitions_name
from assets.corpus.records import records_asset, records_table, rejected_table
from assets.corpus.shard_list import shards_asset, shards_table, source_key, source_spec
from assets.corpus.tokenizer import tokenizer_asset, tokenizer_table
from assets.corpus.tombstones import tombstones_table
from assets.curvature.factors import covariances_table, eigenbasis_table, eigenvalues_table
from assets.curvature.fitting import covariances_asset, eigenbasis_asset, eigenvalues_asset
from assets.curvature.sample import sample_asset, sample_table
from assets.findings.graph import findings_assets, findings_tables
from assets.lake.tables import Table
from assets.model.checkpoint import checkpoint_table, named_checkpoint_asset
from assets.model.training import trained_checkpoint_asset, training_sample_asset, training_sample_table
from assets.queries.queries import queries_asset, queries_table
from assets.specs.study import Study
from assets.step.declaring import dagster_name
from assets.study.candidates import candidates_table
from assets.study.clustered_runs import influence_by_query_table
from assets.study.completions import completions_asset, completions_table
from assets.study.coverage import coverage_asset, coverage_table
from assets.study.document_index import document_index_asset, document_index_table
from assets.study.index_agreement import index_agreement_asset, index_agreement_table
from assets.study.index_statistics import index_statistics_asset, index_statistics_table
from assets.study.influence import document_norms_table, influence_asset, influence_table
from assets.study.influence_by_query import influence_by_query_asset
from assets.study.query_gradients import query_gradients_asset, query_gradients_table
from assets.study.rankings import rankings_asset, rankings_table
from assets.study.refined_gradients import refined_gradients_asset, refined_gradients_table
from assets.tracking.tracking import STUDY_TAG
from compute.methods import refines
from orchestration.automation import with_conditions

INDEX_ASSETS = (document_index_asset, index_statistics_asset, index_agreement_asset)
INDEX_TABLES = (document_index_table, index_statistics_table, index_agreement_table)


def study_assets(study: Study, others: Iterable[Study] = ()) -> list[dg.AssetsDefinition]:
    """Every asset of one study, in the order in which a document passes through them. `others`: those that it may be
    compared with."""
    return [
        shards_asset(study),
        records_asset(study),
        tokenizer_asset(study),
        documents_asset(study),
        *_model_assets(study),
        queries_asset(study),
        sample_asset(study),
        covariances_asset(study),
        eigenbasis_asset(study),
        eigenvalues_asset(study),
        completions_asset(study),
        *([refined_gradients_asset(study)] if refines(study.spec.options.methods) else []),
        query_gradients_asset(study),
        influence_asset(study),
        coverage_asset(study),
        *([influence_by_query_asset(study)] if study.spec.options.by_query else []),
        *(asset(study) for asset in INDEX_ASSETS if study.spec.options.index),
        rankings_asset(study),
        *findings_assets(study, others),
    ]


def study_assets_once(
    studies: Iterable[Study], others: Iterable[Study] = ()
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of all studies, what they share once, with the conditions under which each follows the others.

    `others` are studies that these may be compared with, and whose assets are not wanted.
    """
    studies = list(studies)
    known = [*studies, *others]
    by_key: dict[dg.AssetKey, dg.AssetsDefinition] = {}
    sources: dict[dg.AssetKey, dg.AssetSpec] = {}
    for study in studies:
        sources.setdefault(source_key(study.spec.corpus.name), source_spec(study))
        for definition in study_assets(study, known):
            by_key.setdefault(next(iter(definition.keys)), definition)
    return [*sources.values(), *with_conditions(by_key.values(), studies)]


def study_job(study: Study):
    """Everything that a study needs, as one job."""
    keys = [table.asset_key for table in study_tables(study)]
    return dg.define_asset_job(
        job_name(study),
        dg.AssetSelection.assets(*keys),
        description=f"Everything that study {study.name} needs, from corpus files to findings.",
        tags={STUDY_TAG: study.name},
    )


def study_tables(study: Study) -> list[Table]:
    """The tables of one study, in the order of its assets."""
    spec = study.spec
    trained = [training_sample_table(spec.model.name)] if spec.model.train else []
    return [
        *(
            table(spec.corpus.name)
            for table in (shards_table, records_table, rejected_table, tombstones_table, tokenizer_table)
        ),
        documents_table(spec.corpus.name),
        *trained,
        *(checkpoint_table(model.name) for model in (spec.model, spec.query_model) if model),
        queries_table(spec.queries.name),
        *(
            table(spec.curvature.name)
            for table in (sample_table, covariances_table, eigenbasis_table, eigenvalues_table)
        ),
        completions_table(study.name),
        *([refined_gradients_table(study.name)] if refines(spec.options.methods) else []),
        *(table(study.name) for table in (query_gradients_table, influence_table)),
        *(table(study.name) for table in (document_norms_table, candidates_table, coverage_table)),
        *([influence_by_query_table(study.name)] if spec.options.by_query else []),
        *(table(study.name) for table in INDEX_TABLES if spec.options.index),
        rankings_table(study.name),
        *findings_tables(study),
    ]


def job_name(study: Study) -> str:
    """With a prefix, or a study could be called like another job, or by a word that Dagster keeps for itself."""
    return dagster_name(f"study_{study.name}")


def shards_key(study: Study) -> dg.AssetKey:
    """The asset that registers the corpus's partitions, which a run over shards needs to exist."""
    return dg.AssetKey(shards_table(study.spec.corpus.name).key)


def shard_keys(study: Study, instance: dg.DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(partitions_name(study.spec.corpus.name)))


def _model_assets(study: Study) -> list[dg.AssetsDefinition]:
    spec = study.spec
    own = (
        [training_sample_asset(study), trained_checkpoint_asset(study)]
        if spec.model.train
        else [named_checkpoint_asset(spec.model, study.base, spec.owners)]
    )
    return own + ([named_checkpoint_asset(spec.query_model, study.base, spec.owners)] if spec.query_model else [])
