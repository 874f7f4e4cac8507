"""Where the runs behind a row of the lake are seen: pages of MLflow's UI, as Dagster's events recorded them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from orchestration.home import Home
    from orchestration.lineage import Lineage, Origin

LINK = "MLflow run"
EVENTS = 50
"""Materializations of one asset (or shard) among which a run is looked for, newest first."""


def mlflow_pages(home: Home, lineage: Lineage) -> dict[str, str]:
    """The page of each origin's MLflow run, by the origin's id; without those that Dagster has forgotten."""
    if not (home.dagster / "dagster.yaml").exists():
        return {}
    with home.instance() as instance:
        pages = {origin.id: _page(instance, origin) for origin in lineage.origins.values() if origin.entry}
    return {id: page for id, page in pages.items() if page}


def _page(instance: dg.DagsterInstance, origin: Origin) -> str | None:
    shard = origin.entry.partition.get("shard") if origin.entry else None
    wanted = dg.AssetRecordsFilter(dg.AssetKey(origin.table.split("/")), asset_partitions=[shard] if shard else None)
    for record in instance.fetch_materializations(wanted, limit=EVENTS).records:
        materialization = record.asset_materialization
        if record.run_id == origin.said("dagster_run_id") and materialization and LINK in materialization.metadata:
            return str(materialization.metadata[LINK].value)
    return None
