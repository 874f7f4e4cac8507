"""A pinned sample of a corpus's documents: drawn by hash over all shards, and kept with its tokens.

The sample keeps the token ids themselves, so that what was computed on it can be repeated after the corpus changed. New
shards do not make it stale; materialize it by hand to draw from what the corpus holds then.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from assets.corpus.documents import document_identity, documents_table, sequences_of
from assets.corpus.sampling import drawn
from assets.corpus.tokenizer import tokenizer_table
from assets.figures.charts import document_lengths
from assets.figures.previews import kept_figure, table_of
from assets.lake.columns import DOCUMENT_ID, POSITION, SHARD, STAMP, TOKEN_IDS
from assets.lake.tables import Column, Table
from assets.step.fingerprints import fingerprint
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.specs.corpus import CorpusSpec
    from assets.step.reading import Reading
    from assets.step.step import Step
    from compute.batches import Sequence

SAMPLE_ROWS = 1_000


def table_of_sample(key: tuple[str, ...], grain: str) -> Table:
    """The table of such a sample."""
    return Table(
        key=key,
        grain=grain,
        columns=(
            POSITION,
            DOCUMENT_ID,
            SHARD,
            Column("documents_version", pa.int64(), "Delta version of the corpus's documents that it was read from."),
            TOKEN_IDS,
            STAMP,
        ),
        sort_by=("position",),
        row_group_rows=SAMPLE_ROWS,
    )


def sample_settings(step: Step, stage: str, code_version: str, corpus: CorpusSpec, count: int, seed: int) -> str:
    """What a sample is drawn under: while it stays the same, the sample does (`Step.is_pinned`)."""
    tokenizer = step.fingerprint(tokenizer_table(corpus.name))
    return fingerprint(stage, code_version, count, seed, document_identity(corpus), tokenizer)


def write_sample(
    step: Step, table: Table, corpus: CorpusSpec, count: int, seed: int, settings: str, purpose: str
) -> pl.DataFrame:
    """Draws the sample and writes it: the `count` documents whose ids hash lowest under `seed` (all, if fewer).

    Gives document_id, shard and token_ids of what was drawn. Raises BadInput where there is no document, which names
    the `purpose`.
    """
    rows = _drawn_documents(step, corpus, count, seed, purpose)
    stamp = fingerprint(settings, _content(rows))
    columns = {
        "documents_version": pa.array([step.version(documents_table(corpus.name))] * len(rows), pa.int64()),
        "fingerprint": pa.array([stamp] * len(rows)),
        "position": pa.array(range(len(rows)), pa.int64()),
    }
    data = {name: rows[name].to_arrow() for name in ("document_id", "shard", "token_ids")} | columns
    lengths = rows.select("document_id", "shard", tokens=pl.col("token_ids").list.len())
    figure = kept_figure(step.tracking, "document_lengths", lambda: document_lengths(lengths))
    preview = {"documents": table_of(lengths), **figure}
    step.write(table, pa.table(data), stamp, settings=settings, metadata=preview)
    return rows


def stored_sample(step: Reading, table: Table) -> list[Sequence]:
    """The pinned documents as the engine takes them."""
    return sequences_of(step.scan(table).select("position", "document_id", "token_ids").sort("position").collect())


def _drawn_documents(step: Step, corpus: CorpusSpec, count: int, seed: int, purpose: str) -> pl.DataFrame:
    documents = documents_table(corpus.name)
    identities = step.scan(documents).select("document_id", "shard").collect()
    if identities.is_empty():
        raise BadInput(f"corpus {corpus.name}: holds no documents to {purpose}")
    chosen = drawn(identities, "document_id", count, seed)
    listed = pl.col("shard").is_in(chosen["shard"].unique()) & pl.col("document_id").is_in(chosen["document_id"])
    tokens = step.scan(documents).filter(listed).select("document_id", "token_ids").collect()
    return chosen.join(tokens, on="document_id", how="left", maintain_order="left")


def _content(rows: pl.DataFrame) -> str:
    """A digest of the sampled documents and their tokens, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for document_id, token_ids in rows.select("document_id", "token_ids").iter_rows():
        digest.update(f"{document_id}\0{token_ids}\n".encode())
    return digest.hexdigest()
