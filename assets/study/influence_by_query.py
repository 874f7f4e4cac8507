"""study/<study>/influence_by_query: the scores of influence once more, clustered by query, in a few sorted runs.

influence is cut by shard, so that the top of a query over a thousand shards opens a thousand files. Here the rows of a
query lie together: a reader opens one file or two of each run, and of these the row groups that it needs. A new or
changed shard costs its own rows and a share of the merges (`run_plan.py`), never a pass over all.
"""

from collections.abc import Iterator, Mapping

import dagster as dg
import pyarrow as pa

from assets.lake.lake import Commit, Lake
from assets.lake.tables import Table
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.study.clustered_runs import CODE_VERSION, influence_by_query_table
from assets.study.clustering import Clustering
from assets.study.coverage import coverage_table, refuse_incomplete
from assets.study.influence import influence_table
from assets.tracking.tracking import Tracking

STORY = "The scores a second time, so that the top of a query is read at once; options.by_query: false leaves it out."


def influence_by_query_asset(study: Study) -> dg.AssetsDefinition:
    """Merges the scores of new and changed shards into the runs that there are."""
    name = study.name
    table, check = influence_by_query_table(name), holds_check(study)

    @dg.asset(
        **asset_arguments(
            table, f"study_{name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("polars",), checks=[check]
        ),
        deps=[
            dg.AssetDep(influence_table(name).asset_key, partition_mapping=dg.AllPartitionMapping()),
            coverage_table(name).asset_key,
        ],
    )
    def influence_by_query(
        context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking
    ) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _cluster(step, study, table, check), checks=[check])

    return influence_by_query


def holds_check(study: Study) -> Check:
    sentence = "The live runs hold every shard's scores as they are now, each once; told from the tables' logs."
    return Check(influence_by_query_table(study.name), "holds_influence", sentence)


def _cluster(step: Step, study: Study, table: Table, check: Check) -> None:
    refuse_incomplete(step, study)
    stamp = fingerprint(table.key[-1], CODE_VERSION, step.shard_fingerprints(influence_table(study.name)))

    def write(run: str, rows: pa.Table | Iterator[pa.RecordBatch], told: Mapping[str, str], facts: dict) -> Commit:
        return step.write(table, rows, stamp, where={"run": run}, told=told, metadata=facts)

    step.tables_read.append(table)
    # What has been merged stays merged, unless a person asks for all of it anew (to mend a damaged file).
    anew, version = not (step.reuse or step.takes_up), step.version(influence_table(study.name))
    clustering = Clustering(step.lake, study.name, version, write, anew=anew)
    merges = clustering.planned()
    with step.progress(f"{study.name}: scores by query", sum(merge.rows for merge in merges), "scores") as progress:
        for merge in merges:
            clustering.merge(merge)
            progress.advance(merge.rows)
    clustering.empty_dead()
    if step.lake.version(table) == clustering.version:
        step.keep(table, stamp)
    other = f"study {study.name}: another run wrote {table.path} at the same time; materialize it again"
    step.check(check, None if clustering.is_whole() else other, metadata={"runs": len(clustering.live)})
