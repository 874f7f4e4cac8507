"""corpus/<corpus>/records, /rejected and /tombstones: a shard's source records as read, those that could not be, and
those that the source no longer holds."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.parsing import ParsedShard, Rejected, parse_shard, rejected_share_problem
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.shard_list import shards_table, source_key, stored_shards
from assets.corpus.shards import Shard
from assets.corpus.tombstones import TOMBSTONES_STORY, bury, tombstones_table
from assets.figures.previews import table_of
from assets.lake.columns import POSITION, RECORD_ID, SHARD, SOURCE, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.corpus import CorpusSpec
from assets.specs.study import Study
from assets.step.checks import Check, CheckFailedError, check_specs
from assets.step.declaring import AFTER_A_CRASH, dagster_name, spec_arguments
from assets.step.fingerprints import fingerprint
from assets.step.step import Step, run_step
from assets.tracking.progress import note
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

CODE_VERSION = "1"
STORY = "As read from the source files; what could not be read is in rejected, what is gone in tombstones."
REJECTED_STORY = "Bad records are set aside and counted, neither dropped nor fatal below max_rejected."


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
    stories = {records_table: STORY, rejected_table: REJECTED_STORY, tombstones_table: TOMBSTONES_STORY}
    group, checks = f"corpus_{corpus.name}", [_share_check(corpus.name), _unique_check(corpus.name)]
    deps = [source_key(corpus.name), shards_table(corpus.name).asset_key]

    @dg.multi_asset(
        name=dagster_name(f"{group}_records"),
        specs=[
            dg.AssetSpec(
                **spec_arguments(table(corpus.name), group, CODE_VERSION, story, owners=study.spec.owners), deps=deps
            )
            for table, story in stories.items()
        ],
        check_specs=check_specs(checks),
        partitions_def=shard_partitions(corpus.name),
        backfill_policy=several_shards_per_run(),
        retry_policy=AFTER_A_CRASH,
    )
    def records(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _read_shards(step, study), checks=checks)

    return records


def _share_check(corpus: str) -> Check:
    sentence = "No larger share of the corpus's records is set aside than max_rejected allows."
    return Check(records_table(corpus), "rejected_share", sentence)


def _unique_check(corpus: str) -> Check:
    return Check(records_table(corpus), "ids_unique", "No record id stands twice among the shards of the run.")


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


def records_stamp(corpus: CorpusSpec, shard: Shard) -> str:
    """The fingerprint of a shard's records: how they are read, and what the source holds."""
    return fingerprint("records", CODE_VERSION, corpus.fields, corpus.format, shard.fingerprint)


def _read_shards(step: Step, study: Study) -> None:
    corpus, keys = study.spec.corpus, step.context.partition_keys
    shards = {shard.key: shard for shard in stored_shards(step, shards_table(corpus.name))}
    for table in (records_table, rejected_table, tombstones_table):
        step.lake.ensure(table(corpus.name))
    rejected: list[Rejected] = []
    unread = _unread(step, study, shards.values())
    with step.progress(f"{corpus.name}: records", len(keys), "shards") as progress:

        def read(key: str) -> None:
            if key not in shards:
                raise BadInput(
                    f"corpus {corpus.name}: has no shard {key}; materialize its asset shards, which lists them"
                )
            rejected.extend(_read_shard(step, study, shards[key], unread))
            progress.advance(1)

        failure = _failure_of(lambda: step.each_shard(read, keys))
    _tell(corpus.name, rejected)
    problem = _look(step, study)  # also where a shard failed: the others are written
    if failure or problem:
        raise failure or CheckFailedError(problem)


def _failure_of(work: Callable[[], None]) -> Exception | None:
    try:
        work()
    except Exception as failure:
        return failure
    return None


def _look(step: Step, study: Study) -> str | None:
    """Both checks, of the tables as they are now; the first problem."""
    corpus, unique = study.spec.corpus.name, _unique_check(study.spec.corpus.name)
    share = step.report.look(_share_check(corpus), {"": too_many_rejected(step, study)})
    # Shards whose ids stood twice are looked at with the run's own: another run may have mended the other side.
    again = step.report.unmended(unique).keys() - set(step.done)
    twice = _twice(step, study, [*step.done, *again])
    step.report.look(unique, dict.fromkeys(again - twice.keys()))
    ids = step.report.look(
        unique, {shard: twice.get(shard) for shard in step.done}, metadata={"shards": len(step.done)}
    )
    return share or ids


