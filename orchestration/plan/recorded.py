"""What stages took when they ran before, as MLflow recorded it, or else as Dagster's materializations tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.curvature.factors import covariances_table, eigenbasis_table, eigenvalues_table
from assets.findings.ablation.ablation import ablation_table
from assets.study.completions import completions_table
from assets.study.document_index import document_index_table
from assets.study.index_statistics import index_statistics_table
from assets.study.influence import influence_table
from assets.study.query_gradients import query_gradients_table
from assets.study.rankings import rankings_table
from assets.study.refined_gradients import refined_gradients_table
from assets.tracking.past_steps import NoTracking, PastStep
from orchestration.resources import resources_of

if TYPE_CHECKING:
    from assets.lake.tables import Table
    from assets.specs.study import Study
    from assets.tracking.tracking import Tracking
    from orchestration.home import Home

EVENTS = 5000
"""Materializations of one asset that are looked through, newest first."""
STEPS = 200
"""Runs of one stage's steps that are read from MLflow, the newest: they tell as much as thousands, in half a second."""
MLFLOW, DAGSTER = "MLflow", "Dagster"


@dataclass(frozen=True)
class Recorded:
    """`documents` where the stage is done by shard; `machine` is None where it was not recorded."""

    seconds: float
    lake_bytes: int
    documents: int | None = None
    machine: str | None = None
    by: str = MLFLOW


@dataclass(frozen=True)
class History:
    """What ran before, by stage. `rank` is the mean of ranks that were chosen, `why_dagster` a sentence's part that
    says why some of it is not MLflow's account."""

    stages: dict[str, Recorded] = field(default_factory=dict)
    rank: float | None = None
    why_dagster: str = ""


def history(study: Study, home: Home, documents: int) -> History:
    """Of stages that have run; `documents` is how many the corpus has, which no stage is told to have done twice."""
    found, why = _of_mlflow(resources_of(home)["tracking"], study, documents)
    if not (home.dagster / "dagster.yaml").exists():
        return History(found)
    with home.instance() as instance:
        for stage, table in _tables(study).items():
            if stage not in found and (of_dagster := _of_dagster(instance, table)):
                found[stage] = of_dagster
        return History(found, _rank(instance, study), why)


def _tables(study: Study) -> dict[str, Table]:
    """Of each stage the table that it is named after."""
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
        "document_index": document_index_table(name),
        "index_statistics": index_statistics_table(name),
        "ablation": ablation_table(name),
    }


def _by_shard(table: Table) -> bool:
    return "shard" in table.partition_by


# MLflow


def _of_mlflow(tracking: Tracking, study: Study, documents: int) -> tuple[dict[str, Recorded], str]:
    """By stage; and why what is missing is."""
    tables = _tables(study)
    try:
        steps = tracking.past_steps([table.path for table in tables.values()], STEPS)
    except NoTracking as problem:
        return {}, str(problem)
    recorded = {stage: last_work(steps[table.path], documents, _by_shard(table)) for stage, table in tables.items()}
    return {stage: each for stage, each in recorded.items() if each}, "MLflow has no finished run of it"


def last_work(steps: Sequence[PastStep], documents: int, by_shard: bool) -> Recorded | None:
    """The last step; of one that is done by shard the last ones on the same hardware, until they make up the corpus."""
    if by_shard:
        steps = [step for step in steps if step.documents]
    if not steps:
        return None
    taken = 0
    last: list[PastStep] = []
    for step in steps:
        if not last or (by_shard and taken < documents and step.hardware == steps[0].hardware):
            last.append(step)
            taken += step.documents or 0
    seconds, written = sum(step.seconds for step in last), sum(step.bytes_written for step in last)
    return Recorded(seconds, written, taken if by_shard else None, steps[0].hardware)


# Dagster


def _of_dagster(instance: dg.DagsterInstance, table: Table) -> Recorded | None:
    """The newest materialization of each shard on the same hardware, summed."""
    newest = list(_newest(instance, table).values())
    if not newest:
        return None
    machine = newest[0].get("hardware")
    alike = [each for each in newest if each.get("hardware") == machine]
    seconds, written = sum(each["seconds"] for each in alike), sum(each["bytes written"] for each in alike)
    documents = sum(each.get("documents", each["dagster/row_count"]) for each in alike) if _by_shard(table) else None
    return Recorded(seconds, written, documents, machine, DAGSTER)


def _rank(instance: dg.DagsterInstance, study: Study) -> float | None:
    """The mean rank of query gradients, where ranks were chosen here before."""
    newest = _newest(instance, query_gradients_table(study.name)).get(None, {})
    is_auto = newest.get("rank") == "auto"
    return float(newest["mean rank"]) if is_auto and "mean rank" in newest else None


def _newest(instance: dg.DagsterInstance, table: Table) -> dict[str | None, dict[str, Any]]:
    """Metadata of the newest materialization of each shard (None: of a table in one piece) that tells its time."""
    records = instance.fetch_materializations(dg.AssetRecordsFilter(table.asset_key), limit=EVENTS).records
    newest: dict[str | None, dict[str, Any]] = {}
    for record in records:
        event = record.asset_materialization
        if event and "seconds" in event.metadata:
            newest.setdefault(event.partition, {name: each.value for name, each in event.metadata.items()})
    return newest
