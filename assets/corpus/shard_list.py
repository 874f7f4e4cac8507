"""corpus/<corpus>/shards: which slice of which source file each shard holds, and the partitions that follow from it.

Shards are fixed: a file that arrives later makes new shards and never moves the records of an old one.
"""

import dagster as dg
import pyarrow as pa

from assets.columns import SHARD, STAMP
from assets.corpus.partitions import partitions_name
from assets.corpus.shards import Shard, plan_shards, shard_rows, shards_from_rows
from assets.fingerprints import fingerprint
from assets.lake import Lake
from assets.step import Step, asset_arguments, open_step
from assets.study.spec import Study
from assets.tables import Column, Table
from assets.tracking import Tracking

CODE_VERSION = "1"


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


def shards_asset(study: Study) -> dg.AssetsDefinition:
    """Scans the corpus's location; registers a partition per shard."""
    corpus = study.spec.corpus
    table = shards_table(corpus.name)

    @dg.asset(**asset_arguments(table, f"corpus_{corpus.name}", CODE_VERSION))
    def shards(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> None:
        with open_step(context, lake, tracking) as step:
            known = stored_shards(step, table) if lake.version(table) is not None else []
            with step.progress(f"{corpus.name}: source files", 1, "files") as progress:

                def on_file(file, number: int, total: int) -> None:
                    progress.total = total
                    progress.advance(number - progress.done)

                planned = plan_shards(corpus, study.base, known, on_file=on_file)
            # Times and offsets count here, unlike in a shard's own fingerprint, or a touched file would be read again
            # for ever.
            stamp = fingerprint("shards", CODE_VERSION, shard_rows(planned))
            rows = [row | {"fingerprint": stamp} for row in shard_rows(planned)]
            counts = {
                "records": sum(row["records"] for row in rows if row["state"] == "present"),
                "shards": len({row["shard"] for row in rows}),
                "removed slices": sum(row["state"] == "removed" for row in rows),
            }
            if not step.is_current(table, stamp):
                step.write(table, pa.Table.from_pylist(rows, schema=table.schema), stamp, metadata=counts)
            _register(context.instance, partitions_name(corpus.name), [shard.key for shard in planned])

    return shards


def _register(instance: dg.DagsterInstance, name: str, keys: list[str]) -> None:
    """Makes Dagster's partitions those of the lake, which another instance may have filled or emptied."""
    for stale in set(instance.get_dynamic_partitions(name)) - set(keys):
        instance.delete_dynamic_partition(name, stale)
    instance.add_dynamic_partitions(name, keys)


def stored_shards(step: Step, table: Table) -> list[Shard]:
    """The shards as last registered."""
    rows = step.scan(table).sort("shard", "file", "start").drop("fingerprint").collect().to_dicts()
    return shards_from_rows(rows)
