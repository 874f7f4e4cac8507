"""The queries' low-rank gradients as the engine takes them, out of study/<study>/query_gradients.

They grow with the number of queries. Those that would take more memory than they may stand in a file on the disk that
is mapped into memory: what is not used just now the system can put out of it.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from assets.step.reading import Reading
from assets.study.query_gradients import query_gradients_table
from compute.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    import torch

    from compute.low_rank import LowRankGradient

KEY = ("method", "query_id", "module")
FLOAT = 4


def stored_gradients(
    step: Reading, study: str, most_bytes: int | None = None
) -> dict[tuple[str, str], dict[str, LowRankGradient]]:
    """The factors per module name, by method and query, sorted; in a mapped file where they take more than
    `most_bytes`.

    The table is streamed, and its rows may come in any order. Raises BadInput where the disk has no room for the file.
    """
    from compute.low_rank import LowRankGradient

    table = query_gradients_table(study)
    places = _places(step.scan(table))
    elements = int((places["left_size"] + places["right_size"]).dot(places["rank"]))
    values = _space(elements, mapped=most_bytes is not None and elements * FLOAT > most_bytes)
    starts = {tuple(row[name] for name in KEY): row for row in places.iter_rows(named=True)}
    for batch in step.batches(table):
        _place(batch, starts, values.numpy())
    gradients: dict[tuple[str, str], dict[str, LowRankGradient]] = {}
    for (method, query_id, module), row in starts.items():
        sizes = [row["rank"] * row[size] for size in ("left_size", "right_size")]
        left_RO, right_RI = (
            each.view(row["rank"], -1) for each in values[row["start"] : row["start"] + sum(sizes)].split(sizes)
        )
        gradients.setdefault((method, query_id), {})[module] = LowRankGradient(left_RO.T, right_RI.T)
    return gradients


def _places(rows: pl.LazyFrame) -> pl.DataFrame:
    """Per gradient of a module, sorted: its rank, what its vectors measure, and where it starts among all values."""
    import polars as pl

    ranks = rows.select(KEY).collect().group_by(KEY).agg(rank=pl.len()).sort(KEY)
    # All queries have the same modules: those of one tell how long vectors are, without reading those of the others.
    method, query_id = ranks.select(KEY[:2]).row(0)
    of_one = rows.filter(method=method, query_id=query_id, component=0)
    lengths = {f"{side}_size": pl.col(side).list.len().cast(pl.Int64) for side in ("left", "right")}
    sizes = of_one.select("module", **lengths).collect()
    placed = ranks.join(sizes, on="module", how="left", maintain_order="left")
    taken = pl.col("rank") * (pl.col("left_size") + pl.col("right_size"))
    return placed.with_columns(start=taken.cum_sum() - taken)


def _place(batch: pa.RecordBatch, starts: dict[tuple, dict], values: np.ndarray) -> None:
    """Copies the vectors of these rows to where they belong."""
    keys = zip(*(batch.column(name).to_pylist() for name in (*KEY, "component")), strict=True)
    sides = [batch.column(name) for name in ("left", "right")]
    flat = [side.values.to_numpy(zero_copy_only=True) for side in sides]
    bounds = [side.offsets.to_numpy() for side in sides]
    for number, (*key, component) in enumerate(keys):
        row = starts[tuple(key)]
        left, right = (each[ends[number] : ends[number + 1]] for each, ends in zip(flat, bounds, strict=True))
        at = row["start"] + component * row["left_size"]
        values[at : at + len(left)] = left
        at = row["start"] + row["rank"] * row["left_size"] + component * row["right_size"]
        values[at : at + len(right)] = right


def _space(elements: int, *, mapped: bool) -> torch.Tensor:
    import torch

    if not mapped:
        return torch.empty(elements)
    handle, name = tempfile.mkstemp(prefix="headwater-")
    try:
        _fill(handle, elements * FLOAT)  # a write to a file with holes would end the process where the disk is full
        return torch.from_file(name, shared=True, size=elements)
    except OSError as error:
        raise BadInput(
            f"{tempfile.gettempdir()}: the queries' gradients of {elements * FLOAT / 2**20:,.0f} MiB do not fit "
            f"({error.strerror}); raise options.memory_mib, or point TMPDIR to a disk with more room"
        ) from error
    finally:
        os.close(handle)
        os.unlink(name)  # it lasts as long as the mapping


def _fill(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(handle, 0, size)
        return
    zeros = bytes(2**20)
    while size > 0:
        size -= os.write(handle, zeros[:size])
