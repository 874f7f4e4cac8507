"""corpus/<corpus>/tokenizer: the model's own, or one trained on a pinned sample of the records.

A trained tokenizer depends on its settings alone: records that arrive later do not make it stale, since every
document would have to be cut anew. Materialize it by hand to train it again.
"""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pyarrow as pa

from assets.corpus.records import records_table
from assets.corpus.sampling import drawn
from assets.figures.previews import table_of
from assets.lake.columns import STAMP, TOKENIZER
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.specs.model import ModelSpec
from assets.specs.study import Study
from assets.step.declaring import asset_arguments
from assets.step.fingerprints import fingerprint
from assets.step.reading import Reading
from assets.step.step import Step, run_step
from assets.tracking.tracking import Tracking

CODE_VERSION = "1"
STORY = "The model's own, or trained on a pinned sample of the records; what arrives later does not change it."


def tokenizer_table(corpus: str) -> Table:
    return Table(
        key=("corpus", corpus, "tokenizer"),
        grain="one row per file of the tokenizer",
        columns=(
            Column("file", pa.string(), "Name of the file in a Hugging Face checkpoint."),
            Column("content", pa.binary(), "The file."),
            TOKENIZER,
            STAMP,
        ),
    )


def tokenizer_asset(study: Study) -> dg.AssetsDefinition:
    """Trains the corpus's tokenizer, or takes it from the model's checkpoint."""
    corpus = study.spec.corpus
    table = tokenizer_table(corpus.name)
    upstream = records_table(corpus.name) if corpus.tokenizer.train else checkpoint_table(study.spec.model.name)

    @dg.asset(
        **asset_arguments(
            table, f"corpus_{corpus.name}", CODE_VERSION, STORY, owners=study.spec.owners, kinds=("huggingface",)
        ),
        deps=[upstream.asset_key],
    )
    def tokenizer(context: dg.AssetExecutionContext, lake: Lake, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        yield from run_step(context, lake, tracking, lambda step: _train_or_take(step, study, table, upstream))

    return tokenizer


def _train_or_take(step: Step, study: Study, table: Table, upstream: Table) -> None:
    corpus = study.spec.corpus
    origin = corpus.tokenizer.train or step.fingerprint(upstream)
    settings = fingerprint("tokenizer", CODE_VERSION, origin, corpus.fields)
    if step.is_pinned(table, settings):
        return
    trained_or_taken = _tokenizer(step, study)
    stamp, rows = _tokenizer_rows(trained_or_taken, table)
    facts = {"vocabulary": len(trained_or_taken), "tokens": _first_tokens(trained_or_taken)}
    step.write(table, rows, stamp, settings=settings, metadata=facts)


def _first_tokens(tokenizer) -> dg.MarkdownMetadataValue:
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])[:12]
    return table_of(pl.DataFrame(by_id, schema=["token", "id"], orient="row"), limit=12)


def stored_tokenizer(step: Reading, corpus: str):
    """The corpus's tokenizer as transformers loads it, and its fingerprint."""
    from compute.tokenizer import load_tokenizer_files

    rows = step.scan(tokenizer_table(corpus)).collect()
    return load_tokenizer_files(dict(zip(rows["file"], rows["content"], strict=True))), rows[TOKENIZER.name][0]


def foreign_tokenizer(step: Reading, study: Study, model: ModelSpec) -> str | None:
    """The sentence for a model whose own tokenizer is not the corpus's, or None.

    The documents' token ids mean to a model what they should only where its own tokenizer made them.
    """
    from compute.checkpoint import load_tokenizer
    from compute.tokenizer import tokenizer_fingerprint

    tokenizer = load_tokenizer(model.location(study.base), revision=model.revision)
    if tokenizer_fingerprint(tokenizer) == stored_tokenizer(step, study.spec.corpus.name)[1]:
        return None
    return (
        f"model {model.name}: its tokenizer is not the one that corpus {study.spec.corpus.name} was cut with; "
        "materialize the corpus's tokenizer and documents again, or name the model that they belong to"
    )


def _tokenizer(step: Step, study: Study):
    from compute.checkpoint import load_tokenizer
    from compute.tokenizer import train_tokenizer

    training = study.spec.corpus.tokenizer.train
    if training:
        texts = _sampled_texts(step, study.spec.corpus.name, training.sample_records, training.seed)
        return train_tokenizer(texts, vocab_size=training.vocab_size)
    return load_tokenizer(study.spec.model.location(study.base), revision=study.spec.model.revision)


def _tokenizer_rows(tokenizer, table: Table) -> tuple[str, pa.Table]:
    """The fingerprint of the tokenizer's content, and its files as rows."""
    from compute.tokenizer import tokenizer_files, tokenizer_fingerprint

    identity = tokenizer_fingerprint(tokenizer)
    stamp = fingerprint("tokenizer", CODE_VERSION, identity)
    rows = [
        {"file": name, "content": content, "tokenizer_fingerprint": identity, "fingerprint": stamp}
        for name, content in tokenizer_files(tokenizer).items()
    ]
    return stamp, pa.Table.from_pylist(rows, schema=table.schema)


def _sampled_texts(step: Step, corpus: str, sample: int, seed: int) -> Iterator[str]:
    """The records whose hashed id is smallest, so that the sample depends on neither order nor shards."""
    table = records_table(corpus)
    identities = step.scan(table).select("record_id", "shard").collect()
    sampled = drawn(identities, "record_id", sample, seed)
    wanted = set(sampled["record_id"])
    for shard in sorted(set(sampled["shard"])):
        rows = step.scan(table, shard=shard).sort("position").select("record_id", "text").collect()
        yield from (text for record_id, text in rows.iter_rows() if record_id in wanted)
