"""corpus/<corpus>/records and /rejected: a shard's source records as read, and those that could not be."""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.columns import POSITION, RECORD_ID, SHARD, SOURCE, STAMP
from assets.corpus.parsing import ParsedShard, Rejected, check_rejected_share, parse_shard
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.shard_list import shards_table, stored_shards
from assets.corpus.shards import Shard
from assets.fingerprints import fingerprint
from assets.lake import Lake
from assets.progress import note
from assets.step import Step, asset_arguments, dagster_name, open_step
from assets.study.spec import Study
from assets.tables import Column, Table
from assets.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"


def records_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "records"),
        grain="one row per source record that could be read",
        columns=(
            SHARD,
            POSITION,
            RECORD_ID,
            SOURCE,
            Column("text", pa.string(), "The record's text."),
            Column("location", pa.string(), "File and line or row that it was read from."),
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("position",),
        row_group_rows=5_000,
    )


def rejected_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "rejected"),
        grain="one row per source record, or window of one, that was set aside",
        columns=(
            SHARD,
            Column("stage", pa.string(), "Asset that set it aside: records or documents."),
            Column("location", pa.string(), "File and line or row that it was read from."),
            Column("record_id", pa.string(), "The record's id, where it has one.", nullable=True),
            Column("reason", pa.string(), "What is wrong with it, in a sentence."),
            Column("excerpt", pa.string(), "Its first 200 characters."),
            STAMP,
        ),
        partition_by=("shard", "stage"),
    )


def records_asset(study: Study) -> dg.AssetsDefinition:
    """Reads shards of the corpus's source files."""
    corpus = study.spec.corpus
    table, rejected = records_table(corpus.name), rejected_table(corpus.name)
    group = f"corpus_{corpus.name}"
    listed = dg.AssetKey(shards_table(corpus.name).key)

    @dg.multi_asset(
        name=dagster_name(f"{group}_records"),
        specs=[dg.AssetSpec(**asset_arguments(each, group, CODE_VERSION), deps=[listed]) for each in (table, rejected)],
        partitions_def=shard_partitions(corpus.name),
        backfill_policy=several_shards_per_run(),
    )
    def records(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        with open_step(context, lake, tracking) as step:
            shards = {shard.key: shard for shard in stored_shards(step, shards_table(corpus.name))}
            with step.progress(f"{corpus.name}: records", len(context.partition_keys), "shards") as progress:
                for key in context.partition_keys:
                    _read_shard(step, study, shards[key])
                    progress.advance(1)
            _check_rejected(step, study)
            _check_unique(step, study)
        for each in (table, rejected):
            yield dg.MaterializeResult(asset_key=each.key)

    return records


def rejected_rows(corpus: str, shard: str, stage: str, rejected: list[Rejected], stamp: str) -> pa.Table:
    """Rows of the table of rejected records."""
    rows = [
        {
            "shard": shard,
            "stage": stage,
            "location": one.location,
            "record_id": one.record_id,
            "reason": one.reason,
            "excerpt": one.excerpt,
            "fingerprint": stamp,
        }
        for one in rejected
    ]
    return pa.Table.from_pylist(rows, schema=rejected_table(corpus).schema)


def _read_shard(step: Step, study: Study, shard: Shard) -> None:
    corpus = study.spec.corpus
    table, rejected = records_table(corpus.name), rejected_table(corpus.name)
    stamp = fingerprint("records", CODE_VERSION, corpus.fields, corpus.format, shard.fingerprint)
    if step.is_current(table, stamp, shard.key):
        return
    parsed = parse_shard(corpus, study.base, shard)
    # The rejected first: a record is never in neither table, whenever the step is killed.
    step.write(
        rejected,
        rejected_rows(corpus.name, shard.key, "records", parsed.rejected, stamp),
        stamp,
        shard=shard.key,
        where={"shard": shard.key, "stage": "records"},
    )
    step.write(table, _record_rows(table, shard.key, parsed, stamp), stamp, shard=shard.key)


def _check_rejected(step: Step, study: Study) -> None:
    """Fails where too much of the corpus was set aside; the share is the whole corpus's (a shard may be one line)."""
    corpus = study.spec.corpus
    records = step.lake.scan(records_table(corpus.name), allow_empty=True).select(pl.len()).collect().item()
    columns = ("location", "record_id", "reason", "excerpt")
    rows = step.lake.scan(rejected_table(corpus.name), allow_empty=True).filter(stage="records").select(columns)
    rejected = [Rejected(**row) for row in rows.collect().to_dicts()]
    check_rejected_share(corpus, records, rejected)
    if rejected:
        where, first = rejected_table(corpus.name).path, rejected[0]
        note(f"{len(rejected)} of {records + len(rejected)} records are set aside in {where}")
        note(f"the first: {first.location}: {first.reason}")


def _check_unique(step: Step, study: Study) -> None:
    """Fails where two shards hold a record of one id: every score and ranking is kept by document id."""
    corpus = study.spec.corpus
    table = records_table(corpus.name)
    identities = step.lake.scan(table, allow_empty=True).select("record_id", "location")
    twice = identities.group_by("record_id").agg(pl.len(), pl.col("location").sort()).filter(pl.col("len") > 1)
    for record_id, count, locations in twice.sort("record_id").collect().iter_rows():
        raise BadInput(
            f"corpus {corpus.name}: record id {record_id!r} stands {count} times, at {locations[0]} and "
            f"{locations[1]}; make ids unique, or leave fields.id out to number records by file and line"
        )


def _record_rows(table: Table, shard: str, parsed: ParsedShard, stamp: str) -> pa.Table:
    rows = [
        {
            "shard": shard,
            "position": record.position,
            "record_id": record.record_id,
            "source": record.source,
            "text": record.text,
            "location": record.location,
            "fingerprint": stamp,
        }
        for record in parsed.records
    ]
    return pa.Table.from_pylist(rows, schema=table.schema)
