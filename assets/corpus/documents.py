"""corpus/<corpus>/documents: records cut into windows of at most `max_tokens` tokens, which is what is scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from assets.corpus.parsing import Rejected
from assets.corpus.partitions import several_shards_per_run, shard_partitions
from assets.corpus.records import records_table, rejected_rows, rejected_table, too_many_rejected
from assets.corpus.tokenizer import foreign_tokenizer, stored_tokenizer, tokenizer_table
from assets.figures.charts import document_lengths
from assets.figures.previews import kept_figure, table_of
from assets.lake.columns import DOCUMENT_ID, POSITION, RECORD_ID, SHARD, SOURCE, STAMP, TOKEN_IDS, TOKENIZER
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.specs.corpus import CorpusSpec
from assets.specs.study import Study
from assets.step.checks import Check
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, Written, run_step
from assets.tracking.tracking import Tracking
from compute.errors import BadInput

if TYPE_CHECKING:
    from compute.batches import Sequence

CODE_VERSION = "1"
STORY = "What is scored; the windows of a record tile its text, and carry the tokens that the model reads."
EXCERPT_CHARACTERS = 200


def documents_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "documents"),
        grain="one row per document: a window of at most max_tokens tokens of one record",
        columns=(
            SHARD,
            POSITION,
            DOCUMENT_ID,
            RECORD_ID,
            Column("window", pa.int32(), "Number of the window within its record, from 0."),
            SOURCE,
            Column("text", pa.string(), "The window's text; the windows of a record tile it."),
            TOKEN_IDS,
            Column("tokens", pa.int32(), "Number of tokens, special ones included."),
            TOKENIZER,
            STAMP,
        ),
        partition_by=("shard",),
        sort_by=("document_id",),
        row_group_rows=1_000,  # one document is looked up without decompressing a whole shard
    )


def documents_asset(study: Study) -> dg.AssetsDefinition:
    """Cuts shards of records into documents."""
    corpus = study.spec.corpus
    table = documents_table(corpus.name)
    upstream = (records_table(corpus.name), rejected_table(corpus.name), tokenizer_table(corpus.name))

    checks = [_tokenizer_check(corpus.name), _keys_check(corpus.name)]

    @dg.asset(
        **asset_arguments(
            table,
            f"corpus_{corpus.name}",
            CODE_VERSION,
            STORY,
            owners=study.spec.owners,
            kinds=("huggingface",),
            checks=checks,
        ),
        deps=[each.asset_key for each in upstream],
        partitions_def=shard_partitions(corpus.name),
        backfill_policy=several_shards_per_run(),
    )
    def documents(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _cut_shards(step, study), checks=checks)

    return documents


def _tokenizer_check(corpus: str) -> Check:
    sentence = "The tokenizer that cuts the documents is the one that the model reads them with."
    return Check(documents_table(corpus), "tokenizers_equal", sentence)


def _keys_check(corpus: str) -> Check:
    sentence = "Each document belongs to a record of its shard, no id stands twice, and no record is lost on the way."
    return Check(documents_table(corpus), "keys_whole", sentence)


def _cut_shards(step: Step, study: Study) -> None:
    corpus, shards = study.spec.corpus, step.context.partition_keys
    if problem := too_many_rejected(step, study):  # the check of records stops only what runs with it
        raise BadInput(problem)
    tokenizer, tokenizer_stamp = stored_tokenizer(step, corpus.name)
    trained_here = study.spec.model.train  # such a model has no other tokenizer
    foreign = None if trained_here else foreign_tokenizer(step, study, study.spec.model)
    step.check(_tokenizer_check(corpus.name), foreign, metadata={"model is trained here": bool(trained_here)})
    records, table = records_table(corpus.name), documents_table(corpus.name)
    stamps = {shard: documents_stamp(corpus, tokenizer_stamp, step.fingerprint(records, shard)) for shard in shards}
    due = [shard for shard in shards if not step.is_current(table, stamps[shard], shard)]
    if not due:
        return
    pictured = False  # one a run: it costs more than cutting a shard
    with step.progress(f"{corpus.name}: documents", len(due), "shards") as progress:

        def read(shard: str) -> pl.DataFrame:
            return step.scan(records, shard=shard).sort("position").collect()

        def cut(shard: str, found: pl.DataFrame, look: Callable[[], None]) -> Callable[[], list[Written]]:
            nonlocal pictured
            done = _cut_shard(step, study, shard, found, tokenizer, tokenizer_stamp, stamps[shard])
            look()
            picture = {} if pictured else _picture(step, done)
            pictured = True
            progress.advance(1)
            return lambda: _write_shard(step, corpus, done, picture)

        step.each_shard_overlapped(due, read=read, work=cut)


def documents_stamp(corpus: CorpusSpec, tokenizer_stamp: str, records_stamp: str | None) -> str | None:
    """The fingerprint of a shard's documents; None where it has no records."""
    settings = (corpus.max_tokens, corpus.end_of_text, tokenizer_stamp)
    return records_stamp and fingerprint("documents", CODE_VERSION, *settings, records_stamp)


def document_identity(corpus: CorpusSpec) -> dict:
    """What pinned samples depend on: how documents are made, and not which shards have arrived."""
    return corpus.model_dump(mode="json", include={"name", "fields", "max_tokens", "end_of_text"})


@dataclass(frozen=True)
class ShardDocuments:
    """A shard's documents in the order of their records, as the engine takes them."""

    ids: list[str]
    sequences: list["Sequence"]

    @property
    def tokens(self) -> int:
        """Of all documents together, special ones included."""
        return sum(map(len, self.sequences))


