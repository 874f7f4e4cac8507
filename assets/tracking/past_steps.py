"""What MLflow recorded of steps that are over, for whoever plans the next ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from assets.tracking.tracked_run import mlflow_name

BYTES_WRITTEN = "bytes_written"
"""Metric of a step that wrote: bytes of all of its tables. One that kept everything has none."""
HARDWARE_TAG = "hardware"
DOCUMENTS = "documents"
"""Metric of a step that goes through a corpus, shard by shard: documents so far."""


WRITTEN_TAG = "delta."
"""Tags of a step begin so that tell, by its path, which version of a table it wrote."""


class NoTracking(Exception):
    """MLflow cannot be asked: a sentence that says why."""


@dataclass(frozen=True)
class PastStep:
    """A step that ended well and wrote. `documents` and `hardware` are None where they were not recorded."""

    seconds: float
    bytes_written: int
    documents: int | None
    hardware: str | None


def past_steps(client: Any, experiments: list[str], table: str, newest: int) -> list[PastStep]:
    """Those that wrote `table`, the newest first, by one query."""
    wrote = f"tags.`{WRITTEN_TAG}{mlflow_name(table)}` LIKE '%' and metrics.{BYTES_WRITTEN} > 0"
    wanted = f"{wrote} and attributes.status = 'FINISHED'"
    found = client.search_runs(experiments, wanted, max_results=newest, order_by=["attributes.start_time DESC"])
    return [_past_step(run) for run in found]


def _past_step(run: Any) -> PastStep:
    metrics, seconds = run.data.metrics, (run.info.end_time - run.info.start_time) / 1000
    documents = metrics.get(DOCUMENTS)
    return PastStep(
        seconds,
        int(metrics[BYTES_WRITTEN]),
        None if documents is None else int(documents),
        run.data.tags.get(HARDWARE_TAG),
    )
