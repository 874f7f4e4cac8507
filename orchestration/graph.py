"""The asset graph of studies: which assets a study needs, and one definition for what studies share."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from assets.corpus.documents import documents_asset
from assets.corpus.partitions import partitions_name
from assets.corpus.records import records_asset
from assets.corpus.shard_list import shards_asset, shards_table
from assets.corpus.tokenizer import tokenizer_asset
from assets.curvature.fitting import covariances_asset, eigenbasis_asset, eigenvalues_asset
from assets.curvature.sample import sample_asset
from assets.model.checkpoint import named_checkpoint_asset
from assets.model.training import trained_checkpoint_asset, training_sample_asset
from assets.queries.queries import queries_asset
from assets.study.completions import completions_asset
from assets.study.influence import influence_asset
from assets.study.query_gradients import query_gradients_asset
from assets.study.rankings import rankings_asset
from assets.study.spec import Study


def study_assets(study: Study) -> list[dg.AssetsDefinition]:
    """Every asset of one study, in the order in which a document passes through them."""
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
        query_gradients_asset(study),
        influence_asset(study),
        rankings_asset(study),
    ]


def graph_definitions(studies: Iterable[Study], resources: dict) -> dg.Definitions:
    """The assets of all studies, each once, and one job per study."""
    by_key: dict[dg.AssetKey, dg.AssetsDefinition] = {}
    jobs = []
    for study in studies:
        own = study_assets(study)
        for definition in own:
            by_key.setdefault(next(iter(definition.keys)), definition)
        keys = [key for definition in own for key in definition.keys]
        description = f"Everything that study {study.name} needs, from corpus files to rankings."
        jobs.append(dg.define_asset_job(job_name(study), dg.AssetSelection.assets(*keys), description=description))
    return dg.Definitions(assets=list(by_key.values()), jobs=jobs, resources=resources)


def job_name(study: Study) -> str:
    return study.name.replace("-", "_")


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
        else [named_checkpoint_asset(spec.model, study.base)]
    )
    return own + ([named_checkpoint_asset(spec.query_model, study.base)] if spec.query_model else [])