def shard_documents(step: Reading, corpus: str, shard: str) -> ShardDocuments:
    """Raises BadInput where they were cut with another tokenizer."""
    columns = ("position", "document_id", "shard", "token_ids", TOKENIZER.name)
    rows = step.scan(documents_table(corpus), shard=shard).select(columns).sort("position").collect()
    refuse_other_tokenizer(step, corpus, rows)
    return ShardDocuments(rows["document_id"].to_list(), sequences_of(rows))


def sequences_of(rows: pl.DataFrame) -> list["Sequence"]:
    """Documents of these ids and tokens as the engine takes them: slices of one array, of four bytes a token as in the
    lake, where Python's integers would be nine times as much."""
    from compute.batches import Sequence

    lists = rows["token_ids"].to_arrow()
    tokens, ends = np.array(lists.values, np.int32), lists.offsets.to_pylist()
    slices = (tokens[start:end] for start, end in pairwise(ends))
    return [Sequence(*each) for each in zip(rows["document_id"].to_list(), slices, strict=True)]


def refuse_other_tokenizer(step: Reading, corpus: str, rows: pl.DataFrame) -> None:
    """Raises BadInput where documents were cut with another tokenizer than the corpus has now."""
    stored = step.scan(tokenizer_table(corpus)).select(TOKENIZER.name).first().collect().item()
    for shard in rows.filter(pl.col(TOKENIZER.name) != stored)["shard"]:
        raise BadInput(
            f"corpus {corpus}: shard {shard} was cut with another tokenizer than the corpus has now; "
            "materialize its documents again"
        )


@dataclass(frozen=True)
class _CutShard:
    """The rows of a shard's documents, and what was rejected of it."""

    shard: str
    data: pa.Table
    rejected: list[Rejected]
    stamp: str | None

    @property
    def frame(self) -> pl.DataFrame:
        return pl.from_arrow(self.data.select(["document_id", "source", "tokens", "text"]))


def _cut_shard(
    step: Step, study: Study, shard: str, records: pl.DataFrame, tokenizer, tokenizer_stamp: str, stamp: str | None
) -> _CutShard:
    """Raises CheckFailedError for documents that are not to be written."""
    corpus = study.spec.corpus.name
    rows, rejected = _windows(study, records.to_dicts(), tokenizer)
    problem = _lost_or_doubled(corpus, shard, records["record_id"], rows, rejected)
    step.check(_keys_check(corpus), problem, shard=shard)
    for position, row in enumerate(rows):
        row |= {"shard": shard, "position": position, "tokenizer_fingerprint": tokenizer_stamp, "fingerprint": stamp}
    return _CutShard(shard, pa.Table.from_pylist(rows, schema=documents_table(corpus).schema), rejected, stamp)


def _picture(step: Step, cut: _CutShard) -> dict:
    return kept_figure(step.tracking, "document_lengths", lambda: document_lengths(cut.frame))


def _write_shard(step: Step, corpus: CorpusSpec, cut: _CutShard, picture: dict) -> list[Written]:
    """Commits a shard's documents, after what was rejected of it: it may run beside the work on the next shard."""
    rejected = rejected_rows(corpus.name, cut.shard, "documents", cut.rejected, cut.stamp)
    where = {"shard": cut.shard, "stage": "documents"}
    facts = {
        "tokens": cut.frame["tokens"].sum(),
        "rejected windows": len(cut.rejected),
        "first documents": table_of(cut.frame),
    }
    return [
        step.commit(rejected_table(corpus.name), rejected, cut.stamp, where=where),
        step.commit(documents_table(corpus.name), cut.data, cut.stamp, shard=cut.shard, metadata=facts | picture),
    ]


def _lost_or_doubled(
    corpus: str, shard: str, records: pl.Series, rows: list[dict], rejected: list[Rejected]
) -> str | None:
    owners = {row["record_id"] for row in rows}
    where = f"corpus {corpus}: shard {shard}"
    if strangers := owners - set(records):
        return f"{where}: document of a record that is not there: {min(strangers)}"
    if lost := set(records) - owners - {one.record_id for one in rejected}:
        return f"{where}: {len(lost)} records have no document, such as {min(lost)}"
    if len({row["document_id"] for row in rows}) < len(rows):
        return f"{where}: two documents have one id"
    return None


def _windows(study: Study, records: list[dict], tokenizer) -> tuple[list[dict], list[Rejected]]:
    """Documents of a shard's records, and windows that are too short to carry any loss."""
    rows, rejected = [], []
    for record, window in _cut_records(study, records, tokenizer):
        text = record["text"][window.char_start : window.char_end]
        if len(window.token_ids) < 2:
            reason = f"Window {window.index} has fewer than two tokens, so none of them can be predicted."
            rejected.append(Rejected(record["location"], record["record_id"], reason, text[:EXCERPT_CHARACTERS]))
            continue
        rows.append(
            {
                "document_id": f"{record['record_id']}#{window.index}",
                "record_id": record["record_id"],
                "window": window.index,
                "source": record["source"],
                "text": text,
                "token_ids": window.token_ids,
                "tokens": len(window.token_ids),
            }
        )
    return rows, rejected


def _cut_records(study: Study, records: list[dict], tokenizer) -> Iterator[tuple[dict, object]]:
    from compute.windows import cut_windows_batch

    corpus = study.spec.corpus
    cut = cut_windows_batch(
        [record["text"] for record in records],
        tokenizer,
        max_tokens=corpus.max_tokens,
        end_of_text=corpus.end_of_text,
    )
    for record, windows in zip(records, cut, strict=True):
        yield from ((record, window) for window in windows)
