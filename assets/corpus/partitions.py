"""A corpus's shards as Dagster partitions: one dynamic partition per shard, several of them in one run."""

from __future__ import annotations

import dagster as dg

SHARDS_PER_RUN = 100
"""Shards that one run of a backfill takes, since loading the model costs more than scoring a small shard."""


def shard_partitions(corpus: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=partitions_name(corpus))


def partitions_name(corpus: str) -> str:
    return f"corpus/{corpus}"


def several_shards_per_run() -> dg.BackfillPolicy:
    return dg.BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN)
