"""What stages took when they ran here, as Dagster's materializations tell it; MLflow's runs take as long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.curvature.factors import covariances_table, eigenbasis_table, eigenvalues_table
from assets.study.completions import completions_table
from assets.study.influence import influence_table
from assets.study.query_gradients import query_gradients_table
from assets.study.rankings import rankings_table
from assets.study.refined_gradients import refined_gradients_table

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from assets.specs.study import Study

EVENTS = 5000
"""Materializations of one asset that are looked through, newest first."""


@dataclass(frozen=True)
class Recorded:
    """The newest of each shard, summed. `documents` where the stage is done by shard."""

    seconds: float
    lake_bytes: int
    documents: int | None = None


def recorded_stages(instance: dg.DagsterInstance, study: Study) -> dict[str, Recorded]:
    """By stage; without those that have not run."""
    found = {stage: _recorded(instance, table) for stage, table in _tables(study).items()}
    return {stage: each for stage, each in found.items() if each}


def recorded_rank(instance: dg.DagsterInstance, study: Study) -> float | None:
    """The mean rank of query gradients, where ranks were chosen here before."""
    newest = _newest(instance, query_gradients_table(study.name)).get(None, {})
    is_auto = newest.get("rank") == "auto"
    return float(newest["mean rank"]) if is_auto and "mean rank" in newest else None


def _tables(study: Study) -> dict[str, Table]:
    fit, name = study.spec.curvature.name, study.name
    return {
        "covariances": covariances_table(fit),
        "eigenbasis": eigenbasis_table(fit),
        "eigenvalues": eigenvalues_table(fit),
        "completions": completions_table(name),
        "refined_gradients": refined_gradients_table(name),
        "query_gradients": query_gradients_table(name),
        "influence": influence_table(name),
        "rankings": rankings_table(name),
    }


def _recorded(instance: dg.DagsterInstance, table: Table) -> Recorded | None:
    newest = list(_newest(instance, table).values())
    if not newest:
        return None
    documents = sum(each["documents"] for each in newest) if "shard" in table.partition_by else None
    seconds, written = sum(each["seconds"] for each in newest), sum(each["bytes written"] for each in newest)
    return Recorded(seconds, written, documents)


def _newest(instance: dg.DagsterInstance, table: Table) -> dict[str | None, dict[str, Any]]:
    """Metadata of the newest materialization of each shard (None: of a table in one piece) that tells its time."""
    records = instance.fetch_materializations(dg.AssetRecordsFilter(table.asset_key), limit=EVENTS).records
    newest: dict[str | None, dict[str, Any]] = {}
    for record in records:
        event = record.asset_materialization
        if event and "seconds" in event.metadata:
            newest.setdefault(event.partition, {name: each.value for name, each in event.metadata.items()})
    return newest
