"""The documents that an index proposes for a query, by one scan over its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from assets.study.document_index import document_index_table, shards_to_index
from compute.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from assets.specs.study import Study
    from assets.step.reading import Reading
    from assets.study.opened import OpenedStudy
    from assets.study.own_query import AskedQuery
    from compute.sign_codes import CodeQuery

ROWS = 4_096
FOUND = {"document_id": pl.String, "estimate": pl.Float32, "norm": pl.Float32}


def refuse_without_index(reading: Reading, study: Study) -> None:
    """Raises BadInput where the study has no index, or not of all documents, model, curvature and options as they are
    now."""
    table, whole = document_index_table(study.name), "go through the whole corpus (headwater ask --exact)"
    if study.spec.options.index is None:
        raise BadInput(
            f"study {study.name}: has no index of its documents; add options.index to its file and run it, or {whole}"
        )
    if reading.lake.version(table) is None:
        raise BadInput(f"study {study.name}: its index of documents is not made yet; run the study, or {whole}")
    if other := shards_to_index(reading, study):
        stored = reading.shard_fingerprints(table)
        what = "not indexed" if other[0] not in stored else "indexed with another fit, model, text or options"
        count = len(stored.keys() | set(other))
        raise BadInput(
            f"study {study.name}: {len(other)} of {count} shards are not in its index as they are now (shard "
            f"{other[0]} is {what}); run the study again, or {whole}"
        )


def proposed_documents(opened: OpenedStudy, asked: AskedQuery, *, normed: bool, count: int) -> pl.DataFrame:
    """The `count` documents with the highest estimated EK-FAC scores (÷ norm), best first, of columns `FOUND`.

    Raises BadInput as `refuse_without_index` does.
    """
    refuse_without_index(opened.reading, opened.study)
    direction = {name: factors.dense() for name, factors in asked.gradients["ekfac"].items()}
    return scan_index(opened, direction, normed=normed, count=count)


def scan_index(opened: OpenedStudy, direction: Mapping[str, Tensor], *, normed: bool, count: int) -> pl.DataFrame:
    """The same of an index that is known to be there; memory holds a batch of rows and the best so far."""
    from compute.sign_codes import CodeQuery

    query = CodeQuery(opened.sketch.of_direction(direction))
    order = pl.when(pl.col("norm") > 0).then(pl.col("estimate") / pl.col("norm")).otherwise(0.0)
    by, best = order if normed else pl.col("estimate"), pl.DataFrame(schema=FOUND)
    for found in estimated_batches(opened.reading, opened.study, query):
        best = pl.concat([best, found]).sort(by, "document_id", descending=[True, False]).head(count)
    return best


def estimated_batches(reading: Reading, study: Study, query: CodeQuery) -> Iterator[pl.DataFrame]:
    """The documents of the index with their estimated scores, of columns `FOUND`, a batch of rows at a time."""
    for batch in index_batches(reading, study):
        columns = {name: pl.from_arrow(batch.column(name)) for name in ("document_id", "norm")}
        estimates = query.estimates(codes_of(batch), batch.column("factor").to_numpy())
        yield pl.DataFrame(columns | {"estimate": estimates}).select(
            pl.col(name).cast(kind) for name, kind in FOUND.items()
        )


def index_batches(reading: Reading, study: Study, shard: str | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of the index, or of one shard of it, some thousand at a time."""
    table = document_index_table(study.name)
    return reading.lake.read_batches(
        table,
        columns=("document_id", "code", "factor", "norm"),
        where={"shard": shard} if shard else None,
        version=reading.version(table),
        batch_rows=ROWS,
    )


def codes_of(batch: pa.RecordBatch) -> np.ndarray:
    """The codes of a batch as rows of bytes, without copying them."""
    column = batch.column("code")
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.reshape(len(column), -1)