def _read_shard(step: Step, study: Study, shard: Shard, unread: Collection[str]) -> list[Rejected]:
    """Reads one shard, unless it is there already or all of it is `unread`; the records that were set aside."""
    corpus = study.spec.corpus
    table, rejected = records_table(corpus.name), rejected_table(corpus.name)
    stamp = records_stamp(corpus, shard)
    if step.is_current(table, stamp if shard.records and shard.key not in unread else None, shard.key):
        return []
    parsed = parse_shard(corpus, study.base, shard)
    texts = {record.record_id: record.text for record in parsed.records}
    bury(step, corpus.name, table, shard.key, texts)
    # The rejected first: a record is never in neither table, whenever the step is killed.
    bad = rejected_rows(corpus.name, shard.key, "records", parsed.rejected, stamp)
    preview = {"set aside": table_of(pl.from_arrow(bad), columns=["location", "reason", "excerpt"])}
    of_stage = {"shard": shard.key, "stage": "records"}
    step.write(rejected, bad, stamp, shard=shard.key, where=of_stage, metadata=preview)
    rows = _record_rows(table, shard.key, parsed, stamp)
    first = table_of(pl.from_arrow(rows), columns=["record_id", "source", "text"])
    facts = {"source files": shard.state, "rejected": len(parsed.rejected), "first records": first}
    step.write(table, rows, stamp, shard=shard.key, metadata=facts)
    return parsed.rejected


def _unread(step: Step, study: Study, shards: Iterable[Shard]) -> set[str]:
    """Shards of which every record has been set aside, as they would be again. A step that was killed between its two
    tables has set some aside too, so they are counted."""
    corpus = study.spec.corpus
    table = rejected_table(corpus.name)
    rows, stamps = step.lake.partition_rows(table, where={"stage": "records"}), step.lake.fingerprints(table)
    return {
        shard.key
        for shard in shards
        if shard.records
        and rows.get(shard.key) == shard.records
        and stamps.get(shard.key) == records_stamp(corpus, shard)
    }


def _tell(corpus: str, rejected: list[Rejected]) -> None:
    if rejected:
        note(f"{len(rejected)} records are set aside in {rejected_table(corpus).path}")
        note(f"the first: {rejected[0].location}: {rejected[0].reason}")


def too_many_rejected(step: Step, study: Study) -> str | None:
    """The share is the whole corpus's (a shard may be one line); counts come from Delta's log, and rows are read only
    where there are too many of them."""
    corpus = study.spec.corpus
    table = rejected_table(corpus.name)
    records = sum(step.lake.partition_rows(records_table(corpus.name)).values())
    count = step.lake.partition_rows(table, "stage").get("records", 0)
    if count <= corpus.max_rejected * (records + count):
        return None
    columns = ("location", "record_id", "reason", "excerpt")
    rows = step.lake.scan(table, allow_empty=True).filter(stage="records").select(columns)
    return rejected_share_problem(corpus, records, [Rejected(**row) for row in rows.collect().to_dicts()])


def _twice(step: Step, study: Study, shards: Sequence[str]) -> dict[str, str]:
    """Shard -> sentence, for a record id that stands in it and again among these: scores are kept by document id.

    Only the run's own shards are looked at, so that one more shard costs the same in a corpus of any size; the whole
    corpus is looked at before rankings.
    """
    corpus = study.spec.corpus.name
    records = step.lake.scan(records_table(corpus), allow_empty=True).filter(pl.col("shard").is_in(list(shards)))
    ids = records.group_by("record_id").len().filter(pl.col("len") > 1).select("record_id").collect()["record_id"]
    if ids.is_empty():
        return {}
    found = (
        records.filter(pl.col("record_id").is_in(ids.implode()))
        .group_by("record_id")
        .agg(pl.len(), pl.col("location").sort().head(2), pl.col("shard").unique())
        .sort("record_id")
        .explode("shard")
        .group_by("shard", maintain_order=True)
        .first()
    ).collect()
    return {shard: twice_sentence(corpus, *row) for shard, *row in found.sort("shard").iter_rows()}


def twice_sentence(corpus: str, record_id: str, count: int, locations: Sequence[str]) -> str:
    """How a record id that is not unique is told."""
    return (
        f"corpus {corpus}: record id {record_id!r} stands {count} times, at {locations[0]} and "
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
