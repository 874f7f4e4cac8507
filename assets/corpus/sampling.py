"""Samples that depend on ids and a seed alone: not on order, shards, workers or a library's version."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def drawn(rows: pl.DataFrame, id_column: str, sample: int, seed: int) -> pl.DataFrame:
    """The `sample` rows whose ids hash lowest under `seed`, in the order of their hashes (all rows, if fewer)."""
    import polars as pl

    hashes = [_draw(seed, identity) for identity in rows[id_column]]
    return rows.with_columns(pl.Series("_draw", hashes, pl.UInt64)).sort("_draw", id_column).drop("_draw").head(sample)


def _draw(seed: int, identity: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest(), "little")
