"""corpus/<corpus>/shards: which slice of which source file each shard holds, and the partitions that follow from it.

Shards are fixed: a file that arrives later makes new shards and never moves the records of an old one. A shard whose
content is new, changed or gone is reported as an update of the external asset corpus/<corpus>/source, so that only its
own rows are made anew.
"""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.partitions import partitions_name, shard_partitions
from assets.corpus.shards import Shard, plan_shards, shard_rows, shards_from_rows
from assets.figures.previews import table_of
from assets.lake.columns import SHARD, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.study import Study
from assets.step.declaring import asset_arguments, dagster_name
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "Where each shard's records stand in the source files; shards are Dagster's partitions of the corpus."
SOURCE_STORY = (
    "The corpus's source files as they lie, one partition per shard. Nothing is materialized here: the asset shards "
    "reports which of its shards are new, changed or removed."
)


def shards_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "shards"),
        grain="one row per slice of a source file in a shard",
        columns=(
            SHARD,
            Column("file", pa.string(), "Source file, relative to the corpus's own directory."),
            Column("start", pa.int64(), "First row of the file in the shard, from 0."),
            Column("stop", pa.int64(), "Row after the last."),
            Column("records", pa.int64(), "Records between them."),
            Column("offset", pa.int64(), "Byte of the decompressed file at which the slice begins."),
            Column("bytes", pa.int64(), "Size of the whole file."),
            Column("mtime_ns", pa.int64(), "Time of the file's last change, in nanoseconds since 1970."),
            Column("digest", pa.string(), "Digest of the slice's content."),
            Column("state", pa.string(), "present, or removed where the source no longer holds the slice."),
            STAMP,
        ),
        sort_by=("shard", "file", "start"),
    )


def source_spec(study: Study) -> dg.AssetSpec:
    """The source files as an external asset: what a shard's records depend on."""
    corpus = study.spec.corpus
    return dg.AssetSpec(
        source_key(corpus.name),
        group_name=dagster_name(f"corpus_{corpus.name}"),
        description=SOURCE_STORY,
        kinds={"file"},
        owners=list(study.spec.owners),
        partitions_def=shard_partitions(corpus.name),
        metadata={"path": ", ".join(corpus.path or (corpus.hub or "",))},
    )


def source_key(corpus: str) -> dg.AssetKey:
    return dg.AssetKey(["corpus", corpus, "source"])


def shards_asset(study: Study) -> dg.AssetsDefinition:
    """Scans the corpus's location; registers a partition per shard."""
    corpus = study.spec.corpus
    table = shards_table(corpus.name)

    @dg.asset(
        **asset_arguments(
            table, f"corpus_{corpus.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("file",)
        ),
        pool=dagster_name(f"corpus_{corpus.name}_shards"),  # one listing after another, each on from the last
    )
    def shards(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _list_shards(step, study, table))

    return shards


def _list_shards(step: Step, study: Study, table: Table) -> None:
    corpus = study.spec.corpus
    known = stored_shards(step, table) if step.lake.version(table) is not None else []
    planned = _planned(step, study, known)
    # Times and offsets count here, unlike in a shard's own fingerprint, or a touched file would be read again
    # for ever.
    stamp = fingerprint("shards", CODE_VERSION, shard_rows(planned))
    changes = _changes(known, planned)
    _report(step, corpus.name, planned, changes)
    if not step.is_current(table, stamp):
        rows = [row | {"fingerprint": stamp} for row in shard_rows(planned)]
        data = pa.Table.from_pylist(rows, schema=table.schema)
        preview = table_of(pl.from_arrow(data), columns=["shard", "file", "start", "stop", "records", "state"])
        facts = _counts(planned) | {"changes": _told(changes), "first slices": preview}
        step.write(table, data, stamp, metadata=facts)


def _report(step: Step, corpus: str, planned: list[Shard], changes: dict[str, str]) -> None:
    """Registers the partitions and reports what changed, at once and before the list is written: a step that is killed
    in between finds the same changes again. Whoever follows the report waits until this run has ended."""
    instance, name = step.context.instance, partitions_name(corpus)
    before = set(instance.get_dynamic_partitions(name))
    _register(instance, name, [shard.key for shard in planned])
    for shard in planned:
        if shard.key in changes or shard.key not in before:
            instance.report_runless_asset_event(_source_event(corpus, shard, changes.get(shard.key, "new")))


def _planned(step: Step, study: Study, known: list[Shard]) -> list[Shard]:
    with step.progress(f"{study.spec.corpus.name}: source files", 1, "files") as progress:

        def on_file(file, number: int, total: int) -> None:
            progress.total = total
            progress.advance(number - progress.done)

        try:
            return plan_shards(study.spec.corpus, study.base, known, on_file=on_file)
        except BadInput as error:  # files that are all gone too: a directory that is not mounted buries no corpus
            kept = f"; the {len(known)} shards that were listed before stay as they are" if known else ""
            raise BadInput(f"{error}{kept}") from error


def _changes(known: list[Shard], planned: list[Shard]) -> dict[str, str]:
    """Shard -> new, changed or removed, for those whose content is not what it was."""
    before = {shard.key: shard for shard in known}
    changes = {}
    for shard in planned:
        if shard.key not in before:
            changes[shard.key] = "new"
        elif shard.fingerprint != before[shard.key].fingerprint:
            changes[shard.key] = "changed" if shard.state == "present" else "removed"
    return changes


def _counts(planned: list[Shard]) -> dict:
    rows = shard_rows(planned)
    return {
        "records": sum(row["records"] for row in rows if row["state"] == "present"),
        "shards": len(planned),
        "source files": len({row["file"] for row in rows if row["state"] == "present"}),
        "removed slices": sum(row["state"] == "removed" for row in rows),
    }


def _told(changes: dict[str, str]) -> dg.MarkdownMetadataValue:
    """Which shards the scan found new, changed or removed."""
    lines = [f"| {shard} | {what} |" for shard, what in sorted(changes.items())[:50]]
    rest = [f"\n… and {len(changes) - 50} more"] if len(changes) > 50 else []
    return dg.MetadataValue.md("\n".join(["| shard | content |", "|---|---|", *lines, *rest]) if changes else "none")


def _source_event(corpus: str, shard: Shard, what: str) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        source_key(corpus),
        partition=shard.key,
        description=f"{what}: {shard.records} records in {len(shard.present_slices)} slices",
        metadata={
            "content": what,
            "records": shard.records,
            "files": dg.MetadataValue.json(sorted({piece.file for piece in shard.slices})),
        },
        tags={"dagster/data_version": shard.fingerprint},
    )


def _register(instance: dg.DagsterInstance, name: str, keys: list[str]) -> None:
    """Makes Dagster's partitions those of the lake, which another instance may have filled or emptied."""
    for stale in set(instance.get_dynamic_partitions(name)) - set(keys):
        instance.delete_dynamic_partition(name, stale)
    instance.add_dynamic_partitions(name, keys)


def listed_shards(lake: Lake, corpus: str) -> list[Shard]:
    """The shards as they are listed now, where no step is running; none before the first listing."""
    table = shards_table(corpus)
    if lake.version(table) is None:
        return []
    rows = lake.collect(table, lake.scan(table, allow_empty=True).drop("fingerprint"))
    return shards_from_rows(rows.to_dicts())


def stored_shards(step: Step, table: Table) -> list[Shard]:
    """The shards as last registered."""
    rows = step.scan(table).sort("shard", "file", "start").drop("fingerprint").collect().to_dicts()
    return shards_from_rows(rows)
