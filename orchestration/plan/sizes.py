"""How much there is to do: documents, tokens and queries, counted in the lake, or estimated from the files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from assets.corpus.documents import documents_table
from assets.corpus.parsing import field_value
from assets.corpus.shard_list import listed_shards
from assets.corpus.sources import open_corpus
from assets.queries.reading import read_queries
from assets.study.completions import completions_table
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.lake.lake import Lake
    from assets.specs.study import Study

CHARACTERS_PER_TOKEN = 4  # of English text, roughly
EXPANSION = 3  # of compressed files
COMPRESSED = (".gz", ".zst", ".parquet", ".pq")
FIRST_RECORDS = 100
MOST_QUERIES = 100_000  # whose ranks are listed, module by module, to choose routes


@dataclass(frozen=True)
class Corpus:
    """`tokens` is the mean per document; `origin` says where the numbers are from."""

    documents: int
    tokens: int
    shards: int
    origin: str


@dataclass(frozen=True)
class Queries:
    """`tokens` is the mean of prompt and completion, `new_tokens` of the completion alone, `generated` how many of the
    completions the model writes itself."""

    queries: int
    tokens: int
    new_tokens: int
    generated: int
    origin: str


def corpus_sizes(study: Study, lake: Lake) -> Corpus:
    """Counted where documents are in the lake. Raises BadInput where the corpus's files cannot be read."""
    spec = study.spec.corpus
    if lake.version(documents_table(spec.name)) is not None and (counted := _counted(study, lake)):
        return counted
    if spec.hub is not None:
        shards = math.ceil(spec.max_records / spec.shard_records)
        origin = "corpus.max_records, each record one document of corpus.max_tokens"
        return Corpus(spec.max_records, spec.max_tokens, shards, origin)
    return _estimated(study)


def _counted(study: Study, lake: Lake) -> Corpus | None:
    import polars as pl

    table = documents_table(study.spec.corpus.name)
    rows = lake.partition_rows(table)
    if not sum(rows.values()):
        return None
    mean = lake.collect(table, lake.scan(table).select(pl.col("tokens").mean()))["tokens"][0]
    listed = max(len(listed_shards(lake, study.spec.corpus.name)), len(rows))
    origin = "counted in the lake"
    if listed > len(rows):
        origin += f", where {len(rows)} of {listed} shards are cut so far"
    return Corpus(round(sum(rows.values()) * listed / len(rows)), round(mean), listed, origin)


def _estimated(study: Study) -> Corpus:
    spec = study.spec.corpus
    source = open_corpus(spec, study.base)
    first = [row for row in islice(source.reader.read(source.files[0]), FIRST_RECORDS) if row.record is not None]
    texts = [str(field_value(row.record, spec.fields.text) or "") for row in first]
    characters = max(1.0, sum(map(len, texts)) / max(1, len(texts)))
    raw = sum(len(row.raw) + 1 for row in first) / max(1, len(first)) if first and first[0].raw else characters
    size = sum(file.bytes * (EXPANSION if file.path.endswith(COMPRESSED) else 1) for file in source.files)
    records = max(1, round(size / raw))
    tokens = characters / CHARACTERS_PER_TOKEN
    windows = math.ceil(tokens / spec.max_tokens)
    origin = f"estimated from file sizes and {len(first)} records, {CHARACTERS_PER_TOKEN} characters a token"
    return Corpus(records * windows, max(2, round(tokens / windows)), math.ceil(records / spec.shard_records), origin)


def query_sizes(study: Study, lake: Lake) -> Queries:
    """Counted in completions where they are in the lake. Raises BadInput for a query file that cannot be read."""
    table, longest = completions_table(study.name), study.spec.options.max_new_tokens
    if lake.version(table) is not None:
        rows = lake.collect(table, lake.scan(table).select("prompt_token_ids", "completion_token_ids", "generated"))
        prompt, completion = (rows[f"{part}_token_ids"].list.len().mean() for part in ("prompt", "completion"))
        generated = int(rows["generated"].sum())
        return Queries(len(rows), round(prompt + completion), round(completion), generated, "counted in the lake")
    queries = read_queries(study.spec.queries, study.base)
    given = [math.ceil(len(each.completion) / CHARACTERS_PER_TOKEN) for each in queries if each.completion is not None]
    prompts = sum(math.ceil(len(each.prompt) / CHARACTERS_PER_TOKEN) for each in queries) / len(queries)
    generated = len(queries) - len(given)
    new = (sum(given) + generated * longest) / len(queries)
    origin = f"from the file, {CHARACTERS_PER_TOKEN} characters a token, the model's own completions at their longest"
    return Queries(len(queries), max(2, round(prompts + new)), max(1, round(new)), generated, origin)


def changed(
    corpus: Corpus,
    queries: Queries,
    *,
    documents: int | None,
    tokens: int | None,
    count: int | None,
    shard_records: int,
) -> tuple[Corpus, Queries]:
    """The sizes with what the caller says instead; shards and generated completions keep their proportion. A single
    shard may not be full: it is filled up to `shard_records` first.

    Raises BadInput for more queries than are planned.
    """
    if count is not None and count > MOST_QUERIES:
        raise BadInput(f"--queries: {count} is more than the {MOST_QUERIES} that a plan is made for; plan with fewer")
    if documents is not None:
        in_one = corpus.documents if corpus.shards > 1 else max(corpus.documents, shard_records)
        shards = max(1, math.ceil(corpus.shards * documents / in_one))
        corpus = replace(corpus, documents=documents, shards=shards, origin=f"{corpus.origin}; --documents")
    if tokens is not None:
        corpus = replace(corpus, tokens=tokens, origin=f"{corpus.origin}; --tokens")
    if count is not None:
        generated = round(queries.generated * count / queries.queries)
        queries = replace(queries, queries=count, generated=generated, origin=f"{queries.origin}; --queries")
    return corpus, queries
